"""Downloads of logs, ranges, following, and text sent by clients."""

from __future__ import annotations

import dataclasses
import json
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from polyjob.api import logs
from polyjob.app import create_app
from polyjob.auth.tokens import digest
from polyjob.clock import now
from polyjob.db.database import write
from polyjob.db.models import Build, Job, Project, Token, User
from polyjob.formatting import LOG_FRAMES
from polyjob.logs.watcher import Watcher
from polyjob.services.transitions import insert_first_status, transition
from polyjob.settings import Settings
from polyjob.statuses import Status
from polyjob.storage.store import Store
from runners.common.log_times import append_times

from ..background import soon

KEY = "a" * 40
LIVE_END = 9007199254740991


@pytest.fixture
def client(app: Flask, user: User, watcher: Watcher) -> Iterator[FlaskClient]:
    with write("test"):
        Token.create(user=user, name="test", digest=digest(KEY), created_at=now())
    yield app.test_client()
    watcher.close()
    watcher.limit = 112


def make_job(project: Project, **columns: Any) -> Job:
    values = {"uuid": uuid.uuid4().hex, "is_managed": False, "runner": "fake"} | columns
    with write("test"):
        job = Job.create(project=project, user=project.user, created_at=now(), updated_at=now(), **values)
        insert_first_status(job)
    return job


@pytest.fixture
def job(project: Project) -> Job:
    return make_job(project)


@pytest.fixture
def log(job: Job, data_dir: Path) -> Path:
    """The path of the job's log. Its folder exists, the file does not."""
    path = Store(data_dir).job_log(job.uuid)
    path.parent.mkdir(parents=True)
    return path


def end(run: Job) -> None:
    with write("test"):
        assert transition(run, Status.SUCCEEDED)


def url(job: Job, query: str = "") -> str:
    return f"/api/v1/ana/demo/jobs/{job.id}/logs{query}"


def get(client: FlaskClient, path: str, method: str = "GET", key: str = KEY, **headers: str) -> TestResponse:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return client.open(path, method=method, headers={"Authorization": f"token {key}"} | named)


# The whole log.


def test_log_is_returned_unchanged(client: FlaskClient, job: Job, log: Path) -> None:
    content = bytes(range(256)) * 1000 + b"<script>\r\n\xff\xfe no newline"
    log.write_bytes(content)
    response = get(client, url(job))
    assert response.status_code == 200
    assert response.data == content
    assert response.headers["Content-Type"] == "text/plain; charset=utf-8"
    assert response.headers["Content-Length"] == str(len(content))
    assert response.headers["X-Content-Type-Options"] == "nosniff"
    assert response.headers["Accept-Ranges"] == "bytes"
    assert response.headers["Content-Disposition"] == f"attachment; filename=ana_demo_jobs_{job.id}.log"


@pytest.mark.parametrize("path", ["/jobs/{}/logs", "/jobs/{}/logs/", "//jobs/{}/logs", "//jobs/{}/logs/"])
def test_path_may_have_extra_slashes(client: FlaskClient, job: Job, log: Path, path: str) -> None:
    log.write_bytes(b"here")
    response = get(client, "/api/v1/ana/demo" + path.format(job.id))
    assert (response.status_code, response.data) == (200, b"here")


def test_missing_log_is_empty(client: FlaskClient, job: Job) -> None:
    for query in ("", "?tail=5", "?offset=7"):
        response = get(client, url(job, query))
        assert (response.status_code, response.data, response.headers["Content-Length"]) == (200, b"", "0")


def test_length_is_correct_while_the_log_grows(client: FlaskClient, job: Job, log: Path) -> None:
    log.write_bytes(b"1234")
    response = client.get(url(job), headers={"Authorization": f"token {KEY}"}, buffered=False)
    with log.open("ab") as writer:
        writer.write(b"5678")
    assert response.headers["Content-Length"] == "4"
    assert response.data == b"1234"


