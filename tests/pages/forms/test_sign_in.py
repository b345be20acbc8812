"""Signing in and out, and the session cookie."""

from __future__ import annotations

import datetime
import time

import pytest
from flask import Flask

from polyjob.app import create_app
from polyjob.auth import users
from polyjob.auth.scopes import Scope
from polyjob.auth.sign_in_links import create_sign_in_link
from polyjob.db.database import write
from polyjob.db.models import Audit, EndedSession, Project, Token, User
from polyjob.settings import Settings

from ..helpers import make_job, make_link, url
from .conftest import EVIL, HTML, ORIGIN, PASSWORD, Browser, Html, publish


class TestPassword:
    def test_password_signs_in_and_leads_back(self, visitor: Browser, eva: User) -> None:
        page = visitor.get("/eva/demo?status=failed", 401)
        form = next(form for form in page.forms if form.action == "/sign-in")
        assert form.fields["next"] == "/eva/demo?status=failed"
        visitor.post("/sign-in", form.fields | {"username": "eva", "password": PASSWORD})
        assert visitor.location == "/eva/demo?status=failed"
        assert "eva" in visitor.get("/").text
        assert Audit.select().where(Audit.action == "sign-in", Audit.username == "eva").exists()

    def test_session_cookie_is_protected(self, visitor: Browser, eva: User, settings: Settings) -> None:
        answer = visitor.http.get("/sign-in")
        assert {"HttpOnly", "SameSite=Lax"} <= set(answer.headers["Set-Cookie"].split("; "))
        assert "Secure" not in answer.headers["Set-Cookie"]
        by_https = create_app(settings).test_client().get("/sign-in", base_url="https://localhost")
        assert "Secure" in by_https.headers["Set-Cookie"].split("; ")

    def test_wrong_password_is_reported_and_the_username_kept(self, visitor: Browser, eva: User) -> None:
        page = visitor.fill("/sign-in", 401, username="eva", password="wrong")
        assert "Incorrect username or password." in page.text
        assert page.forms[0].fields["username"] == "eva"
        assert page.forms[0].fields["password"] == ""
        page = visitor.fill("/sign-in", 400, username="eva")
        assert page.elements["password"]["aria-invalid"] == "true"
        assert page.elements["password"]["aria-describedby"] == "password-error"
        assert "#password" in page.links

    def test_failed_attempts_are_throttled(self, visitor: Browser, eva: User) -> None:
        for _ in range(5):
            visitor.fill("/sign-in", 401, username="eva", password="wrong")
        assert "Too many attempts" in visitor.fill("/sign-in", 429, username="eva", password=PASSWORD).text
        api = visitor.http.post("/api/v1/users/token", json={"username": "eva", "password": PASSWORD})
        assert api.status_code == 429
        assert Audit.select().where(Audit.action == "login failed").count() == 5

    def test_audit_shortens_an_overlong_username(self, visitor: Browser) -> None:
        visitor.fill("/sign-in", 401, username="x" * 100_000, password="wrong")
        line = Audit.select().where(Audit.action == "login failed").get()
        assert len(line.username) + len(line.target) < 1000

    def test_deactivated_user_is_signed_out(self, visitor: Browser, eva: User) -> None:
        visitor.fill("/sign-in", username="eva", password=PASSWORD)
        users.set_active(eva, False)
        visitor.get("/", 401)
        visitor.fill("/sign-in", 401, username="eva", password=PASSWORD)


class TestTokens:
    def test_token_sign_in_has_the_scope_of_the_token(self, visitor: Browser, user: User, project: Project) -> None:
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

    def test_project_token_shows_only_its_project(self, visitor: Browser, user: User, project: Project) -> None:
        with write("test"):
            dates = {"created_at": project.created_at, "updated_at": project.updated_at}
            other = Project.create(uuid="e" * 32, user=user, name="other", is_public=False, **dates)
        visitor.fill("/sign-in", key=users.create_token(user, "bound", project=other)[1])
        visitor.get("/ana/other")
        visitor.get("/ana/demo", 404)
        assert visitor.get("/submit", 303) and visitor.location == "/ana/other/submit"
        visitor.get("/new-project", 403)

    def test_revoked_or_expired_token_ends_the_session(self, visitor: Browser, user: User) -> None:
        row, key = users.create_token(user, "mine", datetime.timedelta(days=1))
        visitor.fill("/sign-in", key=key)
        visitor.get("/")
        with write("test"):
            Token.update(expires_at=row.created_at).where(Token.id == row.id).execute()
        visitor.get("/", 401)
        visitor.fill("/sign-in", 401, key=key)
        users.revoke_token(row)
        assert "Invalid or expired token." in visitor.fill("/sign-in", 401, key=key).text

    def test_unknown_token_is_refused(self, visitor: Browser, user: User) -> None:
        for key in ("f" * 40, "job-x", EVIL):
            page = visitor.fill("/sign-in", 401, key=key)
            assert page.elements["key"]["aria-invalid"] == "true"
            assert "script" not in page.tags


