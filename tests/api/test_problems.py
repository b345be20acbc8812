"""Error responses: problems in JSON that reveal no internals."""

from __future__ import annotations

import dataclasses
import errno
import json
import sqlite3

import peewee
import pytest

from polyjob.api import problems
from polyjob.app import create_app
from polyjob.auth import identity, users
from polyjob.db.models import Job
from polyjob.errors import Conflict, Forbidden, Invalid, NotFound, PolyjobError, Problem, TooLarge, Unavailable

from .conftest import BASE, CONFIG, JOBS, Client, pointers

FULL = {"Accept": problems.MIMETYPE}


def check(response, status):
    assert (response.status_code, response.mimetype) == (status, "application/problem+json")
    body = response.json
    assert body.keys() >= {"type", "title", "status", "detail"}
    assert (body["status"], type(body["detail"])) == (status, str)
    return body


@pytest.mark.parametrize(
    "path", [f"{BASE}/nothing", f"{BASE}/jobs/1/experiments", "/api/v1", "/api/v2/", "/ana/demo/experiments/1"]
)
def test_unknown_paths(client, path):
    assert check(client.get(path), 404)["detail"] == "Not found."


def test_browser_gets_an_error_page_outside_the_api(client):
    headers = {"Accept": "text/html,application/xhtml+xml,*/*;q=0.8"}
    response = client.get("/x/y/z/w", headers=headers)
    assert (response.status_code, response.mimetype) == (404, "text/html")
    response = client.get("/api/v1/x/y/z/w", headers=headers)
    assert (response.status_code, response.mimetype) == (404, "application/problem+json")


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("DELETE", JOBS, "POST"),
        ("PUT", f"{JOBS}/1/stop", "POST"),
        ("POST", "/api/v1/versions/cli", "GET"),
        ("PATCH", "/healthz", "GET"),
    ],
)
def test_wrong_methods(client, method, path, allowed):
    response = client.call(method, path)
    assert check(response, 405)["detail"] == f'Method "{method}" not allowed.'
    assert allowed in response.headers["Allow"]


@pytest.mark.parametrize("kind", ["text/plain", "application/yaml", "text/html; charset=utf-8", "nonsense"])
def test_wrong_types(client, kind):
    response = client.post(JOBS, data=json.dumps({"config": CONFIG}), content_type=kind)
    assert "Unsupported media type" in check(response, 415)["detail"]
    assert Job.select().count() == 0


@pytest.mark.parametrize(
    "data",
    [b"{", b"[1]", b"nonsense", b'"x"', b"null", b"\xff", b"[" * 100_000, b'{"a": ' + b"9" * 5000 + b"}"],
    ids=["cut", "list", "words", "text", "null", "bytes", "deep", "huge number"],
)
def test_wrong_json(client, data):
    response = client.post(JOBS, data=data, content_type="application/json")
    check(response, 400)
    assert pointers(response) == [""]


def test_numbers_outside_json_are_refused(client):
    response = client.post(
        JOBS, data=b'{"run": {"cmd": "a"}, "termination": {"grace": NaN}}', content_type="application/json"
    )
    assert pointers(response) == ["/termination/grace"]
    response = client.post(
        JOBS, data=b'{"run": {"cmd": "a"}, "termination": {"grace": 1e999}}', content_type="application/json"
    )
    assert pointers(response) == ["/termination/grace"]


def test_too_large_bodies_are_refused(settings, user, project):
    app = create_app(dataclasses.replace(settings, body_limit=1000))
    client = Client(app, users.create_token(user, "t")[1])
    response = client.post(JOBS, {"config": CONFIG, "description": "x" * 1000})
    assert check(response, 413)["detail"] == "The body is larger than 1000 bytes."
    assert Job.select().count() == 0
    assert client.post(JOBS, {"config": CONFIG}).status_code == 201


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (Invalid([Problem("/a", "b")]), 400),
        (identity.Unauthenticated("who"), 401),
        (Forbidden("no"), 403),
        (NotFound("none"), 404),
        (Conflict("busy", 7), 409),
        (TooLarge("big"), 413),
        (Unavailable("later", 9), 503),
    ],
)
def test_refusals(app, error, status):
    with app.test_request_context(headers=FULL):
        response = problems.refusal_response(error)
    check(response, status)
    assert response.headers.get("Retry-After") == {409: "7", 503: "9"}.get(status)
    assert ("WWW-Authenticate" in response.headers) is (status == 401)