def test_head_has_the_length_and_no_body(client: FlaskClient, job: Job, log: Path, watcher: Watcher) -> None:
    log.write_bytes(b"123456")
    response = get(client, url(job), "HEAD")
    assert (response.status_code, response.data, response.headers["Content-Length"]) == (200, b"", "6")
    response = get(client, url(job, "?follow=true"), "HEAD")
    assert (response.status_code, response.data, response.content_length) == (200, b"", None)
    assert len(watcher) == 0


def test_log_of_a_build_is_returned(client: FlaskClient, project: Project, data_dir: Path) -> None:
    with write("test"):
        build = Build.create(
            uuid=uuid.uuid4().hex,
            project=project,
            user=project.user,
            config={},
            runner="fake",
            key="0",
            key_parts={},
            created_at=now(),
            updated_at=now(),
        )
    path = Store(data_dir).build_log(build.uuid)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"step 1\n")
    response = get(client, f"/api/v1/ana/demo/builds/{build.id}/logs")
    assert (response.status_code, response.data) == (200, b"step 1\n")
    assert f"ana_demo_builds_{build.id}.log" in response.headers["Content-Disposition"]


# Parts.


@pytest.mark.parametrize(
    ("range_header", "part", "named"),
    [
        ("bytes=0-3", b"0123", "bytes 0-3/10"),
        ("bytes=4-", b"456789", "bytes 4-9/10"),
        ("bytes=-2", b"89", "bytes 8-9/10"),
        ("bytes=-200", b"0123456789", "bytes 0-9/10"),
        ("bytes=8-100", b"89", "bytes 8-9/10"),
        ("bytes=9-9", b"9", "bytes 9-9/10"),
    ],
)
def test_one_range_is_partial_content(
    client: FlaskClient, job: Job, log: Path, range_header: str, part: bytes, named: str
) -> None:
    log.write_bytes(b"0123456789")
    response = get(client, url(job), Range=range_header)
    assert (response.status_code, response.data, response.headers["Content-Range"]) == (206, part, named)
    assert response.headers["Content-Length"] == str(len(part))


@pytest.mark.parametrize("range_header", ["bytes=10-", "bytes=99-100"])
def test_range_beyond_the_end_is_not_satisfiable(client: FlaskClient, job: Job, log: Path, range_header: str) -> None:
    log.write_bytes(b"0123456789")
    response = get(client, url(job), Range=range_header)
    assert (response.status_code, response.headers["Content-Range"]) == (416, "bytes */10")


@pytest.mark.parametrize("range_header", ["bytes=0-1,4-5", "lines=0-1", "bytes=x", "bytes=5-2"])
def test_unsupported_ranges_get_the_whole_log(client: FlaskClient, job: Job, log: Path, range_header: str) -> None:
    log.write_bytes(b"0123456789")
    response = get(client, url(job), Range=range_header)
    assert (response.status_code, response.data) == (200, b"0123456789")


def test_if_range_accepts_earlier_states(client: FlaskClient, job: Job, log: Path) -> None:
    """Existing bytes never change, so the ETag of a shorter log is valid for a range of a longer one."""
    log.write_bytes(b"0123")
    etag = get(client, url(job)).headers["ETag"]
    with log.open("ab") as writer:
        writer.write(b"4567")
    assert get(client, url(job), Range="bytes=4-", If_Range=etag).data == b"4567"
    assert get(client, url(job), Range="bytes=4-", If_Range='"another-8"').data == b"01234567"
    assert get(client, url(job), Range="bytes=4-", If_Range="Mon, 23 Nov 2026 10:00:00 GMT").status_code == 200


def test_unchanged_log_is_not_modified(client: FlaskClient, job: Job, log: Path) -> None:
    log.write_bytes(b"0123")
    etag = get(client, url(job)).headers["ETag"]
    response = get(client, url(job), If_None_Match=etag)
    assert (response.status_code, response.data, response.headers["ETag"]) == (304, b"", etag)
    with log.open("ab") as writer:
        writer.write(b"4")
    assert get(client, url(job), If_None_Match=etag).status_code == 200


