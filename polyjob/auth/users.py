"""Operations on users and their tokens: create, list, change, delete, revoke.

No operation removes the last administrator who can sign in.
"""

from __future__ import annotations

import datetime
import re
from typing import Any

from peewee import ModelSelect, fn

from polyjob.auth.passwords import hash_password, is_password_of
from polyjob.auth.scopes import Scope
from polyjob.auth.tokens import LOGIN_TOKEN_NAME, digest, new_token
from polyjob.clock import now
from polyjob.db.database import write
from polyjob.db.models import Build, InviteLink, Job, Member, Project, Schedule, SignInLink, Token, Upload, User
from polyjob.errors import Conflict, Forbidden, Invalid, NotFound, Problem
from polyjob.services import audit

MAX_LOGIN_TOKENS = 20
"""Login tokens of one user; the oldest are deleted."""
MAX_TOKENS = 1000
MIN_PASSWORD_LENGTH = 8

_USERNAME = re.compile(r"[-a-zA-Z0-9_]{1,156}\Z")
# fmt: off
RESERVED_USERNAMES = frozenset({
    "admin", "api", "app", "archives", "audit", "bookmarks", "cluster", "docs", "health", "healthz", "help", "keys",
    "log_handler", "login", "logout", "metrics", "new-project", "nodes", "openapi", "password", "projects",
    "readyz", "searches", "settings", "sign-in", "sign-out", "static", "status", "submit", "superusers", "tokens",
    "users", "v1", "versions", "webhooks", "ws",
})
# fmt: on
"""Names that cannot become usernames, because they are, or may become, the first segment of a route's path."""


class WrongPassword(Invalid):
    """The old password is incorrect."""


def find(username: str) -> User:
    """Return the user of this name. Raises NotFound."""
    user = User.get_or_none(User.username == username, User.deleted_at.is_null())
    if user is None:
        raise NotFound(f"There is no user `{username}`.")
    return user


def find_for(viewer: User, username: str) -> User | None:
    """Return the user of this name, or None.

    Raises NotFound only for an administrator: to others, a missing user must look like one without visible projects.
    """
    if viewer.is_admin or viewer.username == username:
        return find(username)
    return User.get_or_none(User.username == username, User.deleted_at.is_null())


def list_users() -> ModelSelect[User]:
    """Return all users, sorted by name."""
    return User.select().where(User.deleted_at.is_null()).order_by(User.username)


def create(username: str, password: str | None = None, *, email: str | None = None, is_admin: bool = False) -> User:
    """Create a user.

    Raises Invalid if the name is not valid or is taken, in any case of its letters, or if the password is too short.
    """
    password_hash = hash_new_password(username, password)
    with write("user"):
        user = insert(username, password_hash, email=email, is_admin=is_admin)
        audit.record("create", user, is_admin=is_admin)
    return user


def hash_new_password(username: str, password: str | None) -> str | None:
    """Return the hash of the password of a new user. Raises Invalid if it is too short, or if the name is not valid."""
    if not _USERNAME.match(username) or username.lower() in RESERVED_USERNAMES:
        raise Invalid([Problem("/username", f"`{username}` is not a valid username.")])
    if password is None:
        return None
    _refuse_short(password)
    return hash_password(password)


def insert(username: str, password_hash: str | None, *, email: str | None = None, is_admin: bool = False) -> User:
    """Insert a user. Raises Invalid if the name is taken. Must be called inside `database.write`."""
    namesake = User.get_or_none(fn.LOWER(User.username) == username.lower())
    if namesake is not None:
        raise Invalid([Problem("/username", f"The user `{namesake.username}` already exists.")])
    columns = {"username": username, "email": email, "password_hash": password_hash, "is_admin": is_admin}
    return User.create(**columns, created_at=now())


def delete(user: User) -> None:
    """Delete the user with all tokens, sessions, roles in projects and invite links.

    A user who created jobs or schedules in the projects of others keeps a row without credentials, because those refer
    to it. The schedules submit nothing any more.

    Raises Conflict if the user owns projects or is the last administrator.
    """
    with write("user"):
        user = _reload(user)
        owned = list(Project.select().where(Project.user == user).limit(5))
        names = [project.name for project in owned if project.deleted_at is None]
        if names:
            raise Conflict(f"`{user.username}` owns projects; delete them first: {', '.join(names)}.")
        if owned:
            raise Conflict(f"Projects of `{user.username}` are still being removed.", 5)
        _refuse_last_administrator(user)
        audit.record("delete", user)
        _revoke_all_access(user)
        Member.delete().where(Member.user == user).execute()
        InviteLink.delete().where(InviteLink.creator == user).execute()
        if any(table.select().where(table.user == user).exists() for table in (Job, Build, Upload, Schedule)):
            columns = {"is_active": False, "is_admin": False, "password_hash": None, "email": None, "deleted_at": now()}
            User.update(**columns).where(User.id == user.id).execute()
        else:
            User.delete().where(User.id == user.id).execute()


