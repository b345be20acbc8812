"""Users: the current user, login, passwords; and user management for administrators."""

from __future__ import annotations

from typing import Any

from flask import Response, g, request, session
from marshmallow import Schema

from polyjob.api.blueprint import Blueprint
from polyjob.api.paging import page_of_query
from polyjob.api.request_body import read_body
from polyjob.api.request_context import empty, me
from polyjob.api.schemas.common import load_body
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

blp = Blueprint("users", __name__, description="Users and login.")


@blp.get("/users")
@blp.response(200, UserSchema)
@requires(Access.READ)
def who_am_i() -> User:
    """Get the current user"""
    return me()


@blp.patch("/users")
@blp.reads(OwnUserBody)
@blp.response(200, UserSchema)
@requires(Access.ACCOUNT)
def update_me() -> User:
    """Change your e-mail address"""
    body = _read(OwnUserBody())
    return users.set_email(me(), body["email"]) if "email" in body else me()


@blp.post("/users/password")
@blp.reads(PasswordBody, required=True)
@blp.doc(responses={429: "TOO_MANY_REQUESTS"})
@blp.empty(200)
@requires(Access.ACCOUNT)
def set_password() -> Response:
    """Set your password, or that of another user as an administrator; ends the user's sessions"""
    body = _read(PasswordBody())
    if body.get("password") is None:
        raise Invalid([Problem("/password", "This field is required.")])
    user = me()
    if body.get("username") not in (None, user.username):
        if not user.is_admin:  # before the look-up, which would reveal who exists
            raise Forbidden("Only administrators can set the passwords of others.")
        user = users.find(body["username"])
    login.set_password(user, body["password"], old=body.get("old_password"), identity=g.identity)
    return empty(200)


@blp.get("/users/logout")
@blp.empty(200)
@requires(Access.READ)
def log_out() -> Response:
    """End this browser's session; tokens stay valid"""
    if g.identity.is_browser:
        sessions.require_csrf_token(request.headers.get(CSRF_HEADER, ""), is_change=True)
        sessions.sign_out()
    return empty(200)


@blp.post("/users/session/refresh")
@blp.empty(200)
@requires(Access.READ)
def refresh_session() -> Response:
    """Extend this browser's session"""
    session.modified = bool(session)
    return empty(200)


# User management, for administrators.


@blp.get("/users/list")
@blp.page(UserRowSchema)
@requires(Access.ADMINISTRATOR)
def list_users() -> dict[str, Any]:
    """List the users, by name; for administrators"""
    query = users.list_users()
    return page_of_query(query)


@blp.post("/users/create")
@blp.reads(UserCreateBody, required=True)
@blp.response(201, UserRowSchema)
@requires(Access.ADMINISTRATOR)
def create_user() -> User:
    """Create a user; for administrators. A user without a password needs a token or a sign-in link"""
    body = _read(UserCreateBody())
    if body.get("username") is None:
        raise Invalid([Problem("/username", "This field is required.")])
    if body.get("password") is not None:
        login.refuse_expiring_token(g.identity)
    return users.create(
        body["username"], body.get("password"), email=body.get("email"), is_admin=bool(body.get("is_admin"))
    )


@blp.delete("/users/delete/<username>")
@blp.may_conflict
@blp.empty(204)
@requires(Access.ADMINISTRATOR)
def delete_user(username: str) -> Response:
    """Delete a user who owns no project, and the user's tokens; for administrators"""
    users.delete(users.find(username))
    return empty(204)


@blp.post("/users/activate/<username>")
@blp.empty(200)
@requires(Access.ADMINISTRATOR)
def activate_user(username: str) -> Response:
    """Activate a user again; for administrators"""
    users.set_active(users.find(username), True)
    return empty(200)


@blp.post("/users/deactivate/<username>")
@blp.may_conflict
@blp.empty(200)
@requires(Access.ADMINISTRATOR)
def deactivate_user(username: str) -> Response:
    """Deactivate a user: all tokens and sessions end at once, jobs go on; for administrators"""
    users.set_active(users.find(username), False)
    return empty(200)


@blp.post("/superusers/grant/<username>")
@blp.empty(200)
@requires(Access.ADMINISTRATOR)
def grant(username: str) -> Response:
    """Grant a user administrator rights; for administrators"""
    users.set_admin(users.find(username), True)
    return empty(200)


@blp.post("/superusers/revoke/<username>")
@blp.may_conflict
@blp.empty(200)
@requires(Access.ADMINISTRATOR)
def revoke(username: str) -> Response:
    """Revoke a user's administrator rights; for administrators"""
    users.set_admin(users.find(username), False)
    return empty(200)


# Login.


@blp.post("/users/token")
@blp.reads(LoginBody, required=True)
@blp.doc(responses={401: "UNAUTHORIZED", 403: "FORBIDDEN", 429: "TOO_MANY_REQUESTS"})
@blp.response(200, TokenSchema)
@requires(Access.OPEN)
def log_in() -> dict[str, Any]:
    """Get a token for a username and password; it is valid for 30 days

    Failed attempts delay the next ones. With `login`, the response also sets the cookie of a session that ends with the
    token. Requests that change something with that cookie must send the `csrf_token` as `X-CSRF-Token`.
    """
    credentials = _read_login()
    if credentials.get("login"):
        sessions.require_own_origin(is_change=False)
    user = login.check_password(credentials["username"], credentials["password"])
    token, secret = users.create_token(user, LOGIN_TOKEN_NAME, identity.LOGIN_TOKEN_LIFETIME)
    if not credentials.get("login"):
        return {"token": secret}
    sessions.sign_in(user, token)
    return {"token": secret, "csrf_token": sessions.csrf_token()}


def _read(schema: Schema) -> Any:
    return load_body(schema, read_body())


def _read_login() -> dict[str, Any]:
    body: dict[str, Any] = _read(LoginBody())
    missing = [name for name in ("username", "password") if not body.get(name)]
    if missing:
        raise Invalid([Problem(f"/{name}", "This field is required.") for name in missing])
    return body
