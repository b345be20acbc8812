"""Responses are compressed for clients that accept gzip, unless they are streams or downloads."""

from __future__ import annotations

import gzip

import pytest

from polyjob.api.compression import MIN_COMPRESSED_BYTES
from polyjob.storage.store import Store

from .conftest import JOBS

GZIP = {"Accept-Encoding": "gzip, deflate, br"}
PAGE = {"Accept": "text/html"}


def sizes(client, path, **headers):
    """Return the plain body, and the compressed one after a check of its headers."""
    plain, packed = client.get(path, headers=headers), client.get(path, headers=GZIP | headers)
    assert "Content-Encoding" not in plain.headers
    assert packed.headers["Content-Encoding"] == "gzip"
    assert all("Accept-Encoding" in answer.headers["Vary"] for answer in (plain, packed))
    assert packed.headers["Content-Length"] == str(len(packed.data))
    return plain.data, packed.data


@pytest.mark.parametrize(
    "path", ["/openapi.json", "/static/pages.js", "/static/pages.css", "/docs/api", f"{JOBS}?limit=9"]
)
def test_documents_are_compressed(client, path):
    for _ in range(9):
        client.submit()
    plain, packed = sizes(client, path)
    assert gzip.decompress(packed) == plain
    assert len(packed) < len(plain) / 2


@pytest.mark.parametrize("accepted", ["", "identity", "br", "gzip;q=0", "identity, gzip;q=0.5"])
def test_clients_without_gzip_get_the_plain_body(client, accepted):
    answer = client.get("/openapi.json", headers={"Accept-Encoding": accepted})
    assert "Content-Encoding" not in answer.headers
    assert answer.json["openapi"]


def test_small_responses_are_not_compressed(client):
    answer = client.get(JOBS, headers=GZIP)
    assert len(answer.data) < MIN_COMPRESSED_BYTES
    assert "Content-Encoding" not in answer.headers


@pytest.mark.parametrize("path", ["/static/pages.css", JOBS])
def test_etag_of_a_compressed_response_is_weak_and_matches(client, path):
    for _ in range(9):
        client.submit()
    answer = client.get(path, headers=GZIP)
    assert answer.headers["Content-Encoding"] == "gzip"
    assert answer.headers["ETag"].startswith('W/"')
    for headers in ({}, GZIP):
        unchanged = client.get(path, headers=headers | {"If-None-Match": answer.headers["ETag"]})
        assert (unchanged.status_code, unchanged.data) == (304, b"")
        assert "Accept-Encoding" in unchanged.headers["Vary"]


@pytest.mark.parametrize("query", ["", "?follow=true", "?tail=5"])
def test_logs_are_not_compressed(client, data_dir, query):
    job = client.submit()
    store = Store(data_dir)
    store.make_job_folder(job["uuid"])
    store.job_log(job["uuid"]).write_bytes(b"line\n" * 1000)
    client.post(f"{JOBS}/{job['id']}/stop")
    answer = client.get(f"{JOBS}/{job['id']}/logs{query}", headers=GZIP)
    assert answer.data.startswith(b"line\n")
    assert "Content-Encoding" not in answer.headers


def test_events_are_not_compressed(client, data_dir):
    job = client.submit()
    store = Store(data_dir)
    store.make_job_folder(job["uuid"])
    store.job_log(job["uuid"]).write_bytes(b"line\n" * 1000)
    client.post(f"{JOBS}/{job['id']}/stop")
    events = client.get(f"{JOBS}/{job['id']}/logs", headers=GZIP | {"Accept": "text/event-stream"})
    assert events.mimetype == "text/event-stream"
    assert "Content-Encoding" not in events.headers
