"""Credentials of requests: tokens, a job's own token, browser sessions."""

from __future__ import annotations

import datetime
import re

import pytest

from polyjob.auth import sessions, users
from polyjob.auth.sign_in_links import create_sign_in_link
from polyjob.auth.tokens import digest, job_token
from polyjob.clock import now
from polyjob.db.database import write
from polyjob.db.models import Job, Meta, SignInLink, Token, User
from polyjob.statuses import Status

from .conftest import BASE, CONFIG, JOBS, Client, move_job, publish


def routes(app):
    """Return (method, path) of every view of the API."""
    for rule in app.url_map.iter_rules():
        if rule.rule.startswith("/api/v1/"):
            path = rule.rule.replace("<username>", "ana").replace("<project_name>", "demo").replace("<uuid>", "a" * 32)
            for method in rule.methods - {"HEAD", "OPTIONS"}:
                yield method, re.sub("<int:[a-z_]+>", "1", path)


OPEN = re.compile("/api/v1/(versions/[a-z]+|log_handler|users/token)")


def test_all_but_the_open_routes_need_credentials(app, client, anonymous):
    client.submit()
    count = 0
    for method, path in routes(app):
        response = anonymous.call(method, path)
        if OPEN.fullmatch(path):
            assert response.status_code in (200, 400)
            continue
        assert response.status_code == 401, (method, path)
        assert response.headers["WWW-Authenticate"] == "Token"
        assert response.json["detail"] == "Authentication credentials were not provided."
        count += 1
    assert count > 25
    assert Job.get().status is Status.CREATED


def test_missing_paths_need_credentials(anonymous, client):
    assert anonymous.get("/api/v1/ana/demo/nothing").status_code == 401
    assert client.get("/api/v1/ana/demo/nothing").status_code == 404


@pytest.mark.parametrize("word", ["token", "Token", "TOKEN", "Bearer", "bearer"])
def test_scheme_before_the_token_ignores_case(client, word):
    token = client.headers["Authorization"].split()[1]
    client.headers = {"Authorization": f"{word}  {token}"}
    assert client.get("/api/v1/users").json["username"] == "ana"


@pytest.mark.parametrize(
    ("header", "detail"),
    [
        ("token " + "0" * 40, "Invalid token."),
        ("token None", "Invalid token."),
        ("token é", "Invalid token."),
        ("token", "Invalid token header. No credentials provided."),
        ("token a b", "Invalid token header. Token string should not contain spaces."),
        ("Basic YTpi", "Authentication credentials were not provided."),
        ("InternalToken x", "Authentication credentials were not provided."),
        ("", "Authentication credentials were not provided."),
        ("token job-x-y", "Invalid token."),
    ],
)
def test_invalid_tokens_are_explained(client, header, detail):
    response = client.get("/api/v1/users", headers={"Authorization": header.encode().decode("latin-1")})
    assert (response.status_code, response.json["detail"]) == (401, detail)


def test_expired_token_is_explained(client):
    with write("test"):
        Token.update(expires_at=now() - datetime.timedelta(seconds=1)).execute()
    response = client.get("/api/v1/users")
    assert (response.status_code, response.json["detail"]) == (401, "Token expired")


def test_token_of_an_inactive_user_is_explained(client):
    with write("test"):
        User.update(is_active=False).execute()
    response = client.get("/api/v1/users")
    assert (response.status_code, response.json["detail"]) == (401, "User inactive or deleted.")


WRITES = [
    ("POST", JOBS),
    ("PATCH", f"{JOBS}/1"),
    ("PUT", f"{JOBS}/1"),
    ("DELETE", f"{JOBS}/1"),
    *(("POST", f"{JOBS}/1/{verb}") for verb in ("stop", "restart", "resume", "copy")),
    *(("POST", f"{JOBS}/1/{report}") for report in ("statuses", "_heartbeat", "coderef", "logs")),
    ("PUT", f"{BASE}/repo/upload"),
]  # fmt: skip
READS = [
    BASE, JOBS, f"{JOBS}/1", f"{JOBS}/1/statuses", f"{JOBS}/1/logs", f"{JOBS}/1/outputs", f"{JOBS}/1/outputs/download",
    f"{JOBS}/1/coderef", f"{BASE}/builds",
]  # fmt: skip


