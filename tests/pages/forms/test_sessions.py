"""Signing in and out, and what browsers are refused."""

from __future__ import annotations

import dataclasses
import datetime

import pytest
from flask import Flask

from polyjob.app import create_app
from polyjob.auth import login, users
from polyjob.auth.scopes import Scope
from polyjob.auth.sessions import CSRF_FIELD
from polyjob.auth.sign_in_links import create_sign_in_link
from polyjob.auth.throttle import FailureLimit
from polyjob.connections import BODY_IS_LATE
from polyjob.db.database import write
from polyjob.db.models import Audit, EndedSession, Job, Project, Token, User
from polyjob.pages.forms import local_path
from polyjob.settings import Settings

from .conftest import EVIL, HTML, ORIGIN, Browser, Html, publish

PASSWORD = "a long password"


@pytest.fixture
def eva(project: Project, monkeypatch: pytest.MonkeyPatch) -> User:
    """She has a password."""
    monkeypatch.setattr(login, "_by_account", FailureLimit())
    monkeypatch.setattr(login, "_by_address", FailureLimit(login.MAX_FAILURES_OF_ADDRESS))
    return users.create("eva", PASSWORD)


class TestPassword:
    def test_signs_in_and_leads_back(self, visitor: Browser, eva: User) -> None:
        page = visitor.get("/eva/demo?status=failed", 401)
        form = next(form for form in page.forms if form.action == "/sign-in")
        assert form.fields["next"] == "/eva/demo?status=failed"
        visitor.post("/sign-in", form.fields | {"username": "eva", "password": PASSWORD})
        assert visitor.location == "/eva/demo?status=failed"
        assert "eva" in visitor.get("/").text
        assert Audit.select().where(Audit.action == "sign-in", Audit.username == "eva").exists()

    def test_the_cookie_is_out_of_reach(self, visitor: Browser, eva: User, settings: Settings) -> None:
        answer = visitor.http.get("/sign-in")
        assert {"HttpOnly", "SameSite=Lax"} <= set(answer.headers["Set-Cookie"].split("; "))
        assert "Secure" not in answer.headers["Set-Cookie"]
        by_https = create_app(settings).test_client().get("/sign-in", base_url="https://localhost")
        assert "Secure" in by_https.headers["Set-Cookie"].split("; ")

    def test_what_is_wrong_is_said_and_the_name_kept(self, visitor: Browser, eva: User) -> None:
        page = visitor.fill("/sign-in", 401, username="eva", password="wrong")
        assert "Incorrect username or password." in page.text
        assert page.forms[0].fields["username"] == "eva"
        assert page.forms[0].fields["password"] == ""
        page = visitor.fill("/sign-in", 400, username="eva")
        assert page.elements["password"]["aria-invalid"] == "true"
        assert page.elements["password"]["aria-describedby"] == "password-error"
        assert "#password" in page.links

    def test_tries_are_slowed_down(self, visitor: Browser, eva: User) -> None:
        for _ in range(5):
            visitor.fill("/sign-in", 401, username="eva", password="wrong")
        assert "Too many attempts" in visitor.fill("/sign-in", 429, username="eva", password=PASSWORD).text
        api = visitor.http.post("/api/v1/users/token", json={"username": "eva", "password": PASSWORD})
        assert api.status_code == 429
        assert Audit.select().where(Audit.action == "login failed").count() == 5

    def test_of_a_name_that_nobody_can_have_little_is_kept(self, visitor: Browser) -> None:
        visitor.fill("/sign-in", 401, username="x" * 100_000, password="wrong")
        line = Audit.select().where(Audit.action == "login failed").get()
        assert len(line.username) + len(line.target) < 1000

    def test_who_is_locked_out_is_nobody(self, visitor: Browser, eva: User) -> None:
        visitor.fill("/sign-in", username="eva", password=PASSWORD)
        users.set_active(eva, False)
        visitor.get("/", 401)
        visitor.fill("/sign-in", 401, username="eva", password=PASSWORD)


