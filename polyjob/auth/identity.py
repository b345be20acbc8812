"""Identify the sender of a request, and find the projects that they can read and change.

`polyjob.auth.roles` says what a user may do in a project. The scope and the project of a token restrict this further;
`polyjob.auth.permissions` checks them. A job's own token acts for the user who created the job, and only on that job.
"""

from __future__ import annotations

import contextlib
import datetime
from collections.abc import Callable
from dataclasses import dataclass

from flask import g, has_request_context, request
from peewee import Expression, PeeweeException

from polyjob.auth import sessions
from polyjob.auth.roles import Role, is_joined, may_read, role_of
from polyjob.auth.scopes import Scope
from polyjob.auth.sessions import CSRF_HEADER
from polyjob.auth.tokens import JOB_TOKEN_PREFIX, digest, is_expired, job_uuid_of_token
from polyjob.clock import now
from polyjob.db.database import write
from polyjob.db.models import Job, Meta, Project, Token, User
from polyjob.db.prepared import Prepared
from polyjob.errors import Forbidden, NotFound, PolyjobError
from polyjob.services.audit import Actor, set_actor

LOGIN_TOKEN_LIFETIME = datetime.timedelta(days=30)
LAST_USED_INTERVAL = datetime.timedelta(minutes=1)
"""The least time between two writes of a token's last use."""

_USER_BY_NAME = Prepared(lambda: User.select().where(User.username == ""))
_PROJECT = Prepared(lambda: Project.select().where(Project.user == 0, Project.name == ""))
_TOKEN = Prepared(lambda: Token.select(Token, User).join(User).where(Token.digest == ""))


class Unauthenticated(PolyjobError):
    """The request has no valid credentials."""


NO_CREDENTIALS = "Authentication credentials were not provided."


# Access to projects.


def readable_projects(user: User) -> Expression:
    """Return the condition on projects that lists show to the user. Agrees with `may_read`."""
    listed = Project.deleted_at.is_null() & Project.archived_at.is_null()
    bound_id = bound_project_id()
    if bound_id is not None:
        listed &= Project.id == bound_id
    return listed if user.is_admin else listed & (is_joined(user) | Project.is_public)


def bound_project_id() -> int | None:
    """Return the id of the project that the request's token is bound to; None if it is not bound to one."""
    identity = g.get("identity") if has_request_context() else None
    return identity.project_id if identity else None


def find_project(
    user: User | None, username: str, name: str, *, role: Role = Role.READ, archived: bool = False
) -> Project:
    """Return a project, with its owner loaded, if the user has access to it.

    * `role`: the user must have at least this role in it.
    * `archived`: also find it if it is archived.

    Raises Unauthenticated without a user, NotFound if the user may not read the project, and Forbidden if the user has
    a lower role.
    """
    if user is None:
        raise Unauthenticated(NO_CREDENTIALS)
    owner = user if user.username == username else _USER_BY_NAME.first(username)
    project = _PROJECT.first(owner.id, name) if owner else None
    present_role = role_of(user, project) if project else None
    if project is None or owner is None or present_role is None:
        raise NotFound("Not found.")
    if bound_project_id() not in (None, project.id):
        raise NotFound("Not found.")
    if project.deleted_at is not None or (project.archived_at is not None and not archived):
        raise NotFound("Not found.")
    project.user = owner
    if not present_role.covers(role):
        raise Forbidden("You do not have permission to perform this action.")
    return project


def access_check(project_id: int) -> Callable[[], bool]:
    """Return a function that checks whether the sender of this request may still read the project.

    It can be called at any later time and from any thread. It checks the user, the token or the session, and the
    project, with at most five queries. Raises Unauthenticated if the request has no credentials.
    """
    identity = current_identity()
    if identity is None:
        raise Unauthenticated(NO_CREDENTIALS)
    user, token, session = identity.user, identity.token, identity.session

    def may_still_read() -> bool:
        present_user = User.get_or_none(User.id == user.id, User.is_active)
        if present_user is None:
            return False
        if session and (present_user.session_version != user.session_version or sessions.is_signed_out(session)):
            return False
        if token is not None:
            present_token = Token.get_or_none(Token.id == token.id)
            if present_token is None or is_expired(present_token.expires_at):
                return False
        project = Project.get_or_none(
            Project.id == project_id, Project.deleted_at.is_null(), Project.archived_at.is_null()
        )
        return project is not None and may_read(present_user, project)

    return may_still_read


# The sender of a request.