@pytest.mark.parametrize(
    ("content", "lines", "tail"),
    [
        (b"a\nb\nc\n", 1, b"c\n"),
        (b"a\nb\nc\n", 2, b"b\nc\n"),
        (b"a\nb\nc", 1, b"c"),
        (b"a\nb\nc", 3, b"a\nb\nc"),
        (b"a\nb\n\n", 2, b"b\n\n"),
        (b"a\nb\n", 0, b""),
        (b"a\nb\n", 999999, b"a\nb\n"),
        (b"\n", 1, b"\n"),
        (b"x" * 200_000 + b"\n" + b"y" * 200_000, 1, b"y" * 200_000),
        (b"first\n" + b"z\n" * 100_000, 100_000, b"z\n" * 100_000),
        (b"first\n" + b"z\n" * 100_000, 100_001, b"first\n" + b"z\n" * 100_000),
    ],
)
def test_tail_returns_the_last_lines(
    client: FlaskClient, job: Job, log: Path, content: bytes, lines: int, tail: bytes
) -> None:
    log.write_bytes(content)
    assert get(client, url(job, f"?tail={lines}")).data == tail


@pytest.mark.parametrize(("offset", "rest"), [(0, b"0123456789"), (4, b"456789"), (10, b""), (99, b"")])
def test_offset_returns_the_remaining_bytes(client: FlaskClient, job: Job, log: Path, offset: int, rest: bytes) -> None:
    log.write_bytes(b"0123456789")
    response = get(client, url(job, f"?offset={offset}"))
    assert (response.status_code, response.data) == (200, rest)


def test_range_is_relative_to_tail_and_offset(client: FlaskClient, job: Job, log: Path) -> None:
    log.write_bytes(b"0123456789")
    response = get(client, url(job, "?offset=4"), Range="bytes=1-2")
    assert (response.status_code, response.data, response.headers["Content-Range"]) == (206, b"56", "bytes 1-2/6")


@pytest.mark.parametrize(
    ("query", "named"),
    [
        ("?tail=-1", {"tail"}),
        ("?tail=", {"tail"}),
        ("?tail=1e3", {"tail"}),
        ("?tail=²", {"tail"}),
        ("?offset=" + "9" * 30, {"offset"}),
        ("?offset=x&follow=perhaps", {"offset", "follow"}),
        ("?tail=1&offset=1", {"tail"}),
    ],
)
def test_invalid_parameters_are_named(client: FlaskClient, job: Job, query: str, named: set[str]) -> None:
    response = get(client, url(job, query))
    assert response.status_code == 400
    assert response.json.keys() - {"detail"} == named


# Followed.


def test_follow_ends_with_the_job(client: FlaskClient, job: Job, log: Path, watcher: Watcher) -> None:
    log.write_bytes(b"early ")

    def work() -> None:
        with log.open("ab", buffering=0) as writer:
            for number in range(100):
                writer.write(b"%d " % number)
        end(job)

    with soon(work, 0.05):
        response = get(client, url(job, "?follow=true"))
    assert response.status_code == 200
    assert response.content_length is None
    assert response.data == b"early " + b"".join(b"%d " % number for number in range(100))
    assert len(watcher) == 0


def frames_of(data: bytes) -> list[bytes]:
    frames = []
    while data:
        length = int.from_bytes(data[:4])
        frames.append(data[4 : 4 + length])
        data = data[4 + length :]
    return frames