class TestKeys:
    def test_sign_in_for_what_they_are_good_for(self, visitor: Browser, user: User, project: Project) -> None:
        key = users.create_token(user, "reader", scope=Scope.READ)[1]
        visitor.fill("/sign-in", key=key)
        visitor.get("/ana/demo")
        visitor.get("/ana/demo/submit", 403)
        visitor.get("/keys", 403)
        token = visitor.csrf("/")
        refused = visitor.http.post(
            "/api/v1/ana/demo/jobs", json={"run": {"cmd": "true"}}, headers={"Origin": ORIGIN, "X-CSRF-Token": token}
        )
        assert refused.status_code == 403

    def test_bound_to_a_project_show_that_one_alone(self, visitor: Browser, user: User, project: Project) -> None:
        with write("test"):
            dates = {"created_at": project.created_at, "updated_at": project.updated_at}
            other = Project.create(uuid="e" * 32, user=user, name="other", is_public=False, **dates)
        visitor.fill("/sign-in", key=users.create_token(user, "bound", project=other)[1])
        visitor.get("/ana/other")
        visitor.get("/ana/demo", 404)
        assert visitor.get("/submit", 303) and visitor.location == "/ana/other/submit"
        visitor.get("/new-project", 403)

    def test_revoked_or_expired_are_signed_out(self, visitor: Browser, user: User) -> None:
        row, key = users.create_token(user, "mine", datetime.timedelta(days=1))
        visitor.fill("/sign-in", key=key)
        visitor.get("/")
        with write("test"):
            Token.update(expires_at=row.created_at).where(Token.id == row.id).execute()
        visitor.get("/", 401)
        visitor.fill("/sign-in", 401, key=key)
        users.revoke_token(row)
        assert "Invalid or expired token." in visitor.fill("/sign-in", 401, key=key).text

    def test_of_nobody_sign_nobody_in(self, visitor: Browser, user: User) -> None:
        for key in ("f" * 40, "job-x", EVIL):
            page = visitor.fill("/sign-in", 401, key=key)
            assert page.elements["key"]["aria-invalid"] == "true"
            assert "script" not in page.tags


class TestLinks:
    def test_opened_from_another_site_ask_first(self, visitor: Browser, user: User) -> None:
        link = f"/sign-in/{create_sign_in_link(user)}"
        page = visitor.get(link, **{"Sec-Fetch-Site": "cross-site"})
        assert "Sign in as ana?" in page.text
        visitor.get("/", 401)
        visitor.post(link, page.forms[-1].fields)
        visitor.get("/")

    def test_ask_whoever_is_signed_in_as_somebody_else(self, ana: Browser, bob: Browser, user: User) -> None:
        link = f"/sign-in/{create_sign_in_link(user)}"
        assert "Sign in as ana?" in bob.get(link).text
        assert "bob" in bob.get("/").text
        ana.get(link, 303)

    def test_of_another_server_are_not_followed(self, visitor: Browser, user: User) -> None:
        link = f"/sign-in/{create_sign_in_link(user)}"
        page = visitor.get(link, **{"Sec-Fetch-Site": "cross-site"})
        visitor.post(link, page.forms[-1].fields, 403, Origin="http://evil.example")
        visitor.post(link, {}, 403)
        visitor.get("/", 401)


def test_who_is_signed_in_is_led_on(ana: Browser) -> None:
    ana.get("/sign-in?next=/keys", 303)
    assert ana.location == "/keys"
    ana.get("/sign-in?next=//evil.example", 303)
    assert ana.location == "/"


def test_signing_out_takes_a_press(ana: Browser) -> None:
    ana.get("/sign-out", 405)
    ana.post("/sign-out", {}, 403)
    ana.get("/")
    ana.press("/", "Sign out")
    assert "signed out" in ana.get("/sign-in").text
    ana.get("/", 401)


def copy_of(browser: Browser, app: Flask) -> Browser:
    """A browser that has the cookies of this one."""
    copy = Browser(app)
    for cookie in browser.http._cookies.values():
        copy.http.set_cookie(cookie.key, cookie.value)
    return copy


