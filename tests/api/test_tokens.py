"""Tokens: create, list, revoke."""

from __future__ import annotations

import pytest

from polyjob.auth import users
from polyjob.auth.tokens import LOGIN_TOKEN_NAME

from .conftest import BASE, Client, pointers
from .helpers import TOKENS, USERS


class TestTokens:
    def test_tokens_of_an_expiring_token_end_with_it(self, client, app):
        creator = Client(app, client.post(TOKENS, {"name": "short", "expires_in": 60}).json["token"])
        created = creator.post(TOKENS, {"name": "child"}).json
        assert created["expires_at"] is not None
        shorter = creator.post(TOKENS, {"name": "child", "expires_in": 5}).json
        assert shorter["expires_at"] < created["expires_at"]

    def test_tokens_are_shown_once(self, client, app):
        response = client.post(TOKENS, {"name": "ci", "scope": "submit", "project": "demo", "expires_in": 60})
        assert response.status_code == 201
        created = response.json
        assert (created["name"], created["scope"], created["project"], created["user"]) == (
            "ci",
            "submit",
            "ana.demo",
            "ana",
        )
        assert created["expires_at"] > created["created_at"]
        assert Client(app, created["token"]).get(BASE).status_code == 200
        listed = client.get(TOKENS)
        assert created["token"] not in listed.text
        row = listed.json["results"][0]
        assert row == {key: value for key, value in created.items() if key != "token"} | {
            "last_used_at": row["last_used_at"]
        }
        assert row["last_used_at"] is not None

    def test_revoked_tokens_are_invalid(self, client, app):
        created = client.post(TOKENS, {"name": "ci"}).json
        assert (created["scope"], created["project"], created["expires_at"]) == ("admin", None, None)
        assert client.delete(f"{TOKENS}/{created['id']}").status_code == 204
        assert Client(app, created["token"]).get(USERS).status_code == 401
        assert client.delete(f"{TOKENS}/{created['id']}").status_code == 404

    def test_tokens_of_others_are_for_administrators(self, client, other, admin):
        created = client.post(TOKENS, {"name": "ci"}).json
        assert other.delete(f"{TOKENS}/{created['id']}").status_code == 404
        assert other.get(f"{TOKENS}?user=ana").status_code == 403
        assert other.get(f"{TOKENS}?user=bob").json["count"] == 1
        assert admin.get(f"{TOKENS}?user=ana").json["results"][0]["name"] == "ci"
        assert admin.delete(f"{TOKENS}/{created['id']}").status_code == 204

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
