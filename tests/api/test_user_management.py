"""Users made, changed, locked out and deleted; keys made and revoked; and the trail of it."""

from __future__ import annotations

import pytest

from polyjob.auth import login, users
from polyjob.auth.sign_in_links import create_sign_in_link
from polyjob.auth.throttle import FailureLimit
from polyjob.auth.tokens import LOGIN_TOKEN_NAME
from polyjob.clock import now
from polyjob.db.database import write
from polyjob.db.models import Audit, Project, Token, User
from polyjob.services import audit, submission

from .conftest import BASE, CONFIG, JOBS, Client, pointers

USERS = "/api/v1/users"
TOKENS = "/api/v1/tokens"
PASSWORD = "a long password"


def log_in(app, username, password):
    answer = Client(app).post(f"{USERS}/token", {"username": username, "password": password})
    return Client(app, answer.json["token"]) if answer.status_code == 200 else None


class TestUsers:
    def test_users_are_created_and_listed(self, admin, app):
        sent = {"username": "bob", "password": PASSWORD, "email": "bob@localhost", "is_admin": True}
        answer = admin.post(f"{USERS}/create", sent)
        assert answer.status_code == 201
        assert answer.json | {"username": "bob", "is_superuser": True, "has_password": True} == answer.json
        assert PASSWORD not in answer.text
        listed = admin.get(f"{USERS}/list").json
        assert [row["username"] for row in listed["results"]] == ["ana", "bob", "eva"]
        assert log_in(app, "bob", PASSWORD).get(USERS).json["email"] == "bob@localhost"

    @pytest.mark.parametrize(
        ("body", "field"),
        [({}, "/username"), ({"username": "ana"}, "/username"), ({"username": "a b"}, "/username"),
         ({"username": "bob", "password": "short"}, "/password"), ({"username": "bob", "email": "x"}, "/email")],
    )  # fmt: skip
    def test_invalid_users_are_refused(self, admin, body, field):
        assert pointers(admin.post(f"{USERS}/create", body)) == [field]
        assert User.select().count() == 2

    @pytest.mark.parametrize("name", ["ANA", "Ana", "aNa"])
    def test_names_that_differ_only_in_case_are_refused(self, admin, name):
        assert pointers(admin.post(f"{USERS}/create", {"username": name})) == ["/username"]

    def test_existing_names_that_differ_in_case_still_work(self, app, user):
        with write("test"):
            twin = User.create(username="ANA", created_at=now())
        for each in (user, twin):
            assert Client(app, users.create_token(each, "test")[1]).get(USERS).json["username"] == each.username

    def test_users_with_projects_are_not_deleted(self, admin):
        answer = admin.delete(f"{USERS}/delete/ana")
        assert answer.status_code == 409
        assert "demo" in answer.json["detail"]

    def test_deleted_users_lose_their_tokens(self, admin, other):
        assert other.get(USERS).status_code == 200
        assert admin.delete(f"{USERS}/delete/bob").status_code == 204
        assert other.get(USERS).status_code == 401
        assert User.get_or_none(User.username == "bob") is None
        assert admin.delete(f"{USERS}/delete/bob").status_code == 404

    def test_deleted_users_with_jobs_elsewhere_keep_a_row(self, admin, other, project, settings):
        submission.create(project, User.get(User.username == "bob"), {"config": CONFIG}, settings)
        assert admin.delete(f"{USERS}/delete/bob").status_code == 204
        assert other.get(USERS).status_code == 401
        assert admin.get(f"{JOBS}/1").json["user"] == "bob"
        assert "bob" not in [row["username"] for row in admin.get(f"{USERS}/list").json["results"]]
        assert admin.post(f"{USERS}/activate/bob").status_code == 404
        assert admin.delete(f"{USERS}/delete/bob").status_code == 404
        assert pointers(admin.post(f"{USERS}/create", {"username": "bob"})) == ["/username"]

    def test_reactivated_users_need_new_tokens(self, admin, other):
        for _ in range(2):
            assert admin.post(f"{USERS}/deactivate/bob").status_code == 200
        assert other.get(USERS).status_code == 401
        assert Token.select().join(User).where(User.username == "bob").count() == 0
        assert admin.post(f"{USERS}/activate/bob").status_code == 200
        assert User.get(User.username == "bob").is_active

    def test_last_administrator_cannot_be_removed(self, admin):
        for call in (
            lambda: admin.delete(f"{USERS}/delete/eva"),
            lambda: admin.post(f"{USERS}/deactivate/eva"),
            lambda: admin.post("/api/v1/superusers/revoke/eva"),
        ):
            answer = call()
            assert (answer.status_code, answer.json["detail"]) == (409, "`eva` is the last administrator.")
        assert admin.post("/api/v1/superusers/grant/ana").status_code == 200
        assert admin.post("/api/v1/superusers/revoke/eva").status_code == 200
        assert admin.get(f"{USERS}/list").status_code == 403


