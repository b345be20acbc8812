"""Who is asking, and who may see and change what.

============================  ===============  ==============
who                           private project  public project
============================  ===============  ==============
its owner, an administrator   read, write      read, write
another user                  (not there)      read
nobody                        (401)            (401)
============================  ===============  ==============

What a key may do beyond that, its scope and its project say: see `polyjob.auth.permissions`. A job's own key acts for
whoever made the job, and only on that job.
"""

from __future__ import annotations

import contextlib
import datetime
from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

from flask import g, has_request_context, request
from peewee import Expression, PeeweeException

from polyjob.auth import sessions
from polyjob.auth.scopes import Scope
from polyjob.auth.sessions import CSRF_HEADER, SAFE_METHODS
from polyjob.auth.tokens import JOB_TOKEN_PREFIX, digest, job_uuid_of_token
from polyjob.clock import now
from polyjob.db.database import write
from polyjob.db.models import Job, Meta, Project, Token, User
from polyjob.db.prepared import Prepared
from polyjob.errors import Forbidden, NotFound, PolyjobError
from polyjob.services.audit import Actor, set_actor

LOGIN_TOKEN_LIFETIME = datetime.timedelta(days=30)
LAST_USED_INTERVAL = datetime.timedelta(minutes=1)

_USER = Prepared(lambda: User.select().where(User.id == 0))
_USER_BY_NAME = Prepared(lambda: User.select().where(User.username == ""))
_PROJECT = Prepared(lambda: Project.select().where(Project.user == 0, Project.name == ""))
_TOKEN = Prepared(lambda: Token.select().where(Token.digest == ""))


class Unauthenticated(PolyjobError):
    """Nobody, or nobody that we know, is asking."""


NO_CREDENTIALS = "Authentication credentials were not provided."


# Who may do what.


def may_read(user: User, project: Project) -> bool:
    return bool(project.is_public) or may_write(user, project)


def may_write(user: User, project: Project) -> bool:
    return bool(user.is_admin or project.user_id == user.id)


def readable_projects(user: User) -> Expression:
    """The condition on projects that says the same as `may_read`, and that lists show them."""
    shown = Project.deleted_at.is_null() & Project.archived_at.is_null()
    only = bound_project_id()
    if only is not None:
        shown &= Project.id == only
    return shown if user.is_admin else shown & ((Project.user == user) | Project.is_public)


def bound_project_id() -> int | None:
    """The id of the one project that the key of this request is good for; None = of all."""
    identity = g.get("identity") if has_request_context() else None
    return identity.project_id if identity else None


def find_project(
    user: User | None, username: str, name: str, *, to_write: bool | None = None, archived: bool = False
) -> Project:
    """The project that the user asks for, its owner loaded. `to_write`: None = where the request's method says so.
    An archived one is there only where `archived` says so.

    Raises Unauthenticated where nobody asks, NotFound where the user may not read it either, Forbidden where the user
    may only read.
    """
    if user is None:
        raise Unauthenticated(NO_CREDENTIALS)
    owner = user if user.username == username else _USER_BY_NAME.first(username)
    project = _PROJECT.first(owner.id, name) if owner else None
    if project is None or owner is None or not may_read(user, project):
        raise NotFound("Not found.")
    if bound_project_id() not in (None, project.id):
        raise NotFound("Not found.")
    if project.deleted_at is not None or (project.archived_at is not None and not archived):
        raise NotFound("Not found.")
    project.user = owner
    if to_write is None:
        to_write = has_request_context() and request.method not in SAFE_METHODS
    if to_write and not may_write(user, project):
        raise Forbidden("You do not have permission to perform this action.")
    return project


def access_check(project_id: int) -> Callable[[], bool]:
    """What tells, at any later time and in any thread, whether whoever sends this request may still read the project:
    their key or session is good, and the project is there for them. It takes two or three look-ups."""
    identity = current_identity()
    if identity is None:
        raise Unauthenticated(NO_CREDENTIALS)
    user, token, session = identity.user, identity.token, identity.session

    def holds() -> bool:
        asking = User.get_or_none(User.id == user.id, User.is_active)
        if asking is None:
            return False
        if session and (asking.session_version != user.session_version or sessions.is_signed_out(session)):
            return False
        if token is not None:
            kept = Token.get_or_none(Token.id == token.id)
            if kept is None or (kept.expires_at is not None and kept.expires_at <= now()):
                return False
        project = Project.get_or_none(
            Project.id == project_id, Project.deleted_at.is_null(), Project.archived_at.is_null()
        )
        return project is not None and may_read(asking, project)

    return holds


