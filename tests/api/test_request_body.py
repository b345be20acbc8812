"""Bodies of requests: their limit, their encoding, their byte order mark, and keys that come twice."""

from __future__ import annotations

import codecs
import dataclasses
import gzip
import io
import json

import pytest
from werkzeug.exceptions import HTTPException

from polyjob.app import create_app
from polyjob.auth import users
from polyjob.connections import BODY_IS_LATE
from polyjob.db.models import Job, Project
from polyjob.storage.store import Store
from tests.api.conftest import BASE, CONFIG, JOBS, Client

LIMIT = 1000
JOB = f"{JOBS}/%"


@pytest.fixture
def small_client(settings, user, project):
    """A client of a server with small limits."""
    app = create_app(dataclasses.replace(settings, body_limit=LIMIT, upload_limit=LIMIT))
    return Client(app, users.create_token(user, "t")[1])


@pytest.fixture
def unmanaged(small_client):
    return small_client.post(JOBS, {"is_managed": False}).json["id"]


def send_chunked(client, method, path, data, content_type):
    """Send a body without a length, as gunicorn passes a chunked one on: it ends with the stream."""
    environ = {"wsgi.input": io.BytesIO(data), "wsgi.input_terminated": True, "HTTP_TRANSFER_ENCODING": "chunked"}
    return client.call(method, path, headers={"Content-Type": content_type}, environ_overrides=environ)


def padded(length):
    """Return the body of a job with this many bytes."""
    head = json.dumps({"config": CONFIG, "x": ""})[:-2]
    return head.encode() + b"x" * (length - len(head) - 2) + b'"}'


JSON = "application/json"
FORM = "application/x-www-form-urlencoded"


class TestChunkedBodies:
    @pytest.mark.parametrize("kind", [JSON, FORM, "multipart/form-data; boundary=b", ""])
    @pytest.mark.parametrize(
        ("method", "path"),
        [
            ("POST", JOBS),
            ("POST", f"{BASE}/builds"),
            ("PATCH", BASE),
            ("POST", "/api/v1/projects"),
            ("PUT", f"{JOBS}/%"),
        ],
    )
    def test_body_beyond_the_limit_is_refused(self, small_client, unmanaged, method, path, kind):
        before = Job.select().count(), Project.select().count()
        response = send_chunked(small_client, method, path.replace("%", str(unmanaged)), padded(LIMIT + 1), kind)
        assert response.status_code == 413
        assert (Job.select().count(), Project.select().count()) == before

    @pytest.mark.parametrize("kind", [JSON, FORM, "text/plain", "application/octet-stream"])
    def test_log_beyond_the_limit_is_refused(self, small_client, unmanaged, settings, kind):
        log = Store(settings.data_dir).job_log(Job.get_by_id(unmanaged).uuid)
        response = send_chunked(small_client, "POST", f"{JOBS}/{unmanaged}/logs", b"x" * (LIMIT + 1), kind)
        assert response.status_code == 413
        assert not log.exists()
        send_chunked(small_client, "POST", f"{JOBS}/{unmanaged}/logs", b"x" * LIMIT, "text/plain")
        assert log.read_bytes() == b"x" * LIMIT

    def test_upload_beyond_the_limit_is_refused(self, small_client, monkeypatch):
        monkeypatch.setattr("polyjob.api.projects.MULTIPART_OVERHEAD_BYTES", 0)
        head = b'--b\r\nContent-Disposition: form-data; name="repo"; filename="c"\r\n\r\n'
        kind = "multipart/form-data; boundary=b"
        response = send_chunked(small_client, "PUT", f"{BASE}/repo/upload", head + b"x" * LIMIT, kind)
        assert response.status_code == 413

    def test_idempotent_request_beyond_the_limit_is_refused(self, small_client):
        environ = {"wsgi.input": io.BytesIO(padded(LIMIT + 1)), "wsgi.input_terminated": True}
        headers = {"Content-Type": JSON, "Idempotency-Key": "k"}
        assert small_client.post(JOBS, headers=headers, environ_overrides=environ).status_code == 413

    def test_body_at_the_limit_is_accepted(self, small_client):
        assert len(padded(LIMIT)) == LIMIT
        assert send_chunked(small_client, "POST", JOBS, padded(LIMIT), JSON).status_code == 201