@pytest.mark.parametrize("way", ["page", "api"])
def test_copies_of_a_cookie_are_dead_after_sign_out(way: str, app: Flask, user: User, project: Project) -> None:
    ana, other = Browser(app).sign_in(user), Browser(app).sign_in(user)
    copy = copy_of(ana, app)
    copy.get("/ana/demo")
    assert copy.http.get("/api/v1/users").status_code == 200
    if way == "page":
        ana.press("/", "Sign out")
    else:
        headers = {"Origin": ORIGIN, "X-CSRF-Token": ana.csrf()}
        assert ana.http.get("/api/v1/users/logout", headers=headers).status_code == 200
    copy.get("/ana/demo", 401)
    assert copy.http.get("/api/v1/users").status_code == 401
    other.get("/ana/demo")


def test_ended_sessions_are_forgotten_once_their_cookies_expired(app: Flask, user: User) -> None:
    with write("test"):
        EndedSession.insert(digest="old", expires_at=user.created_at).execute()
    Browser(app).sign_in(user).press("/", "Sign out")
    assert EndedSession.select().count() == 1
    assert EndedSession.get().digest != "old"


@pytest.mark.parametrize("site", ["cross-site", "same-site", "none"])
def test_navigation_from_another_site_signs_nobody_out(site: str, ana: Browser) -> None:
    assert ana.http.get("/api/v1/users/logout", headers={"Sec-Fetch-Site": site}).status_code == 403
    ana.get("/keys")


@pytest.mark.parametrize("origin", ["://", "null", "http://", "://localhost"])
def test_origins_without_a_host_are_foreign(origin: str, ana: Browser) -> None:
    headers = {"Origin": origin, "X-CSRF-Token": ana.csrf()}
    assert ana.http.post("/api/v1/users/session/refresh", headers=headers).status_code == 403


@pytest.mark.parametrize(
    "path",
    [
        "//evil.example", "/\\evil.example", "https://evil.example", "javascript:alert(1)", "/\tx", "/ x", "evil",
        "///evil.example", "\\\\evil.example", "/\n/evil.example", "http:evil.example", "", "/\x00", "//",
    ],
)  # fmt: skip
def test_nothing_leads_elsewhere(visitor: Browser, eva: User, path: str) -> None:
    assert local_path(path) == "/"
    visitor.fill("/sign-in", username="eva", password=PASSWORD, next=path)
    assert visitor.location == "/"


def test_paths_of_ours_are_kept() -> None:
    for path in ("/", "/ana/demo?query=status:failed&before=3", "/api/v1/ana/demo/jobs/1/logs", "/a#b", "/%09/x"):
        assert local_path(path) == path


def test_a_form_of_another_page_signs_nobody_in(visitor: Browser, eva: User) -> None:
    known = {"username": "eva", "password": PASSWORD}
    visitor.post("/sign-in", known, 403)
    visitor.post("/sign-in", known | {CSRF_FIELD: "0" * 32}, 403)
    token = visitor.csrf("/sign-in")
    for origin in ("http://evil.example", "null", "", "https://localhost", "http://localhost:81"):
        visitor.post("/sign-in", known | {CSRF_FIELD: token}, 403, Origin=origin)
    visitor.get("/", 401)
    visitor.post("/sign-in", known | {CSRF_FIELD: token})
    assert visitor.csrf() != token


def test_behind_a_proxy_the_known_address_is_ours_too(settings: Settings, eva: User) -> None:
    behind = Browser(create_app(dataclasses.replace(settings, public_url="https://jobs.example.org")))
    form = {"username": "eva", "password": PASSWORD, CSRF_FIELD: behind.csrf("/sign-in")}
    behind.post("/sign-in", form, 403, Origin="https://jobs.example.org.evil.example")
    behind.post("/sign-in", form, Origin="https://jobs.example.org")