# Who is asking.


@dataclass(frozen=True)
class Identity:
    user: User
    job: Job | None = None
    """The job whose own key was shown; None for a person."""
    token: Token | None = None
    """The key that was shown, or that a browser was signed in by; None for a job's own, and for a browser that was
    signed in otherwise."""
    session: str | None = None
    """The id of the browser's session; None for who shows a key."""

    @property
    def is_browser(self) -> bool:
        return self.session is not None

    @property
    def scope(self) -> Scope:
        """How much of what the user may do is asked for at most."""
        return Scope(self.token.scope) if self.token else Scope.ADMIN

    @property
    def project_id(self) -> int | None:
        """The one project that the key is good for; None = all of the user's."""
        if self.job is not None:
            return int(self.job.project_id)
        return self.token.project_id if self.token else None

    @property
    def actor(self) -> Actor:
        name = f"job {self.job.id}" if self.job else self.token.name if self.token else None
        return Actor(self.user, name, request.remote_addr)


def current_identity() -> Identity | None:
    """Who is asking: as `authenticate` found out, or else as the browser's session says. Whoever it is acts from now
    on."""
    identity: Identity | None = g.get("identity")
    if identity is None and (found := sessions.browser_session()) is not None:
        identity = g.identity = Identity(found.user, token=found.token, session=found.id)
        set_actor(identity.actor)
    return identity


def current_user() -> User | None:
    """The user of `current_identity`."""
    identity = current_identity()
    return identity.user if identity else None


def is_person() -> bool:
    """Whether a person asks, and no job."""
    identity = g.get("identity")
    return identity is None or identity.job is None


def authenticate(takes_token_in_query: bool = False) -> Identity:
    """Find out who sends this API request: by the key in its `Authorization`, or by a browser's session. A browser's
    WebSocket can send no header: streams take the key as a parameter.

    Raises Unauthenticated, and Forbidden for what a page of another server sends.
    """
    g.pop("identity", None)
    header = request.headers.get("Authorization")
    if header is None and takes_token_in_query and "token" in request.args:
        header = f"token {request.args['token']}"
    if header is not None:
        g.identity = _by_header(header)
        set_actor(g.identity.actor)
    elif current_identity() is None:
        raise Unauthenticated(NO_CREDENTIALS)
    else:
        sessions.require_csrf_token(request.headers.get(CSRF_HEADER, ""))
    return cast(Identity, g.identity)


def _by_header(header: str) -> Identity:
    scheme, *rest = header.split() or [""]
    if scheme.lower() not in ("token", "bearer"):
        raise Unauthenticated(NO_CREDENTIALS)
    if not rest:
        raise Unauthenticated("Invalid token header. No credentials provided.")
    if len(rest) > 1:
        raise Unauthenticated("Invalid token header. Token string should not contain spaces.")
    return _identity_of_job_token(rest[0]) or identity_of_token(rest[0])


def identity_of_token(key: str) -> Identity:
    """Who shows this key, no job's own. Looked up by its hash, so that the time a look-up takes tells nothing of a key.

    Raises Unauthenticated.
    """
    token = _TOKEN.first(digest(key))
    if token is None:
        raise Unauthenticated("Invalid token.")
    if token.expires_at is not None and token.expires_at <= now():
        raise Unauthenticated("Token expired")
    user = _USER.first(token.user_id)
    if user is None or not user.is_active:
        raise Unauthenticated("User inactive or deleted.")
    _note_use(token)
    return Identity(user, token=token)


def _note_use(token: Token) -> None:
    """Not more often than once a minute, and no request fails for it."""
    moment = now()
    if token.last_used_at is not None and abs(moment - token.last_used_at) < LAST_USED_INTERVAL:
        return
    with contextlib.suppress(PeeweeException, OSError), write("token-use"):
        Token.update(last_used_at=moment).where(Token.id == token.id).execute()


def _identity_of_job_token(key: str) -> Identity | None:
    if not key.startswith(JOB_TOKEN_PREFIX) or not key.isascii():
        return None
    uuid = job_uuid_of_token(key, Meta.get_by_id("secret").value)
    if uuid is None:
        return None
    job = Job.get_or_none(Job.uuid == uuid, Job.deleted_at.is_null(), Job.archived_at.is_null())
    if job is None or job.status.is_done or not job.user.is_active:
        raise Unauthenticated("Invalid token.")
    return Identity(job.user, job)