class TestPasswords:
    def test_own_password_needs_the_old_one(self, client, app):
        assert client.post(f"{USERS}/password", {"password": PASSWORD}).status_code == 200
        assert log_in(app, "ana", PASSWORD)
        again = {"password": f"{PASSWORD}!"}
        assert pointers(client.post(f"{USERS}/password", again)) == ["/old_password"]
        assert pointers(client.post(f"{USERS}/password", again | {"old_password": "x"})) == ["/old_password"]
        assert client.post(f"{USERS}/password", again | {"old_password": PASSWORD}).status_code == 200
        assert log_in(app, "ana", PASSWORD) is None

    def test_new_password_ends_logins_but_not_named_tokens(self, client, app):
        client.post(f"{USERS}/password", {"password": PASSWORD})
        logged_in = log_in(app, "ana", PASSWORD)
        client.post(f"{USERS}/password", {"password": f"{PASSWORD}!", "old_password": PASSWORD})
        assert logged_in.get(USERS).status_code == 401
        assert client.get(USERS).status_code == 200

    def test_new_password_ends_browser_sessions(self, client, app, user):

        browser = app.test_client()
        link = create_sign_in_link(user)
        assert browser.get(f"/sign-in/{link}").status_code == 303
        assert browser.get("/").status_code == 200
        client.post(f"{USERS}/password", {"password": PASSWORD})
        assert browser.get("/").status_code == 401

    def test_passwords_of_others_are_for_administrators(self, client, admin, app):
        sent = {"username": "ana", "password": PASSWORD}
        assert admin.post(f"{USERS}/password", sent).status_code == 200
        assert log_in(app, "ana", PASSWORD)
        assert client.post(f"{USERS}/password", sent | {"username": "eva"}).status_code == 403

    @pytest.mark.parametrize("password", [None, "short", "x" * 1001])
    def test_invalid_passwords_are_refused(self, client, password):
        assert pointers(client.post(f"{USERS}/password", {"password": password})) == ["/password"]

    @pytest.mark.parametrize(
        ("path", "body"),
        [
            ("password", {"password": PASSWORD}),
            ("password", {"username": "ana", "password": PASSWORD}),
            ("create", {"username": "bob", "password": PASSWORD, "is_admin": True}),
        ],
    )
    def test_expiring_tokens_cannot_set_passwords(self, app, admin, path, body):
        short = Client(app, admin.post(TOKENS, {"name": "short", "expires_in": 60}).json["token"])
        assert short.post(f"{USERS}/{path}", body).status_code == 403
        assert not User.select().where(User.password_hash.is_null(False)).exists()
        assert short.post(f"{USERS}/create", {"username": "bob"}).status_code == 201

    def test_login_tokens_can_set_passwords(self, app, admin):
        assert admin.post(f"{USERS}/password", {"password": PASSWORD}).status_code == 200
        sent = {"password": "another password", "old_password": PASSWORD}
        assert log_in(app, "eva", PASSWORD).post(f"{USERS}/password", sent).status_code == 200

    @pytest.mark.parametrize("name", ["eva", "nobody"])
    def test_passwords_of_others_do_not_reveal_users(self, client, admin, name):
        assert client.post(f"{USERS}/password", {"username": name, "password": PASSWORD}).status_code == 403

    def test_number_of_login_tokens_is_bounded(self, user):
        for _ in range(users.MAX_LOGIN_TOKENS + 3):
            users.create_token(user, LOGIN_TOKEN_NAME)
        users.create_token(user, "kept")
        assert Token.select().count() == users.MAX_LOGIN_TOKENS + 1
        assert Token.get_or_none(Token.id == 1) is None

    def test_wrong_old_passwords_are_throttled(self, client, login_limits, monkeypatch):
        monkeypatch.setattr(login, "_by_account", FailureLimit(2))
        client.post(f"{USERS}/password", {"password": PASSWORD})
        tries = [client.post(f"{USERS}/password", {"password": PASSWORD, "old_password": "x"}) for _ in range(3)]
        assert [answer.status_code for answer in tries] == [400, 400, 429]

    def test_reactivation_does_not_revive_sessions(self, admin, app):

        browser, bob = app.test_client(), users.create("bob", PASSWORD)
        browser.get(f"/sign-in/{create_sign_in_link(bob)}")
        assert browser.get("/").status_code == 200
        admin.post(f"{USERS}/deactivate/bob")
        admin.post(f"{USERS}/activate/bob")
        assert browser.get("/").status_code == 401