class TestLinks:
    def test_link_signs_its_user_in_once(self, app: Flask, visitor: Browser, user: User) -> None:
        link = f"/sign-in/{create_sign_in_link(user)}"
        visitor.get(link, 303)
        assert visitor.location == "/"
        assert "ana" in visitor.get("/").text
        visitor.get(link, 303)  # still signed in
        assert visitor.location == "/"
        other = Browser(app)
        assert "already used" in other.get(link, 410).text
        other.get("/", 401)

    def test_unknown_or_expired_link_is_refused(self, visitor: Browser, user: User) -> None:
        for key in ("nonsense", make_link(user, minutes=-1)):
            visitor.get(f"/sign-in/{key}", 410)
            visitor.get("/", 401)

    def test_prefetching_does_not_use_the_link_up(self, visitor: Browser, user: User) -> None:
        link = f"/sign-in/{create_sign_in_link(user)}"
        assert visitor.http.head(link).status_code == 200
        visitor.get(link, 503, **{"Sec-Purpose": "prefetch;prerender"})
        visitor.get("/", 401)
        visitor.get(link, 303)

    def test_link_from_another_site_asks_first(self, visitor: Browser, user: User) -> None:
        link = f"/sign-in/{create_sign_in_link(user)}"
        page = visitor.get(link, **{"Sec-Fetch-Site": "cross-site"})
        assert "Sign in as ana?" in page.text
        visitor.get("/", 401)
        visitor.post(link, page.forms[-1].fields)
        visitor.get("/")

    def test_link_asks_before_switching_users(self, ana: Browser, bob: Browser, user: User) -> None:
        link = f"/sign-in/{create_sign_in_link(user)}"
        assert "Sign in as ana?" in bob.get(link).text
        assert "bob" in bob.get("/").text
        ana.get(link, 303)

    def test_link_confirmation_needs_the_own_origin(self, visitor: Browser, user: User) -> None:
        link = f"/sign-in/{create_sign_in_link(user)}"
        page = visitor.get(link, **{"Sec-Fetch-Site": "cross-site"})
        visitor.post(link, page.forms[-1].fields, 403, Origin="http://evil.example")
        visitor.post(link, {}, 403)
        visitor.get("/", 401)


def test_signed_in_user_skips_the_sign_in_page(ana: Browser) -> None:
    ana.get("/sign-in?next=/keys", 303)
    assert ana.location == "/keys"
    ana.get("/sign-in?next=//evil.example", 303)
    assert ana.location == "/"


def test_sign_out_needs_the_form(ana: Browser) -> None:
    ana.get("/sign-out", 405)
    ana.post("/sign-out", {}, 403)
    ana.get("/")
    ana.press("/", "Sign out")
    assert "signed out" in ana.get("/sign-in").text
    ana.get("/", 401)


def copy_of(browser: Browser, app: Flask) -> Browser:
    """Return a browser with the same cookies."""
    copy = Browser(app)
    for cookie in browser.http._cookies.values():
        copy.http.set_cookie(cookie.key, cookie.value)
    return copy


@pytest.mark.parametrize("way", ["page", "api"])
def test_sign_out_ends_all_copies_of_the_cookie(way: str, app: Flask, user: User, project: Project) -> None:
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


def test_ended_sessions_are_deleted_after_expiry(app: Flask, user: User) -> None:
    with write("test"):
        EndedSession.insert(digest="old", expires_at=user.created_at).execute()
    Browser(app).sign_in(user).press("/", "Sign out")
    assert EndedSession.select().count() == 1
    assert EndedSession.get().digest != "old"


@pytest.mark.parametrize("site", ["cross-site", "same-site", "none"])
def test_navigation_from_another_site_does_not_sign_out(site: str, ana: Browser) -> None:
    assert ana.http.get("/api/v1/users/logout", headers={"Sec-Fetch-Site": site}).status_code == 403
    ana.get("/keys")


@pytest.mark.parametrize("origin", ["://", "null", "http://", "://localhost"])
def test_origins_without_a_host_are_refused(origin: str, ana: Browser) -> None:
    headers = {"Origin": origin, "X-CSRF-Token": ana.csrf()}
    assert ana.http.post("/api/v1/users/session/refresh", headers=headers).status_code == 403


def test_cookie_counts_only_for_its_host(ana: Browser) -> None:
    cookie = ana.http.get_cookie(next(iter(ana.http._cookies.values())).key)
    assert cookie
    answer = ana.http.get("/", base_url="http://localhost:81", headers={"Accept": HTML})
    assert answer.status_code == 401


def test_session_cookie_is_renewed_once_a_day(ana: Browser) -> None:
    assert "Set-Cookie" not in ana.http.get("/keys", headers={"Accept": HTML}).headers
    with ana.http.session_transaction() as session:
        session["at"] -= 86_401
    assert "Set-Cookie" in ana.http.get("/keys", headers={"Accept": HTML}).headers
    assert "Set-Cookie" not in ana.http.get("/keys", headers={"Accept": HTML}).headers


def test_api_errors_stay_json(visitor: Browser, project: Project) -> None:
    publish()
    answer = visitor.http.get("/api/v1/ana/demo/jobs", headers={"Accept": HTML})
    assert (answer.status_code, answer.mimetype) == (401, "application/problem+json")
    assert "Set-Cookie" not in answer.headers
    assert Html(visitor.http.get("/ana/demo", headers={"Accept": HTML}).text).forms[0].action == "/sign-in"


def test_visitor_sees_how_to_sign_in(visitor: Browser, project: Project) -> None:
    job = make_job(project, name="hidden")
    for path in ("/", "/ana/demo", url(job)):
        page = visitor.get(path, 401)
        assert "polyjob token link" in page.text
        assert "hidden" not in page.text


@pytest.mark.parametrize(("hours", "status"), [(3, 200), (-3, 200), (-24 * 15, 401)])
def test_session_survives_clock_changes_within_its_lifetime(
    visitor: Browser, user: User, monkeypatch: pytest.MonkeyPatch, hours: int, status: int
) -> None:
    moment = time.time() + hours * 3600
    with monkeypatch.context() as patch:
        patch.setattr("itsdangerous.timed.time.time", lambda: moment)
        visitor.sign_in(user)
    visitor.get("/", status)