class TestOtherUser:
    def test_private_project_is_not_found(self, client, other):
        client.submit()
        for method, path in [*WRITES, *(("GET", path) for path in READS), ("POST", f"{JOBS}/1/bookmark")]:
            response = other.call(method, path, {"config": CONFIG})
            assert (response.status_code, response.json["detail"]) == (404, "Not found."), (method, path)
        assert Job.select().count() == 1
        assert other.get("/api/v1/ana").json["count"] == 0

    def test_public_project_is_readable(self, client, other):
        client.submit()
        publish()
        for path in READS:
            assert other.get(path).status_code == 200, path
        assert other.get("/api/v1/ana").json["count"] == 1

    def test_public_project_is_not_writable(self, client, other):
        client.submit()
        publish()
        for method, path in WRITES:
            response = other.call(method, path, {"config": CONFIG, "description": "bob was here"})
            assert response.status_code == 403, (method, path)
        job = Job.get()
        assert (Job.select().count(), job.description, job.status) == (1, None, Status.CREATED)

    def test_bookmarks_in_a_public_project_are_private(self, client, other):
        client.submit()
        publish()
        assert other.post(f"{JOBS}/1/bookmark").status_code == 201
        assert other.get(f"{JOBS}/1").json["bookmarked"] is True
        assert client.get(f"{JOBS}/1").json["bookmarked"] is False
        assert client.get(JOBS).json["results"][0]["bookmarked"] is False


def test_administrator_submits_in_their_own_name(admin, client):
    job = admin.submit()
    assert (job["user"], job["unique_name"]) == ("eva", "ana.demo.jobs.1")


class TestJobToken:
    @pytest.fixture
    def job(self, client):
        return move_job(client.submit()["id"], Status.SCHEDULED, Status.RUNNING)

    @pytest.fixture
    def inside(self, app, job):
        return Client(app, job_token(job.uuid, Meta.get_by_id("secret").value))

    def test_job_token_reads_and_reports_its_job(self, inside, job):
        for path in (f"{JOBS}/1", f"{JOBS}/1/", f"{JOBS}/1/statuses", f"{JOBS}/1/logs", f"{JOBS}/1/coderef"):
            assert inside.get(path).status_code == 200, path
        assert inside.post(f"{JOBS}/1/_heartbeat").status_code == 200
        assert inside.post(f"{JOBS}/1/statuses", {"status": "failed", "message": "it says"}).status_code == 201
        assert Job.get().status is Status.RUNNING
        assert "it says" in Job.get().notes[0]["text"]

    def test_job_token_can_do_nothing_else(self, app, inside, client):
        client.submit()
        allowed = {("GET", ""), ("PATCH", ""), ("PUT", ""), ("GET", "/statuses"), ("POST", "/statuses"),
                   ("GET", "/logs"), ("POST", "/logs"),
                   ("POST", "/_heartbeat"), ("GET", "/coderef"), ("POST", "/coderef")}  # fmt: skip
        for method, path in routes(app):
            of_job = path.removeprefix(f"{JOBS}/1")
            if OPEN.fullmatch(path) or (method, of_job) in allowed or of_job.startswith(("/statuses/", "/logs/")):
                continue
            assert inside.call(method, path).status_code == 403, (method, path)
        assert inside.get(f"{JOBS}/2").status_code == 403
        assert inside.post(f"{JOBS}/2/statuses", {}).status_code == 403
        assert Job.select().where(Job.deleted_at.is_null()).count() == 2

    def test_reported_stop_is_only_recorded(self, inside, job):
        assert inside.post(f"{JOBS}/1/statuses", {"status": "stopped"}).status_code == 201
        assert Job.get().stop_at is None

    def test_job_token_ends_with_the_job(self, inside, client, job):
        move_job(1, Status.SUCCEEDED)
        assert inside.get(f"{JOBS}/1").status_code == 401
        assert client.delete(f"{JOBS}/1").status_code == 204
        assert inside.get(f"{JOBS}/1").status_code == 401

    def test_job_token_of_another_installation_is_invalid(self, app, job):
        stranger = Client(app, job_token(job.uuid, "ab" * 32))
        assert stranger.get(f"{JOBS}/1").status_code == 401


