"""User management: users, passwords, and the end of tokens and sessions."""

from __future__ import annotations

import pytest

from polyjob.auth import login, users
from polyjob.auth.sessions import mask_secret
from polyjob.auth.sign_in_links import create_sign_in_link
from polyjob.auth.throttle import FailureLimit
from polyjob.auth.tokens import LOGIN_TOKEN_NAME
from polyjob.clock import now
from polyjob.db.database import write
from polyjob.db.models import Token, User
from polyjob.services import schedules, submission

from .conftest import CONFIG, JOBS, Client, pointers
from .helpers import PASSWORD, TOKENS, USERS, log_in


class TestUsers:
    def test_users_are_created_and_listed(self, admin, app):
        sent = {"username": "bob", "password": PASSWORD, "email": "bob@localhost", "is_admin": True}
        response = admin.post(f"{USERS}/create", sent)
        assert response.status_code == 201
        assert response.json | {"username": "bob", "is_superuser": True, "has_password": True} == response.json
        assert PASSWORD not in response.text
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
        response = admin.delete(f"{USERS}/delete/ana")
        assert response.status_code == 409
        assert "demo" in response.json["detail"]

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

    def test_deleted_users_with_schedules_elsewhere_keep_a_row(self, admin, other, project, settings):
        fields = {"cron": "0 3 * * *", "job": {"config": CONFIG}}
        schedules.create(project, User.get(User.username == "bob"), fields, settings)
        assert admin.delete(f"{USERS}/delete/bob").status_code == 204
        assert admin.get("/api/v1/ana/demo/schedules/1").json["user"] == "bob"

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
            response = call()
            assert (response.status_code, response.json["detail"]) == (409, "`eva` is the last administrator.")
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
        assert [response.status_code for response in tries] == [400, 400, 429]

    def test_reactivation_does_not_revive_sessions(self, admin, app):

        browser, bob = app.test_client(), users.create("bob", PASSWORD)
        browser.get(f"/sign-in/{create_sign_in_link(bob)}")
        assert browser.get("/").status_code == 200
        admin.post(f"{USERS}/deactivate/bob")
        admin.post(f"{USERS}/activate/bob")
        assert browser.get("/").status_code == 401


def test_sessions_can_be_ended_and_renewed(app, user, client):

    browser = app.test_client()
    browser.get(f"/sign-in/{create_sign_in_link(user)}")
    with browser.session_transaction() as session:
        headers = {"Origin": "http://localhost", "X-CSRF-Token": mask_secret(session["csrf"])}
    assert browser.post(f"{USERS}/session/refresh", headers=headers).headers["Set-Cookie"]
    assert browser.get(f"{USERS}/logout").status_code == 403
    assert browser.get(f"{USERS}/logout", headers=headers | {"Origin": "http://evil.example"}).status_code == 403
    assert browser.get("/").status_code == 200
    assert browser.get(f"{USERS}/logout", headers=headers).status_code == 200
    assert browser.get("/").status_code == 401
    assert client.patch(USERS, {"email": "ana@localhost"}).json["email"] == "ana@localhost"
    assert client.patch(USERS, {}).json["email"] == "ana@localhost"
    assert pointers(client.patch(USERS, {"email": "x"})) == ["/email"]
