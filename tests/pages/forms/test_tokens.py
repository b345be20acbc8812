"""The user's own tokens and password."""

from __future__ import annotations

import datetime
import re

import pytest

from polyjob.auth import identity as auth
from polyjob.auth import passwords, users
from polyjob.auth.scopes import Scope
from polyjob.clock import now
from polyjob.db.models import Audit, Token, User

from .conftest import EVIL, PASSWORD, Browser, Html


def shown_token(page: Html) -> str:
    match = re.search(r"\b[0-9a-f]{40}\b", page.text)
    assert match, page.text
    return match.group()


class TestTokens:
    def test_token_is_created_and_shown_once(self, ana: Browser, user: User) -> None:
        page = ana.fill("/keys", 201, at="/keys", name="ci", scope="submit", project="ana.demo", days="30")
        shown = shown_token(page)
        assert auth.identity_of_token(shown).user == user
        token = Token.get()
        assert (token.name, token.scope, token.project.name) == ("ci", "submit", "demo")
        assert 29 < (token.expires_at - now()).days + 1 < 31
        page = ana.get("/keys")
        assert shown not in page.text
        assert "ci" in page.text
        assert ana.http.get("/keys").headers["Cache-Control"] == "private, no-store"
        assert Audit.get(Audit.action == "create", Audit.kind == "token").username == "ana"

    def test_token_can_have_no_expiration(self, ana: Browser) -> None:
        ana.fill("/keys", 201, at="/keys", name="ci", days="")
        assert Token.get().expires_at is None

    @pytest.mark.parametrize(
        ("typed", "wrong"),
        [
            ({"name": ""}, "name"),
            ({"name": "login"}, "name"),
            ({"name": "x" * 200}, "name"),
            ({"name": "x", "scope": "all"}, "scope"),
            ({"name": "x", "project": "bob.secret"}, "project"),
            ({"name": "x", "days": "soon"}, "days"),
            ({"name": "x", "days": "999999"}, "days"),
        ],
    )
    def test_invalid_token_is_refused(self, ana: Browser, typed: dict[str, str], wrong: str) -> None:
        page = ana.fill("/keys", 400, at="/keys", **typed)
        assert [name for name in ("name", "scope", "project", "days") if "aria-invalid" in page.elements[name]] == [
            wrong
        ]
        assert f"#{wrong}" in page.links
        assert Token.select().count() == 0

    def test_names_are_escaped(self, ana: Browser) -> None:
        page = ana.fill("/keys", 201, at="/keys", name=EVIL)
        assert EVIL in page.text
        assert "img" not in page.tags
        assert "img" not in ana.get("/keys").tags
        assert "img" not in ana.get(f"/keys/{Token.get().id}/revoke").tags

    def test_command_line_token_takes_one_click(self, ana: Browser, user: User) -> None:
        page = ana.press("/app/token", "Create a command-line token", 201)
        identity = auth.identity_of_token(shown_token(page))
        assert (identity.user, identity.scope) == (user, Scope.ADMIN)
        assert identity.token and identity.token.expires_at

    def test_token_is_revoked_after_confirmation(self, ana: Browser, user: User) -> None:
        token, key = users.create_token(user, "old")
        path = f"/keys/{token.id}/revoke"
        assert path in ana.get("/keys").links
        assert "Revoke token old?" in ana.get(path).text
        assert auth.identity_of_token(key)
        ana.fill(path)
        assert "Token old was revoked." in ana.get("/keys").text
        with pytest.raises(auth.Unauthenticated):
            auth.identity_of_token(key)

    def test_tokens_of_other_users_are_not_found(self, ana: Browser, bob: Browser, user: User) -> None:
        token, key = users.create_token(user, "mine")
        bob.get(f"/keys/{token.id}/revoke", 404)
        bob.post(f"/keys/{token.id}/revoke", {"csrf_token": bob.csrf()}, 404)
        assert "mine" not in bob.get("/keys").text
        assert auth.identity_of_token(key)

    def test_created_token_does_not_outlive_the_session_token(self, visitor: Browser, user: User) -> None:
        visitor.fill("/sign-in", key=users.create_token(user, "short", datetime.timedelta(hours=1))[1])
        visitor.fill("/keys", 201, at="/keys", name="long", days="365")
        created = Token.get(Token.name == "long")
        assert created.expires_at - now() < datetime.timedelta(hours=1)

    def test_pages_need_a_sign_in(self, visitor: Browser, user: User) -> None:
        for path in ("/keys", "/app/token", "/password", "/new-project", "/submit"):
            assert visitor.get(path, 401).forms[0].fields["next"] == path


def test_expiring_token_cannot_set_a_password(visitor: Browser, user: User) -> None:
    visitor.fill("/sign-in", key=users.create_token(user, "short", datetime.timedelta(hours=1))[1])
    visitor.fill("/password", 403, password=PASSWORD, again=PASSWORD)
    assert User.get_by_id(user.id).password_hash is None


@pytest.mark.usefixtures("login_limits")
class TestPassword:
    def test_password_is_set_and_changed(self, ana: Browser, user: User, visitor: Browser) -> None:
        visitor.sign_in(user)
        ana.fill("/password", password=PASSWORD, again=PASSWORD)
        assert "Your password was changed" in ana.get("/keys").text
        visitor.get("/", 401)
        assert "old_password" in ana.get("/password").elements
        ana.fill("/password", old_password=PASSWORD, password="another one", again="another one")
        assert passwords.user_with_password("ana", "another one") == user
        visitor.fill("/sign-in", username="ana", password="another one")

    def test_invalid_password_is_refused(self, ana: Browser, user: User) -> None:
        assert "aria-invalid" in ana.fill("/password", 400, password="short", again="short").elements["password"]
        assert "aria-invalid" in ana.fill("/password", 400, password=PASSWORD, again="x").elements["again"]
        ana.fill("/password", password=PASSWORD, again=PASSWORD)
        page = ana.fill("/password", 400, old_password="wrong", password=PASSWORD, again=PASSWORD)
        assert "aria-invalid" in page.elements["old_password"]
        for _ in range(4):
            ana.fill("/password", 400, old_password="wrong", password=PASSWORD, again=PASSWORD)
        ana.fill("/password", 429, old_password=PASSWORD, password=PASSWORD, again=PASSWORD)
        ana.fill("/password", 403, csrf_token="")