class TestTokens:
    def test_tokens_of_an_expiring_token_end_with_it(self, client, app):
        maker = Client(app, client.post(TOKENS, {"name": "short", "expires_in": 60}).json["token"])
        made = maker.post(TOKENS, {"name": "child"}).json
        assert made["expires_at"] is not None
        shorter = maker.post(TOKENS, {"name": "child", "expires_in": 5}).json
        assert shorter["expires_at"] < made["expires_at"]

    def test_tokens_are_shown_once(self, client, app):
        answer = client.post(TOKENS, {"name": "ci", "scope": "submit", "project": "demo", "expires_in": 60})
        assert answer.status_code == 201
        made = answer.json
        assert (made["name"], made["scope"], made["project"], made["user"]) == ("ci", "submit", "ana.demo", "ana")
        assert made["expires_at"] > made["created_at"]
        assert Client(app, made["token"]).get(BASE).status_code == 200
        listed = client.get(TOKENS)
        assert made["token"] not in listed.text
        row = listed.json["results"][0]
        assert row == {key: value for key, value in made.items() if key != "token"} | {
            "last_used_at": row["last_used_at"]
        }
        assert row["last_used_at"] is not None

    def test_revoked_tokens_are_invalid(self, client, app):
        made = client.post(TOKENS, {"name": "ci"}).json
        assert (made["scope"], made["project"], made["expires_at"]) == ("admin", None, None)
        assert client.delete(f"{TOKENS}/{made['id']}").status_code == 204
        assert Client(app, made["token"]).get(USERS).status_code == 401
        assert client.delete(f"{TOKENS}/{made['id']}").status_code == 404

    def test_tokens_of_others_are_for_administrators(self, client, other, admin):
        made = client.post(TOKENS, {"name": "ci"}).json
        assert other.delete(f"{TOKENS}/{made['id']}").status_code == 404
        assert other.get(f"{TOKENS}?user=ana").status_code == 403
        assert other.get(f"{TOKENS}?user=bob").json["count"] == 1
        assert admin.get(f"{TOKENS}?user=ana").json["results"][0]["name"] == "ci"
        assert admin.delete(f"{TOKENS}/{made['id']}").status_code == 204

    @pytest.mark.parametrize(
        ("body", "field"),
        [({}, "/name"), ({"name": ""}, "/name"), ({"name": LOGIN_TOKEN_NAME}, "/name"),
         ({"name": "a", "scope": "all"}, "/scope"),
         ({"name": "a", "project": "none"}, "/project"), ({"name": "a", "expires_in": 0}, "/expires_in"),
         ({"name": "a", "expires_in": 10**12}, "/expires_in"), ({"name": "a", "project": "bob.secret"}, "/project")],
    )  # fmt: skip
    def test_invalid_tokens_are_refused(self, client, other, body, field):
        other.post("/api/v1/projects", {"name": "secret"})
        assert pointers(client.post(TOKENS, body)) == [field]

    def test_number_of_tokens_is_bounded(self, client, monkeypatch):
        monkeypatch.setattr(users, "MAX_TOKENS", 1)
        assert client.post(TOKENS, {"name": "x"}).status_code == 409