@pytest.mark.parametrize("query", ["?follow=true", "?follow=true&offset=3", "?follow=true&times=true"])
def test_followed_log_comes_in_frames_on_request(
    client: FlaskClient, job: Job, log: Path, watcher: Watcher, monkeypatch: pytest.MonkeyPatch, query: str
) -> None:
    monkeypatch.setattr(logs, "HEARTBEAT_SECONDS", 0.01)
    log.write_bytes(b"one\ntwo\n")
    headers = {"Authorization": f"token {KEY}", "Accept": f"{LOG_FRAMES}, */*"}
    response = client.get(url(job, query), headers=headers, buffered=False)
    stream = response.iter_encoded()
    assert response.content_type == LOG_FRAMES
    received = b""
    while frames_of(received).count(b"") < 3:  # the first one, and two while nothing is written
        received += next(stream)
    end(job)
    frames = frames_of(received + b"".join(stream))
    assert b"".join(frames).endswith(b"two\n" if "times" in query else b"one\ntwo\n"[3 * ("offset" in query) :])
    assert frames[0] == b""
    assert len(watcher) == 0
    done = client.get(url(job, query), headers=headers)
    assert done.content_type == "text/plain; charset=utf-8"
    assert done.data == b"".join(frames)


@pytest.mark.parametrize(
    ("query", "range_header", "status", "rest"),
    [
        ("?follow=true&tail=1", None, 200, b"two\nthree\n"),
        ("?follow=1&offset=6", None, 200, b"o\nthree\n"),
        ("?follow=true", "bytes=6-", 206, b"o\nthree\n"),
        ("?follow=true", f"bytes=6-{LIVE_END}", 206, b"o\nthree\n"),
        ("?follow=true", "bytes=-2", 206, b"o\nthree\n"),
        ("?follow=true", "bytes=0-1", 200, b"one\ntwo\nthree\n"),
    ],
)
def test_follow_may_start_at_an_offset(
    client: FlaskClient, job: Job, log: Path, query: str, range_header: str | None, status: int, rest: bytes
) -> None:
    log.write_bytes(b"one\ntwo\n")
    response = client.get(
        url(job, query),
        headers={"Authorization": f"token {KEY}"} | ({"Range": range_header} if range_header else {}),
        buffered=False,
    )
    assert response.status_code == status
    if status == 206:
        assert response.headers["Content-Range"] == f"bytes 6-{LIVE_END}/*"
    with log.open("ab") as writer:
        writer.write(b"three\n")
    end(job)
    assert response.data == rest


def test_follow_of_a_done_job_takes_no_slot(client: FlaskClient, job: Job, log: Path, watcher: Watcher) -> None:
    log.write_bytes(b"0123456789")
    end(job)
    watcher.limit = 0
    response = get(client, url(job, "?follow=true&offset=4"))
    assert (response.status_code, response.data, response.content_length) == (200, b"456789", 6)


def test_full_server_refuses_followers_only(client: FlaskClient, job: Job, log: Path, watcher: Watcher) -> None:
    log.write_bytes(b"here")
    watcher.limit = 1
    headers = {"Authorization": f"token {KEY}"}
    first = client.get(url(job, "?follow=true"), headers=headers, buffered=False)
    assert first.status_code == 200
    refused = get(client, url(job, "?follow=true"))
    assert refused.status_code == 503
    assert int(refused.headers["Retry-After"]) > 0
    assert get(client, url(job)).data == b"here"
    first.close()
    again = client.get(url(job, "?follow=true"), headers=headers, buffered=False)
    assert again.status_code == 200
    again.close()


# Times.

STAMP = b"2026-11-23T12:00:00.000Z "


@pytest.fixture
def timed_log(log: Path) -> Path:
    log.write_bytes(b"one\ntwo\nthree")
    append_times(str(log), 0, [(0, 1_795_435_200_000)])
    return log


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("", STAMP + b"one\n" + STAMP + b"two\n" + STAMP + b"three"),
        ("&tail=1", STAMP + b"three"),
        ("&offset=4", STAMP + b"two\n" + STAMP + b"three"),
        ("&offset=5", b"wo\n" + STAMP + b"three"),
        ("&offset=99", b""),
    ],
)
def test_lines_begin_with_their_times(
    client: FlaskClient, job: Job, timed_log: Path, query: str, expected: bytes
) -> None:
    response = get(client, url(job, f"?times=true{query}"), Range="bytes=0-1")
    assert (response.status_code, response.data, response.headers["Accept-Ranges"]) == (200, expected, "none")
    assert get(client, url(job, f"?times=true{query}"), "HEAD").data == b""


