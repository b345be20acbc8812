"""What can be done with users and their keys: make, list, change, delete, revoke.

No verb leaves the server without an administrator who can sign in.
"""

from __future__ import annotations

import datetime
import re
from typing import Any

from peewee import ModelSelect, fn

from polyjob.auth.passwords import hash_password, is_password_of
from polyjob.auth.scopes import Scope
from polyjob.auth.tokens import LOGIN, digest, new_token
from polyjob.clock import now
from polyjob.db.database import write
from polyjob.db.models import Build, Job, Project, SignInLink, Token, Upload, User
from polyjob.errors import Conflict, Forbidden, Invalid, NotFound, Problem
from polyjob.services import audit

MAX_LOGIN_TOKENS = 20
"""Keys that a user got for a password and has at once; the oldest go."""
MAX_TOKENS = 1000
MIN_PASSWORD_LENGTH = 8

_USERNAME = re.compile(r"[-a-zA-Z0-9_]{1,156}\Z")
# fmt: off
RESERVED_USERNAMES = frozenset({
    "admin", "api", "app", "archives", "audit", "bookmarks", "cluster", "docs", "health", "healthz", "help", "keys",
    "log_handler", "login", "logout", "metrics", "new-project", "nodes", "openapi", "password", "projects",
    "readyz", "searches", "settings", "sign-in", "sign-out", "static", "status", "submit", "superusers", "tokens",
    "users", "v1", "versions", "ws",
})
# fmt: on
"""First segments of paths that are, or will be, no user's."""


class WrongPassword(Invalid):
    """The old password is another."""


def find(username: str) -> User:
    """Raises NotFound."""
    user = User.get_or_none(User.username == username, User.deleted_at.is_null())
    if user is None:
        raise NotFound(f"There is no user `{username}`.")
    return user


def find_for(asking: User, username: str) -> User | None:
    """The user of this name. None where there is none, and the asker may not know that; raises NotFound to an
    administrator."""
    if asking.is_admin or asking.username == username:
        return find(username)
    return User.get_or_none(User.username == username, User.deleted_at.is_null())


def list_users() -> ModelSelect[User]:
    """By name."""
    return User.select().where(User.deleted_at.is_null()).order_by(User.username)


def create(username: str, password: str | None = None, *, email: str | None = None, is_admin: bool = False) -> User:
    """Raises Invalid where the name does not do or is taken, in whatever case, or the password is too short."""
    if not _USERNAME.match(username) or username.lower() in RESERVED_USERNAMES:
        raise Invalid([Problem("/username", f"`{username}` cannot be a user's name.")])
    if password is not None:
        _refuse_short(password)
    password_hash = None if password is None else hash_password(password)
    with write("user"):
        taken = User.get_or_none(fn.LOWER(User.username) == username.lower())
        if taken is not None:
            raise Invalid([Problem("/username", f"There is a user `{taken.username}` already.")])
        user = User.create(
            username=username, email=email, password_hash=password_hash, is_admin=is_admin, created_at=now()
        )
        audit.record("create", user, is_admin=is_admin)
    return user


def delete(user: User) -> None:
    """Remove the user with every key. Raises Conflict while projects are the user's, and for the last administrator.

    Whoever made jobs in projects of others stays in the rows, with nothing left to sign in with: those say who it was.
    """
    with write("user"):
        user = _fresh(user)
        owned = list(Project.select().where(Project.user == user).limit(5))
        names = [project.name for project in owned if project.deleted_at is None]
        if names:
            raise Conflict(f"These projects are `{user.username}`'s; delete them first: {', '.join(names)}.")
        if owned:
            raise Conflict(f"Projects of `{user.username}` are still being removed.", 5)
        _keep_an_administrator(user)
        audit.record("delete", user)
        _end_everything(user)
        if any(table.select().where(table.user == user).exists() for table in (Job, Build, Upload)):
            nobody = {"is_active": False, "is_admin": False, "password_hash": None, "email": None, "deleted_at": now()}
            User.update(**nobody).where(User.id == user.id).execute()
        else:
            User.delete().where(User.id == user.id).execute()


def set_active(user: User, is_active: bool) -> None:
    """Let the user in, or not: then every key and session is dead at once, and jobs go on. Idempotent. Raises Conflict
    for the last administrator."""
    with write("user"):
        user = _fresh(user)
        if not is_active:
            _keep_an_administrator(user)
            _end_everything(user)
        if user.is_active != is_active:
            User.update(is_active=is_active).where(User.id == user.id).execute()
            audit.record("activate" if is_active else "deactivate", user)