def test_many_problems_are_listed_and_summarized(app):
    many = [Problem(f"/config/x{number}", "is wrong") for number in range(20)] + [Problem("", "and so is all")]
    with app.test_request_context(headers=FULL):
        body = problems.refusal_response(Invalid(many)).json
    assert body.keys() == {"type", "title", "status", "detail", "errors"}
    assert len(body["errors"]) == 21
    assert body["detail"] == "/config/x0: is wrong (20 more)"


@pytest.mark.parametrize("accept", [None, "*/*", "application/json"])
def test_old_clients_receive_short_errors(app, accept):
    wrong = [Problem("/config/x", "is wrong"), Problem("/config/y", "too"), Problem("/name", "b"), Problem("", "c")]
    with app.test_request_context(headers={"Accept": accept} if accept else {}):
        body = problems.refusal_response(Invalid(wrong)).json
        plain = problems.refusal_response(NotFound("Not found.")).json
    assert body == {
        "detail": "/config/x: is wrong (3 more)",
        "config": ["x: is wrong", "y: too"],
        "name": ["b"],
        "non_field_errors": ["c"],
    }
    assert plain == {"detail": "Not found."}


def test_fields_do_not_replace_reserved_members(app):
    wrong = Invalid([Problem("/status", "a"), Problem("/detail", "b"), Problem("wait", "c")])
    with app.test_request_context():
        body = problems.refusal_response(wrong).json
    assert body == {"detail": "/status: a (2 more)", "status": ["a"], "wait": ["c"]}
    with app.test_request_context(headers=FULL):
        body = problems.refusal_response(wrong).json
    assert body["errors"][2] == {"parameter": "wait", "detail": "c"}


SECRET = "/very/secret/path token=abc"


class TestDefects:
    @pytest.fixture
    def broken(self, app, client, monkeypatch):
        """A client whose list of jobs fails with a given error."""
        app.testing = False

        def breaks(error):
            def fail(*_):
                raise error

            monkeypatch.setattr("polyjob.api.list_queries.page_of_jobs", fail)
            return client

        return breaks

    @pytest.mark.parametrize(
        "error",
        [
            KeyError(SECRET),
            RuntimeError(SECRET),
            OSError(2, SECRET),
            peewee.IntegrityError(SECRET),
            PolyjobError(SECRET),
        ],
    )
    def test_defects_are_described_only_in_the_log(self, broken, caplog, error):
        response = broken(error).get(JOBS)
        check(response, 500)
        assert "secret" not in response.text
        assert "secret" in caplog.text

    def test_full_disk_is_a_503(self, broken, caplog):
        response = broken(OSError(errno.ENOSPC, SECRET)).get(JOBS)
        assert "disk is full" in check(response, 503)["detail"]
        assert int(response.headers["Retry-After"]) > 0
        assert "secret" not in response.text

    @pytest.mark.parametrize("name", ["SQLITE_FULL", "SQLITE_BUSY", "SQLITE_IOERR_WRITE", "SQLITE_LOCKED"])
    def test_unusable_database_is_a_503(self, broken, caplog, name):
        cause = sqlite3.OperationalError(SECRET)
        cause.sqlite_errorname = name
        error = peewee.OperationalError(SECRET)
        error.__cause__ = cause
        response = broken(error).get(JOBS)
        check(response, 503)
        assert "secret" not in response.text


def test_responses_are_not_cached(client):
    client.submit()
    for path, expected in ((JOBS, "private, no-cache"), (f"{JOBS}/1/coderef", "no-store"), (f"{JOBS}/9", "no-store")):
        assert client.get(path).headers["Cache-Control"] == expected
    assert client.get(JOBS).headers["X-Content-Type-Options"] == "nosniff"