def test_missing_log_has_no_times(client: FlaskClient, job: Job) -> None:
    assert get(client, url(job, "?times=true&offset=7")).data == b""


def test_followed_lines_begin_with_their_times(client: FlaskClient, job: Job, timed_log: Path) -> None:
    def go_on() -> None:
        with timed_log.open("ab") as file:
            file.write(b" and more\nfour\n")
        end(job)

    with soon(go_on):
        response = get(client, url(job, "?times=true&follow=true&offset=8"))
    assert response.data == STAMP + b"three and more\n" + STAMP + b"four\n"


def test_events_have_no_times(client: FlaskClient, job: Job) -> None:
    response = get(client, url(job, "?times=true&follow=sse"))
    assert response.status_code == 400
    assert "`times`" in response.text


# Access.


def test_log_needs_credentials(client: FlaskClient, job: Job, log: Path) -> None:
    log.write_bytes(b"secret")
    response = client.get(url(job))
    assert response.status_code == 401
    assert b"secret" not in response.data


def test_private_log_of_another_user_is_not_found(client: FlaskClient, job: Job, log: Path) -> None:
    log.write_bytes(b"secret")
    with write("test"):
        other = User.create(username="bob", created_at=now())
        Token.create(user=other, name="test", digest=digest("b" * 40), created_at=now())
    response = get(client, url(job), key="b" * 40)
    assert response.status_code == 404
    assert b"secret" not in response.data


def test_log_of_a_missing_job_is_not_found(client: FlaskClient, job: Job) -> None:
    assert get(client, "/api/v1/ana/demo/jobs/999/logs").status_code == 404
    assert get(client, f"/api/v1/ana/other/jobs/{job.id}/logs").status_code == 404


# Text sent by clients.


def post(client: FlaskClient, job: Job, data: bytes, content_type: str = "application/json") -> TestResponse:
    headers = {"Authorization": f"token {KEY}", "Content-Type": content_type}
    return client.post(url(job), data=data, headers=headers)


def test_text_for_an_unmanaged_job_is_appended(client: FlaskClient, job: Job) -> None:
    assert post(client, job, json.dumps("one\ntwo").encode()).status_code == 200
    assert post(client, job, json.dumps(["three", "four"]).encode()).status_code == 200
    assert post(client, job, b"f\xfcnf\n", "text/plain").status_code == 200
    assert post(client, job, b'"six"', "application/x-www-form-urlencoded").status_code == 200
    assert get(client, url(job)).data == b"one\ntwo\nthree\nfour\nf\xfcnf\nsix\n"


def test_text_for_a_managed_job_is_dropped(client: FlaskClient, project: Project, data_dir: Path) -> None:
    job = make_job(project, is_managed=True)
    assert post(client, job, b'"mine"').status_code == 200
    assert get(client, url(job)).data == b""
    assert not Store(data_dir).job_log(job.uuid).exists()


@pytest.mark.parametrize("body", [b"{", b"7", b'{"a": 1}', b'["a", 1]', b"\xff"])
def test_invalid_text_is_refused(client: FlaskClient, job: Job, body: bytes) -> None:
    assert post(client, job, body).status_code == 400
    assert get(client, url(job)).data == b""


def test_sent_text_is_cut_at_the_log_limit(settings: Settings, user: User, job: Job) -> None:
    with write("test"):
        Token.create(user=user, name="test", digest=digest(KEY), created_at=now())
    client = create_app(dataclasses.replace(settings, log_limit=10)).test_client()
    for _ in range(3):
        assert post(client, job, b'"1234567"').status_code == 200
    assert get(client, url(job)).data == b"1234567\n12"