@dataclass(frozen=True)
class Identity:
    """The sender of a request."""

    user: User
    job: Job | None = None
    """The job whose own token was sent; None for a person."""
    token: Token | None = None
    """The token that was sent, or that the browser was signed in with. None for a job's own token, and for a browser
    that was signed in otherwise."""
    session: str | None = None
    """The id of the browser's session; None if a token was sent."""

    @property
    def is_browser(self) -> bool:
        return self.session is not None

    @property
    def scope(self) -> Scope:
        """The scope of the token; without a token, the widest scope."""
        return Scope(self.token.scope) if self.token else Scope.ADMIN

    @property
    def project_id(self) -> int | None:
        """The id of the project that the token is bound to; None if it is not bound to one."""
        if self.job is not None:
            return int(self.job.project_id)
        return self.token.project_id if self.token else None

    @property
    def actor(self) -> Actor:
        name = f"job {self.job.id}" if self.job else self.token.name if self.token else None
        return Actor(self.user, name, request.remote_addr)


def current_identity() -> Identity | None:
    """Return the identity that `authenticate` established, or else that of the browser's session, or None.

    The audit trail names it as the actor of the request's changes.
    """
    identity: Identity | None = g.get("identity")
    if identity is None and (session := sessions.browser_session()) is not None:
        identity = g.identity = Identity(session.user, token=session.token, session=session.id)
        set_actor(identity.actor)
    return identity


def current_user() -> User | None:
    """Return the user of `current_identity`, or None."""
    identity = current_identity()
    return identity.user if identity else None


def is_person() -> bool:
    """Return whether the sender is a person, not a job."""
    identity = g.get("identity")
    return identity is None or identity.job is None


def authenticate(takes_token_in_query: bool = False) -> Identity:
    """Identify the sender of an API request by the token in `Authorization`, or by the browser's session.

    `takes_token_in_query` also allows the parameter `token`, for WebSockets: browsers cannot send headers with them.
    Raises Unauthenticated, and Forbidden for a request that a page of another server sends.
    """
    g.pop("identity", None)
    header = request.headers.get("Authorization")
    if header is None and takes_token_in_query and "token" in request.args:
        header = f"token {request.args['token']}"
    if header is not None:
        identity = g.identity = _identity_of_header(header)
        set_actor(identity.actor)
        return identity
    visitor = current_identity()
    if visitor is None:
        raise Unauthenticated(NO_CREDENTIALS)
    sessions.require_csrf_token(request.headers.get(CSRF_HEADER, ""))
    return visitor


def _identity_of_header(header: str) -> Identity:
    scheme, *rest = header.split() or [""]
    if scheme.lower() not in ("token", "bearer"):
        raise Unauthenticated(NO_CREDENTIALS)
    if not rest:
        raise Unauthenticated("Invalid token header. No credentials provided.")
    if len(rest) > 1:
        raise Unauthenticated("Invalid token header. Token string should not contain spaces.")
    return _identity_of_job_token(rest[0]) or identity_of_token(rest[0])


def identity_of_token(text: str) -> Identity:
    """Return the identity of a token that is not a job's own.

    The row is found by the token's hash, so that the duration of the query reveals nothing about the token. Raises
    Unauthenticated.
    """
    token = _TOKEN.first(digest(text))
    if token is None:
        raise Unauthenticated("Invalid token.")
    if is_expired(token.expires_at):
        raise Unauthenticated("Token expired")
    user = token.user
    if not user.is_active:
        raise Unauthenticated("User inactive or deleted.")
    _record_use(token)
    return Identity(user, token=token)


def _record_use(token: Token) -> None:
    """Record the token's last use, at most once a minute. No request fails because of it."""
    moment = now()
    if token.last_used_at is not None and abs(moment - token.last_used_at) < LAST_USED_INTERVAL:
        return
    with contextlib.suppress(PeeweeException, OSError), write("token-use"):
        Token.update(last_used_at=moment).where(Token.id == token.id).execute()


def _identity_of_job_token(text: str) -> Identity | None:
    """Return the identity of a job's own token; None for any other text. Raises Unauthenticated if the job is done."""
    if not text.startswith(JOB_TOKEN_PREFIX) or not text.isascii():
        return None
    uuid = job_uuid_of_token(text, Meta.get_by_id("secret").value)
    if uuid is None:
        return None
    job = Job.get_or_none(Job.uuid == uuid, Job.deleted_at.is_null(), Job.archived_at.is_null())
    if job is None or job.status.is_done or not job.user.is_active:
        raise Unauthenticated("Invalid token.")
    return Identity(job.user, job)