def test_every_change_needs_the_sessions_token(app: Flask, ana: Browser, project: Project) -> None:
    """Whatever page there is that is posted to."""
    there = {"username": "ana", "project_name": "demo", "job_id": "1", "build_id": "1", "number": "1", "key": "x"}
    token, count = ana.csrf(), 0
    before = (Job.select().count(), Token.select().count(), Project.select().count())
    for rule in app.url_map.iter_rules():
        if not rule.endpoint.startswith("pages.") or "POST" not in (rule.methods or ()):
            continue
        strategies = ["restart", "resume", "copy"] if "strategy" in rule.arguments else [""]
        for strategy in strategies:
            path = rule.build(there | {"strategy": strategy})[1]
            for fields, origin in (
                ({}, ORIGIN),
                ({CSRF_FIELD: "0" * 32}, ORIGIN),
                ({CSRF_FIELD: token}, "http://evil.example"),
            ):
                ana.post(path, {"submission_id": "0" * 32, "cmd": "true", "name": "x"} | fields, None, Origin=origin)
                assert ana.status in (403, 404), path
                if not rule.arguments - {"username", "project_name", "key"}:
                    assert ana.status == 403, path
                count += 1
    assert count > 40
    assert (Job.select().count(), Token.select().count(), Project.select().count()) == before


def test_a_page_that_was_open_for_too_long_says_so(ana: Browser) -> None:
    page = ana.post("/sign-out", {CSRF_FIELD: "0" * 32}, 403)
    assert "Nothing was changed" in page.text


class Unread:
    """A form that the browser does not send."""

    def read(self, size: int = -1) -> bytes:
        raise AssertionError("the form is waited for")


@pytest.mark.parametrize(("name", "status"), [("visitor", 401), ("bob", 404)])
def test_refused_form_is_answered_before_it_arrives(
    app: Flask, name: str, status: int, request: pytest.FixtureRequest, user: User, project: Project
) -> None:
    """Every form of something that belongs to a project."""
    browser: Browser = request.getfixturevalue(name)
    environ = {"wsgi.input": Unread(), "wsgi.input_terminated": True, BODY_IS_LATE: True}
    there = {"username": "ana", "project_name": "demo", "job_id": 1, "build_id": 1, "strategy": "copy"}
    posted = [
        rule for rule in app.url_map.iter_rules() if rule.endpoint.startswith("pages.") and "POST" in rule.methods
    ]
    own = [rule for rule in posted if "project_name" in rule.arguments]
    assert len(own) > 10
    for rule in own:
        _, path = rule.build(there)
        answer = browser.http.post(
            path,
            content_type="application/x-www-form-urlencoded",
            headers={"Accept": HTML, "Origin": ORIGIN},
            environ_overrides=environ,
        )
        assert answer.status_code == status, path


def test_a_page_of_another_address_says_how_to_mend_it(ana: Browser) -> None:
    page = ana.post("/ana/demo/submit", {CSRF_FIELD: ana.csrf(), "cmd": "true"}, 403, Origin="https://localhost")
    assert "POLYJOB_PUBLIC_URL" in page.text
    assert not [form for form in page.forms if "cmd" in form.fields]


def test_the_cookie_of_another_address_is_nobodys(ana: Browser) -> None:
    cookie = ana.http.get_cookie(next(iter(ana.http._cookies.values())).key)
    assert cookie
    answer = ana.http.get("/", base_url="http://localhost:81", headers={"Accept": HTML})
    assert answer.status_code == 401


def test_a_cookie_in_use_is_sent_anew_once_a_day(ana: Browser) -> None:
    assert "Set-Cookie" not in ana.http.get("/keys", headers={"Accept": HTML}).headers
    with ana.http.session_transaction() as session:
        session["at"] -= 86_401
    assert "Set-Cookie" in ana.http.get("/keys", headers={"Accept": HTML}).headers
    assert "Set-Cookie" not in ana.http.get("/keys", headers={"Accept": HTML}).headers


def test_the_api_is_as_it_was(visitor: Browser, project: Project) -> None:
    publish()
    answer = visitor.http.get("/api/v1/ana/demo/jobs", headers={"Accept": HTML})
    assert (answer.status_code, answer.mimetype) == (401, "application/problem+json")
    assert "Set-Cookie" not in answer.headers
    assert Html(visitor.http.get("/ana/demo", headers={"Accept": HTML}).text).forms[0].action == "/sign-in"