class TestEncodings:
    @pytest.mark.parametrize("encoding", ["gzip", "GZip", "br", "deflate, gzip"])
    @pytest.mark.parametrize("kind", [JSON, FORM, "text/plain", "multipart/form-data; boundary=b"])
    def test_encoded_body_is_refused_by_name(self, small_client, unmanaged, encoding, kind):
        data = gzip.compress(json.dumps({"config": CONFIG}).encode())
        paths = [("POST", JOBS), ("POST", f"{JOBS}/{unmanaged}/logs")]
        for method, path in [("PUT", f"{BASE}/repo/upload")] if "multipart" in kind else paths:
            headers = {"Content-Encoding": encoding}
            response = small_client.call(method, path, data=data, content_type=kind, headers=headers)
            assert (response.status_code, encoding.lower() in response.json["detail"]) == (415, True)
            assert "Content-Encoding" in response.json["detail"]

    def test_identity_encoding_is_accepted(self, client):
        headers = {"Content-Encoding": "identity"}
        assert client.post(JOBS, {"config": CONFIG}, headers=headers).status_code == 201

    @pytest.mark.parametrize("kind", [JSON, FORM, ""])
    @pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
    def test_byte_order_mark_is_accepted_with_any_type(self, client, kind, encoding):
        data = json.dumps({"config": CONFIG, "name": "n"}).encode(encoding)
        assert data.startswith((codecs.BOM_UTF8, codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
        response = client.post(JOBS, data=data, content_type=kind)
        assert (response.status_code, response.json.get("name")) == (201, "n")


@pytest.mark.parametrize("kind", [JSON, FORM])
@pytest.mark.parametrize(
    ("body", "key"),
    [
        ('{"name": "a", "name": "b"}', "name"),
        ('{"config": {"run": {"cmd": "a", "cmd": "b"}}}', "cmd"),
        ('{"tags": [{"x": 1, "x": 1}]}', "x"),
    ],
)
def test_duplicate_keys_are_named(client, kind, body, key):
    response = client.post(JOBS, data=body, content_type=kind)
    assert (response.status_code, response.json["detail"]) == (400, f"The key `{key}` comes twice.")


def test_long_duplicate_keys_are_shortened(client):
    body = '{{"{0}": 1, "{0}": 2}}'.format("k" * 10_000)
    assert len(client.post(JOBS, data=body, content_type=JSON).text) < 1000


def test_logs_are_refused_while_the_disk_is_low(settings, user, project, small_client, unmanaged):
    low = Client(create_app(dataclasses.replace(settings, disk_low=1 << 60)), users.create_token(user, "u")[1])
    response = low.post(f"{JOBS}/{unmanaged}/logs", data=b"x" * 100, content_type="text/plain")
    assert (response.status_code, response.headers["Retry-After"]) == (503, "60")
    assert not Store(settings.data_dir).job_log(Job.get_by_id(unmanaged).uuid).exists()


class TestMerges:
    @pytest.mark.parametrize("path", [f"{JOBS}/%", BASE, f"{BASE}/builds/%"])
    def test_merged_tags_are_bounded(self, client, path):
        number = client.post(f"{BASE}/builds" if "builds" in path else JOBS, {"config": CONFIG_OF[path]}).json["id"]
        address = path.replace("%", str(number))
        for first in (0, 500, 0):
            merged = client.patch(address, {"tags": [f"t{n}" for n in range(first, first + 500)], "merge": True})
            assert merged.status_code == 200
        response = client.patch(address, {"tags": ["one more"], "merge": True})
        assert (response.status_code, "at most 1000" in response.json["detail"]) == (400, True)
        assert [item["pointer"] for item in response.json["errors"]] == ["/tags"]
        assert len(client.get(address).json["tags"]) == 1000


CONFIG_OF = {
    f"{JOBS}/%": CONFIG,
    BASE: CONFIG,
    f"{BASE}/builds/%": {"kind": "build", "build": {"build_steps": ["true"]}},
}


@pytest.mark.parametrize("name", ["quey", "sorts", "limits", "offest", "cursr"])
def test_mistyped_query_parameter_gets_a_suggestion(client, name):
    response = client.get(f"{JOBS}?{name}=1")
    assert (response.status_code, "did you mean" in response.json["detail"]) == (400, True)


@pytest.mark.parametrize("query", ["page=2", "_=171", "group=3", "independent=true", "limit=5"])
def test_other_query_parameters_are_ignored(client, query):
    assert client.get(f"{JOBS}?{query}").status_code == 200


@pytest.mark.parametrize("path", [JOBS, f"{BASE}/builds", f"{JOBS}?cursor=", "/api/v1/bookmarks/ana/jobs"])
def test_unknown_sort_field_lists_the_fields(client, path):
    response = client.get(f"{path}{'&' if '?' in path else '?'}sort=-name")
    assert response.status_code == 400
    assert "`updated_at`" in response.json["detail"]
    assert [item["parameter"] for item in response.json["errors"]] == ["sort"]


@pytest.mark.parametrize("environ", [{}, {"HTTP_CONTENT_ENCODING": "gzip"}, {"CONTENT_LENGTH": ""}], ids=str)
def test_body_that_the_worker_has_received_is_read_at_once(app, environ):
    data = json.dumps({"config": CONFIG}).encode()
    late, complete = (
        app.test_request_context(
            "/", method="POST", data=data, environ_overrides={"wsgi.input_terminated": True, BODY_IS_LATE: is_late}
        )
        for is_late in (None, False)
    )
    results = []
    for context in (late, complete):
        context.request.environ.update(environ)
        with context:
            try:
                results.append((context.request.get_data(), context.request.get_data(as_text=True)))
            except HTTPException as error:
                results.append((error.code, error.description))
    assert results[0] == results[1]


def test_small_body_is_read_without_a_stream(app):
    environ = {"wsgi.input_terminated": True, BODY_IS_LATE: False}
    with app.test_request_context("/", method="POST", data=b"ab", environ_overrides=environ) as context:
        assert context.request.get_data() == b"ab"
        assert "stream" not in vars(context.request)