class TestBrowsers:
    ORIGIN = {"Origin": "http://localhost"}

    @pytest.fixture
    def browser(self, app, client, user):
        browser = Client(app)
        token = create_sign_in_link(user)
        assert browser.get(f"/sign-in/{token}").status_code == 303
        return browser

    def token(self, browser):
        with browser.http.session_transaction() as session:
            return sessions.mask_secret(session["csrf"])

    def test_cookie_can_read(self, browser, client):
        client.submit()
        assert browser.get(JOBS).json["count"] == 1

    def test_cookie_is_hidden_from_scripts(self, app, client, user):
        response = Client(app).get(f"/sign-in/{create_sign_in_link(user)}")
        cookie = response.headers["Set-Cookie"]
        assert "HttpOnly" in cookie
        assert "SameSite=Lax" in cookie
        assert re.match("polyjob_[0-9a-f]{8}=", cookie)

    def test_changes_with_csrf_token_and_origin_are_accepted(self, browser):
        headers = self.ORIGIN | {"X-CSRF-Token": self.token(browser)}
        assert browser.post(JOBS, {"config": CONFIG}, headers=headers).status_code == 201

    @pytest.mark.parametrize(
        "headers",
        [
            {},
            {"Origin": "http://localhost"},
            {"Origin": "http://evil.example", "X-CSRF-Token": "{}"},
            {"Origin": "null", "X-CSRF-Token": "{}"},
            {"X-CSRF-Token": "{}"},
            {"Origin": "http://localhost", "X-CSRF-Token": "é"},
            {"Origin": "http://localhost", "X-CSRF-Token": ""},
        ],
    )
    def test_changes_without_them_are_refused(self, browser, headers):
        headers = {name: value.format(self.token(browser)) for name, value in headers.items()}
        assert browser.post(JOBS, {"config": CONFIG}, headers=headers).status_code == 403
        assert Job.select().count() == 0

    def test_pages_of_other_servers_cannot_read(self, browser):
        assert browser.get(JOBS, headers={"Origin": "http://evil.example"}).status_code == 403

    def test_cookie_is_bound_to_its_host(self, browser):
        assert browser.get(JOBS, base_url="http://localhost").status_code == 200
        cookie = browser.http._cookies
        stolen = "; ".join(f"{item.key}={item.value}" for item in cookie.values())
        response = browser.get(JOBS, base_url="http://evil.example", headers={"Cookie": stolen})
        assert response.status_code == 401

    def test_forged_cookie_is_refused(self, app, client):
        name = f"polyjob_{Meta.get_by_id('installation').value[:8]}"
        response = Client(app).get(JOBS, headers={"Cookie": f"{name}=eyJ1c2VyIjoxfQ.x.y"})
        assert response.status_code == 401

    def test_token_beside_the_cookie_needs_no_csrf_token(self, browser, client):
        assert browser.post(JOBS, {"config": CONFIG}, headers=client.headers).status_code == 201


def test_sign_in_link_works_once(app, client, user):
    token = create_sign_in_link(user)
    assert Client(app).get(f"/sign-in/{token}").status_code == 303
    assert not SignInLink.select().where(SignInLink.digest == digest(token)).exists()


HANDSHAKE = {"Connection": "Upgrade", "Upgrade": "websocket"}


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", f"{JOBS}/1/stop"),
        ("GET", JOBS),
        ("GET", f"{JOBS}/1/logs"),
        ("GET", "/api/v1/users"),
        ("DELETE", f"{JOBS}/1"),
        ("POST", f"{JOBS}/1/logs/stream"),
        ("GET", "/api/v1/tokens"),
    ],
)
def test_token_in_the_query_is_for_streams_only(method, path, app, user, client, anonymous):
    client.submit()
    token = users.create_token(user, "test")[1]
    assert anonymous.call(method, f"{path}?token={token}", headers=HANDSHAKE).status_code in (401, 405)
    assert Job.select().where(Job.stop_at.is_null(), Job.deleted_at.is_null()).exists()


@pytest.mark.parametrize("path", [f"{JOBS}/1/logs/stream", "/ws/v1/ana/demo/jobs/1/logs", "/v1/ana/demo/jobs/1/logs"])
def test_token_in_the_query_opens_streams(path, user, client, anonymous):
    client.submit()
    token = users.create_token(user, "test")[1]
    assert anonymous.get(f"{path}?token={token}", headers=HANDSHAKE).status_code == 503  # let in, but no real server
    assert anonymous.get(f"{path}?token=wrong", headers=HANDSHAKE).status_code == 401
