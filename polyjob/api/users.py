"""Users: who one is, a key for a password; and what administrators do with users."""

from __future__ import annotations

from typing import Any

from flask import Response, g, request, session
from marshmallow import Schema

from polyjob.api.blueprint import Blueprint
from polyjob.api.paging import limit, offset, page
from polyjob.api.request_body import read_body
from polyjob.api.request_context import empty, me
from polyjob.api.schemas.users import (
    LoginBody,
    OwnUserBody,
    PasswordBody,
    TokenSchema,
    UserCreateBody,
    UserRowSchema,
    UserSchema,
)
from polyjob.auth import identity, login, sessions, users
from polyjob.auth.permissions import Access, requires
from polyjob.auth.sessions import CSRF_HEADER
from polyjob.auth.tokens import LOGIN_TOKEN_NAME
from polyjob.db.models import User
from polyjob.errors import Forbidden, Invalid, Problem
from polyjob.jobconfig.checks import check_values, deserialize

blp = Blueprint("users", __name__, description="Users and their keys.")


@blp.get("/users")
@blp.response(200, UserSchema)
@requires(Access.READ)
def who_am_i() -> User:
    """Get the user whose key is shown"""
    return me()


@blp.patch("/users")
@blp.reads(OwnUserBody)
@blp.response(200, UserSchema)
@requires(Access.ACCOUNT)
def update_me() -> User:
    """Change one's own e-mail address"""
    sent = _read(OwnUserBody())
    return users.set_email(me(), sent["email"]) if "email" in sent else me()


@blp.post("/users/password")
@blp.reads(PasswordBody, required=True)
@blp.doc(responses={429: "TOO_MANY_REQUESTS"})
@blp.empty(200)
@requires(Access.ACCOUNT)
def set_password() -> Response:
    """Set one's password, or as an administrator somebody's; ends every session of that user"""
    sent = _read(PasswordBody())
    if sent.get("password") is None:
        raise Invalid([Problem("/password", "This field is required.")])
    user = me()
    if sent.get("username") not in (None, user.username):
        if not user.is_admin:  # before the look-up, which would tell who exists
            raise Forbidden("Only administrators can set the passwords of others.")
        user = users.find(sent["username"])
    login.set_password(user, sent["password"], old=sent.get("old_password"), identity=g.identity)
    return empty(200)


@blp.get("/users/logout")
@blp.empty(200)
@requires(Access.READ)
def log_out() -> Response:
    """End this browser's session, at the request of a page of this server; a key stays good"""
    if g.identity.is_browser:
        sessions.require_csrf_token(request.headers.get(CSRF_HEADER, ""), is_change=True)
        sessions.sign_out()
    return empty(200)


@blp.post("/users/session/refresh")
@blp.empty(200)
@requires(Access.READ)
def refresh_session() -> Response:
    """Have this browser's session last from now on"""
    session.modified = bool(session)
    return empty(200)


# For administrators.


@blp.get("/users/list")
@blp.page(UserRowSchema)
@requires(Access.ADMINISTRATOR)
def list_users() -> dict[str, Any]:
    """List the users, by name; for administrators"""
    query = users.list_users()
    return page(list(query.limit(limit()).offset(offset())), query.count())


@blp.post("/users/create")
@blp.reads(UserCreateBody, required=True)
@blp.response(201, UserRowSchema)
@requires(Access.ADMINISTRATOR)
def create_user() -> User:
    """Make a user; for administrators. Without a password, a key or link of an administrator's has to let them in"""
    sent = _read(UserCreateBody())
    if sent.get("username") is None:
        raise Invalid([Problem("/username", "This field is required.")])
    if sent.get("password") is not None:
        login.refuse_expiring_token(g.identity)
    return users.create(
        sent["username"], sent.get("password"), email=sent.get("email"), is_admin=bool(sent.get("is_admin"))
    )


@blp.delete("/users/delete/<username>")
@blp.may_conflict
@blp.empty(204)
@requires(Access.ADMINISTRATOR)
def delete_user(username: str) -> Response:
    """Delete a user who owns no project, with every key; for administrators"""
    users.delete(users.find(username))
    return empty(204)


@blp.post("/users/activate/<username>")
@blp.empty(200)
@requires(Access.ADMINISTRATOR)
def activate_user(username: str) -> Response:
    """Let a user in again; for administrators"""
    users.set_active(users.find(username), True)
    return empty(200)


@blp.post("/users/deactivate/<username>")
@blp.may_conflict
@blp.empty(200)
@requires(Access.ADMINISTRATOR)
def deactivate_user(username: str) -> Response:
    """Lock a user out: every key and session is dead at once, jobs go on; for administrators"""
    users.set_active(users.find(username), False)
    return empty(200)


@blp.post("/superusers/grant/<username>")
@blp.empty(200)
@requires(Access.ADMINISTRATOR)
def grant(username: str) -> Response:
    """Make a user an administrator; for administrators"""
    users.set_admin(users.find(username), True)
    return empty(200)


@blp.post("/superusers/revoke/<username>")
@blp.may_conflict
@blp.empty(200)
@requires(Access.ADMINISTRATOR)
def revoke(username: str) -> Response:
    """Make an administrator a user like others; for administrators"""
    users.set_admin(users.find(username), False)
    return empty(200)


# Login.


@blp.post("/users/token")
@blp.reads(LoginBody, required=True)
@blp.doc(responses={401: "UNAUTHORIZED", 403: "FORBIDDEN", 429: "TOO_MANY_REQUESTS"})
@blp.response(200, TokenSchema)
@requires(Access.OPEN)
def log_in() -> dict[str, Any]:
    """Get a key, good for 30 days, for a user's name and password; tries that fail slow the next ones down

    With `login`, the answer also sets the cookie of a session that ends with the key, and has the token that changes
    made with the cookie must send as `X-CSRF-Token`.
    """
    sent = _sent_login()
    if sent.get("login"):
        sessions.require_own_origin(is_change=False)
    user = login.check_password(sent["username"], sent["password"])
    token, key = users.create_token(user, LOGIN_TOKEN_NAME, identity.LOGIN_TOKEN_LIFETIME)
    if not sent.get("login"):
        return {"token": key}
    sessions.sign_in(user, token)
    return {"token": key, "csrf_token": sessions.csrf_token()}


def _read(schema: Schema) -> Any:
    body = read_body()
    check_values(body)
    return deserialize(schema, body, "")


def _sent_login() -> dict[str, Any]:
    sent: dict[str, Any] = _read(LoginBody())
    missing = [name for name in ("username", "password") if not sent.get(name)]
    if missing:
        raise Invalid([Problem(f"/{name}", "This field is required.") for name in missing])
    return sent