class TestAudit:
    def test_records_name_actor_action_and_token(self, client, admin):
        client.submit()
        client.patch(f"{JOBS}/1", {"description": "d"})
        client.post(f"{JOBS}/1/stop")
        client.post(f"{JOBS}/1/restart")
        client.delete(f"{JOBS}/1")
        listed = admin.get("/api/v1/audit?kind=job").json["results"]
        assert [row["action"] for row in reversed(listed)] == ["create", "update", "stop", "restart", "delete"]
        assert {row["user"] for row in listed} == {"ana"}
        assert {row["token"] for row in listed} == {"test"}
        assert {row["address"] for row in listed} == {"127.0.0.1"}
        assert listed[0]["target"] == "ana.demo.jobs.1"
        assert listed[1]["details"] == {"original": 1}
        assert listed[-2]["details"] == {"changed": ["description"]}

    def test_audit_of_a_job_needs_write_access(self, client, other):
        client.submit(), client.submit()
        client.post(f"{JOBS}/1/stop")
        assert [row["action"] for row in client.get(f"{JOBS}/1/audit").json["results"]] == ["stop", "create"]
        client.patch(BASE, {"is_public": True})
        assert other.get(f"{JOBS}/1/audit").status_code == 403

    def test_every_kind_of_change_is_recorded(self, client, admin):
        client.post("/api/v1/projects", {"name": "p"})
        client.post("/api/v1/ana/p/archive")
        client.post("/api/v1/ana/p/restore")
        client.patch("/api/v1/ana/p", {"description": "x"})
        client.post("/api/v1/ana/p/builds", {"build": {"image": "a"}})
        client.post("/api/v1/ana/p/builds/1/stop")
        client.post("/api/v1/ana/p/builds/1/invalidate")
        client.delete("/api/v1/ana/p")
        client.post(f"{USERS}/password", {"password": PASSWORD})
        made = client.post(TOKENS, {"name": "ci"}).json
        client.delete(f"{TOKENS}/{made['id']}")
        told = {(row.kind, row.action) for row in audit.list_entries(user="ana")}
        assert told >= {
            ("project", "create"), ("project", "archive"), ("project", "restore"), ("project", "update"),
            ("project", "delete"), ("build", "create"), ("build", "stop"), ("build", "invalidate"),
            ("user", "password"), ("token", "create"), ("token", "revoke"),
        }  # fmt: skip
        assert PASSWORD not in str(list(Audit.select().dicts()))

    def test_failed_logins_are_recorded(self, client, admin, app):
        log_in(app, "ana", "wrong")
        log_in(app, "nobody", "wrong")
        told = [row for row in admin.get("/api/v1/audit?kind=user").json["results"] if row["action"] == "login failed"]
        assert [row["target"] for row in told] == ["nobody", "ana"]
        too_long = {"username": "x" * 157, "password": "y"}
        assert pointers(Client(app).post(f"{USERS}/token", too_long)) == ["/username"]

    def test_records_outlive_their_objects(self, client, other, admin):
        other.post("/api/v1/projects", {"name": "p"})
        with write("test"):
            Project.delete().where(Project.name == "p").execute()
        admin.delete(f"{USERS}/delete/bob")
        rows = [row for row in admin.get("/api/v1/audit?user=bob").json["results"] if row["kind"] == "project"]
        assert [row["target"] for row in rows] == ["bob.p"]

    def test_records_are_paged_by_id(self, client, admin):
        client.submit(), client.submit()
        assert admin.get("/api/v1/audit?kind=job&target_id=2").json["count"] == 1
        assert pointers(admin.get("/api/v1/audit?kind=x")) == ["kind"]
        assert pointers(admin.get("/api/v1/audit?target_id=x")) == ["target_id"]

    def test_changes_without_an_actor_are_not_recorded(self, project, user, settings):
        submission.create(project, user, {"config": CONFIG}, settings)
        assert Audit.select().count() == 0

    def test_old_records_are_removed(self, client):
        client.submit(), client.submit()
        with write("test"):
            Audit.update(created_at=now() - users.datetime.timedelta(days=9)).where(Audit.id == 1).execute()
            assert audit.prune(10, 100) == 0
            assert audit.prune(8, 100) == 1
        assert Audit.select().count() > 0


def test_sessions_can_be_ended_and_renewed(app, user, client):

    browser = app.test_client()
    browser.get(f"/sign-in/{create_sign_in_link(user)}")
    with browser.session_transaction() as session:
        headers = {"Origin": "http://localhost", "X-CSRF-Token": session["csrf"]}
    assert browser.post(f"{USERS}/session/refresh", headers=headers).headers["Set-Cookie"]
    assert browser.get(f"{USERS}/logout").status_code == 403
    assert browser.get(f"{USERS}/logout", headers=headers | {"Origin": "http://evil.example"}).status_code == 403
    assert browser.get("/").status_code == 200
    assert browser.get(f"{USERS}/logout", headers=headers).status_code == 200
    assert browser.get("/").status_code == 401
    assert client.patch(USERS, {"email": "ana@localhost"}).json["email"] == "ana@localhost"
    assert client.patch(USERS, {}).json["email"] == "ana@localhost"
    assert pointers(client.patch(USERS, {"email": "x"})) == ["/email"]
