"""Checks of submitted forms: origin, CSRF token, and where they lead."""

from __future__ import annotations

import dataclasses

import pytest
from flask import Flask

from polyjob.app import create_app
from polyjob.auth.sessions import CSRF_FIELD
from polyjob.connections import BODY_IS_LATE
from polyjob.db.models import Job, Project, Token, User
from polyjob.pages.forms import local_path
from polyjob.settings import Settings

from .conftest import HTML, ORIGIN, PASSWORD, Browser


@pytest.mark.parametrize(
    "path",
    [
        "//evil.example", "/\\evil.example", "https://evil.example", "javascript:alert(1)", "/\tx", "/ x", "evil",
        "///evil.example", "\\\\evil.example", "/\n/evil.example", "http:evil.example", "", "/\x00", "//",
    ],
)  # fmt: skip
def test_next_path_stays_on_this_server(app: Flask, visitor: Browser, eva: User, path: str) -> None:
    with app.test_request_context():
        assert local_path(path) == "/"
    with app.test_request_context(base_url="https://localhost/jobs"):
        assert local_path(path) == "/jobs/"
    visitor.fill("/sign-in", username="eva", password=PASSWORD, next=path)
    assert visitor.location == "/"


def test_local_paths_are_kept(app: Flask) -> None:
    for path in ("/", "/ana/demo?query=status:failed&before=3", "/api/v1/ana/demo/jobs/1/logs", "/a#b", "/%09/x"):
        with app.test_request_context():
            assert local_path(path) == path
        with app.test_request_context(base_url="https://localhost/jobs"):
            assert local_path(f"/jobs{path}") == f"/jobs{path}"
            assert local_path(path) == "/jobs/"


def test_sign_in_needs_a_csrf_token_and_the_own_origin(visitor: Browser, eva: User) -> None:
    credentials = {"username": "eva", "password": PASSWORD}
    visitor.post("/sign-in", credentials, 403)
    visitor.post("/sign-in", credentials | {CSRF_FIELD: "0" * 32}, 403)
    token = visitor.csrf("/sign-in")
    for origin in ("http://evil.example", "null", "", "https://localhost", "http://localhost:81"):
        visitor.post("/sign-in", credentials | {CSRF_FIELD: token}, 403, Origin=origin)
    visitor.get("/", 401)
    visitor.post("/sign-in", credentials | {CSRF_FIELD: token})
    assert visitor.csrf() != token


def test_public_url_counts_as_own_origin(settings: Settings, eva: User) -> None:
    behind = Browser(create_app(dataclasses.replace(settings, public_url="https://jobs.example.org")))
    form = {"username": "eva", "password": PASSWORD, CSRF_FIELD: behind.csrf("/sign-in")}
    behind.post("/sign-in", form, 403, Origin="https://jobs.example.org.evil.example")
    behind.post("/sign-in", form, Origin="https://jobs.example.org")


def test_every_form_needs_the_csrf_token(app: Flask, ana: Browser, project: Project) -> None:
    """The arguments in a path make no difference."""
    ids = {
        "job_id": "1",
        "build_id": "1",
        "token_id": "1",
        "webhook_id": "1",
        "schedule_id": "1",
        "invite_id": "1",
        "name": "TOKEN",
    }
    arguments = ids | {"username": "ana", "project_name": "demo", "token": "x", "member": "bob", "verb": "grant"}
    token, count = ana.csrf(), 0
    before = (Job.select().count(), Token.select().count(), Project.select().count())
    for rule in app.url_map.iter_rules():
        if not rule.endpoint.startswith("pages.") or "POST" not in (rule.methods or ()):
            continue
        strategies = ["restart", "resume", "copy"] if "strategy" in rule.arguments else [""]
        for strategy in strategies:
            path = rule.build(arguments | {"strategy": strategy})[1]
            for fields, origin in (
                ({}, ORIGIN),
                ({CSRF_FIELD: "0" * 32}, ORIGIN),
                ({CSRF_FIELD: token}, "http://evil.example"),
            ):
                ana.post(path, {"submission_id": "0" * 32, "cmd": "true", "name": "x"} | fields, None, Origin=origin)
                assert ana.status in (403, 404), path
                if not rule.arguments - {"username", "project_name", "token"}:
                    assert ana.status == 403, path
                count += 1
    assert count > 40
    assert (Job.select().count(), Token.select().count(), Project.select().count()) == before


def test_stale_page_is_reported(ana: Browser) -> None:
    page = ana.post("/sign-out", {CSRF_FIELD: "0" * 32}, 403)
    assert "Nothing was changed" in page.text


class Unread:
    """A request body that never arrives."""

    def read(self, size: int = -1) -> bytes:
        raise AssertionError("the form is waited for")


@pytest.mark.parametrize(("name", "status"), [("visitor", 401), ("bob", 404)])
def test_refused_form_is_answered_before_it_arrives(
    app: Flask, name: str, status: int, request: pytest.FixtureRequest, user: User, project: Project
) -> None:
    """Covers every form of something that belongs to a project."""
    browser: Browser = request.getfixturevalue(name)
    environ = {"wsgi.input": Unread(), "wsgi.input_terminated": True, BODY_IS_LATE: True}
    arguments = {
        "username": "ana",
        "project_name": "demo",
        "job_id": 1,
        "build_id": 1,
        "webhook_id": 1,
        "schedule_id": 1,
        "invite_id": 1,
        "name": "TOKEN",
        "strategy": "copy",
        "member": "bob",
    }
    rules = [rule for rule in app.url_map.iter_rules() if rule.endpoint.startswith("pages.") and "POST" in rule.methods]
    project_rules = [rule for rule in rules if "project_name" in rule.arguments]
    assert len(project_rules) > 10
    for rule in project_rules:
        _, path = rule.build(arguments)
        answer = browser.http.post(
            path,
            content_type="application/x-www-form-urlencoded",
            headers={"Accept": HTML, "Origin": ORIGIN},
            environ_overrides=environ,
        )
        assert answer.status_code == status, path


def test_foreign_form_suggests_the_public_url(ana: Browser) -> None:
    page = ana.post("/ana/demo/submit", {CSRF_FIELD: ana.csrf(), "cmd": "true"}, 403, Origin="https://localhost")
    assert "POLYJOB_PUBLIC_URL" in page.text
    assert not [form for form in page.forms if "cmd" in form.fields]