def set_admin(user: User, is_admin: bool) -> None:
    """Idempotent. Raises Conflict for the last administrator."""
    with write("user"):
        user = _fresh(user)
        if not is_admin:
            _keep_an_administrator(user)
        if user.is_admin != is_admin:
            User.update(is_admin=is_admin).where(User.id == user.id).execute()
            audit.record("grant" if is_admin else "revoke", user)


def set_email(user: User, email: str | None) -> User:
    with write("user"):
        user = _fresh(user)
        user.email = email
        User.update(email=email).where(User.id == user.id).execute()
        audit.record("update", user)
    return user


def set_password(user: User, password: str, *, old: str | None, by: User) -> None:
    """Give the user a new password. Every browser session and every key that was got for a password is dead then.

    One's own needs the old one, if there is one; an administrator sets those of others without. Raises Invalid,
    WrongPassword, Forbidden.
    """
    if by.id != user.id and not by.is_admin:
        raise Forbidden("Only administrators set passwords of others.")
    _refuse_short(password)
    if by.id == user.id and user.password_hash and not is_password_of(user, old or ""):
        raise WrongPassword([Problem("/old_password", "This is not your password.")])
    new_hash = hash_password(password)
    with write("user"):
        user = _fresh(user)
        User.update(password_hash=new_hash).where(User.id == user.id).execute()
        Token.delete().where(Token.user == user, Token.name == LOGIN).execute()
        _end_sessions(user)
        audit.record("password", user)


def _refuse_short(password: str) -> None:
    if len(password) < MIN_PASSWORD_LENGTH:
        raise Invalid([Problem("/password", f"A password has at least {MIN_PASSWORD_LENGTH} characters.")])


def _fresh(user: User) -> User:
    fresh = User.get_or_none(User.id == user.id, User.deleted_at.is_null())
    if fresh is None:
        raise NotFound("The user was deleted.")
    return fresh


def _keep_an_administrator(user: User) -> None:
    others = User.select().where(User.is_admin, User.is_active, User.id != user.id)
    if user.is_admin and user.is_active and not others.exists():
        raise Conflict(f"`{user.username}` is the last administrator.")


def _end_everything(user: User) -> None:
    Token.delete().where(Token.user == user).execute()
    _end_sessions(user)


def _end_sessions(user: User) -> None:
    SignInLink.delete().where(SignInLink.user == user).execute()
    User.update(session_version=User.session_version + 1).where(User.id == user.id).execute()


# Keys.


def list_tokens(user: User) -> ModelSelect[Token]:
    """The latest first."""
    return Token.select().where(Token.user == user).order_by(Token.id.desc())


def create_token(
    user: User,
    name: str,
    life: datetime.timedelta | None = None,
    *,
    scope: Scope = Scope.ADMIN,
    project: Project | None = None,
) -> tuple[Token, str]:
    """(the row, the key itself: 40 hex digits, kept nowhere but as a hash). The user's keys that have run out go.

    Raises Conflict for a user who has too many.
    """
    key, moment = new_token(), now()
    with write("token"):
        Token.delete().where(Token.user == user, Token.expires_at <= moment).execute()
        if Token.select().where(Token.user == user).count() >= MAX_TOKENS:
            raise Conflict(f"A user has at most {MAX_TOKENS} tokens; revoke some first.")
        token = Token.create(
            user=user,
            name=name,
            digest=digest(key),
            created_at=moment,
            expires_at=moment + life if life else None,
            scope=scope,
            project=project,
        )
        if name == LOGIN:
            kept = Token.select(Token.id).where(Token.user == user, Token.name == LOGIN).order_by(Token.id.desc())
            Token.delete().where(
                Token.user == user, Token.name == LOGIN, Token.id.not_in(kept.limit(MAX_LOGIN_TOKENS))
            ).execute()
        audit.record("create", token, **_told(token))
    return token, key


def _told(token: Token) -> dict[str, Any]:
    project = token.project
    return {"scope": str(token.scope)} | ({"project": project.unique_name} if project else {})


def find_token(number: int, user: User) -> Token:
    """A key of the user's; any, for an administrator. Raises NotFound."""
    token = Token.get_or_none(Token.id == number)
    if token is None or (token.user_id != user.id and not user.is_admin):
        raise NotFound(f"There is no token {number}.")
    return token


def revoke_token(token: Token) -> None:
    """The key is dead when this returns. Idempotent."""
    with write("token"):
        if Token.delete().where(Token.id == token.id).execute():
            audit.record("revoke", token, user=token.user.username)