def set_active(user: User, is_active: bool) -> None:
    """Activate or deactivate the user. Idempotent.

    Deactivating deletes all tokens and ends all sessions at once; the user's jobs go on. Raises Conflict for the last
    administrator.
    """
    with write("user"):
        user = _reload(user)
        if not is_active:
            _refuse_last_administrator(user)
            _revoke_all_access(user)
        if user.is_active != is_active:
            User.update(is_active=is_active).where(User.id == user.id).execute()
            audit.record("activate" if is_active else "deactivate", user)


def set_admin(user: User, is_admin: bool) -> None:
    """Grant or revoke administrator rights. Idempotent. Raises Conflict for the last administrator."""
    with write("user"):
        user = _reload(user)
        if not is_admin:
            _refuse_last_administrator(user)
        if user.is_admin != is_admin:
            User.update(is_admin=is_admin).where(User.id == user.id).execute()
            audit.record("grant" if is_admin else "revoke", user)


def set_email(user: User, email: str | None) -> User:
    """Set or remove the user's email address; return the updated user."""
    with write("user"):
        user = _reload(user)
        user.email = email
        User.update(email=email).where(User.id == user.id).execute()
        audit.record("update", user)
    return user


def set_password(user: User, password: str, *, old: str | None, by: User) -> None:
    """Set the user's password, as requested by the user `by`. Ends all browser sessions and login tokens.

    Users need their old password, if they have one, to change their own; administrators set those of others without.
    Raises Invalid, WrongPassword and Forbidden.
    """
    if by.id != user.id and not by.is_admin:
        raise Forbidden("Only administrators can set the passwords of others.")
    _refuse_short(password)
    if by.id == user.id and user.password_hash and not is_password_of(user, old or ""):
        raise WrongPassword([Problem("/old_password", "Incorrect old password.")])
    new_hash = hash_password(password)
    with write("user"):
        user = _reload(user)
        User.update(password_hash=new_hash).where(User.id == user.id).execute()
        Token.delete().where(Token.user == user, Token.name == LOGIN_TOKEN_NAME).execute()
        _end_sessions(user)
        audit.record("password", user)


def _refuse_short(password: str) -> None:
    if len(password) < MIN_PASSWORD_LENGTH:
        raise Invalid([Problem("/password", f"The password must have at least {MIN_PASSWORD_LENGTH} characters.")])


def _reload(user: User) -> User:
    reloaded = User.get_or_none(User.id == user.id, User.deleted_at.is_null())
    if reloaded is None:
        raise NotFound("The user was deleted.")
    return reloaded


def _refuse_last_administrator(user: User) -> None:
    others = User.select().where(User.is_admin, User.is_active, User.id != user.id)
    if user.is_admin and user.is_active and not others.exists():
        raise Conflict(f"`{user.username}` is the last administrator.")


def _revoke_all_access(user: User) -> None:
    Token.delete().where(Token.user == user).execute()
    _end_sessions(user)


def _end_sessions(user: User) -> None:
    SignInLink.delete().where(SignInLink.user == user).execute()
    User.update(session_version=User.session_version + 1).where(User.id == user.id).execute()


# Tokens.


def list_tokens(user: User) -> ModelSelect[Token]:
    """Return the user's tokens, newest first."""
    return Token.select().where(Token.user == user).order_by(Token.id.desc())


def create_token(
    user: User,
    name: str,
    lifetime: datetime.timedelta | None = None,
    *,
    scope: Scope = Scope.ADMIN,
    project: Project | None = None,
) -> tuple[Token, str]:
    """Create a token; return its row and the token itself, of which only a hash is stored.

    Expired tokens of the user are deleted. Raises Conflict if the user has too many tokens.
    """
    text, moment = new_token(), now()
    with write("token"):
        Token.delete().where(Token.user == user, Token.expires_at <= moment).execute()
        if Token.select().where(Token.user == user).count() >= MAX_TOKENS:
            raise Conflict(f"A user has at most {MAX_TOKENS} tokens; revoke some first.")
        token = Token.create(
            user=user,
            name=name,
            digest=digest(text),
            created_at=moment,
            expires_at=moment + lifetime if lifetime else None,
            scope=scope,
            project=project,
        )
        if name == LOGIN_TOKEN_NAME:
            login_tokens = (Token.user == user) & (Token.name == LOGIN_TOKEN_NAME)
            newest = Token.select(Token.id).where(login_tokens).order_by(Token.id.desc()).limit(MAX_LOGIN_TOKENS)
            Token.delete().where(login_tokens, Token.id.not_in(newest)).execute()
        audit.record("create", token, **_audit_details(token))
    return token, text


def _audit_details(token: Token) -> dict[str, Any]:
    project = token.project
    return {"scope": str(token.scope)} | ({"project": project.unique_name} if project else {})


def find_token(token_id: int, user: User) -> Token:
    """Return a token of the user, or any token if the user is an administrator. Raises NotFound."""
    token = Token.get_or_none(Token.id == token_id)
    if token is None or (token.user_id != user.id and not user.is_admin):
        raise NotFound(f"There is no token {token_id}.")
    return token


def revoke_token(token: Token) -> None:
    """Delete the token. It is invalid as soon as this returns. Idempotent."""
    with write("token"):
        if Token.delete().where(Token.id == token.id).execute():
            audit.record("revoke", token, user=token.user.username)
