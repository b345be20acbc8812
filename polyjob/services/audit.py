"""The audit trail: one entry for each change by a user, written in the transaction of the change.

The code that serves a request sets the actor once; the operations of the services record what they do. The engine's own
writes leave no entry, because the statuses of a job show them; only the jobs that it deletes for their age have one.
"""

from __future__ import annotations

import datetime
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

from peewee import ModelSelect

from polyjob.clock import now
from polyjob.db.models import Audit, Build, Job, Project, Schedule, Secret, Token, User, Webhook
from polyjob.db.prepared import insert
from polyjob.webhook_urls import parse_url


@dataclass(frozen=True)
class Actor:
    """The user on whose behalf this thread works, and how they authenticated."""

    user: User
    token: str | None = None
    """The name of the token; None for a browser session."""
    address: str | None = None


class Server:
    """The target of a change of the server itself."""

    id = None


SERVER = Server()

SERVER_NAME = "(server)"
"""Stands for the username in entries of the server itself. It is not a valid username."""

_actor: ContextVar[Actor | None] = ContextVar("actor", default=None)


def set_actor(actor: Actor | None) -> None:
    """Set the actor of this thread; None means that no user is acting."""
    _actor.set(actor)


def record(
    action: str, target: Job | Build | Project | Schedule | Secret | Token | User | Webhook | Server, **details: Any
) -> None:
    """Record an action of the thread's actor; without an actor, do nothing. Must be called inside `database.write`."""
    actor = _actor.get()
    if actor is not None:
        record_as(actor, action, target, details)


def record_failed_login(username: str, address: str | None) -> None:
    """Record a login with a wrong password. Must be called inside `database.write`."""
    entry = {"created_at": now(), "username": username, "address": address, "action": "login failed", "kind": "user"}
    insert(Audit, entry | {"target": username})


def record_as(actor: Actor, action: str, target: Any, details: dict[str, Any]) -> None:
    """Record an action of the given actor. Must be called inside `database.write`."""
    columns = {"user": actor.user.id, "username": actor.user.username, "token": actor.token, "address": actor.address}
    insert(Audit, columns | _action_columns(action, target, details))


def record_by_server(action: str, target: Job, **details: Any) -> None:
    """Record an action that a setting asks for, and no user. Must be called inside `database.write`."""
    insert(Audit, {"username": SERVER_NAME} | _action_columns(action, target, details))


def _action_columns(action: str, target: Any, details: dict[str, Any]) -> dict[str, Any]:
    kind, name, project = _describe(target)
    columns = {"created_at": now(), "action": action, "kind": kind, "target_id": target.id, "target": name}
    return columns | {"project": project, "details": details or None}


def _describe(target: Any) -> tuple[str, str, int | None]:
    """Return (kind, name, id of the project)."""
    if isinstance(target, Job | Build):
        return ("job" if isinstance(target, Job) else "build"), target.unique_name, target.project_id
    if isinstance(target, Schedule):
        return "schedule", target.unique_name, target.project_id
    if isinstance(target, Project):
        return "project", target.unique_name, target.id
    if isinstance(target, Secret):
        return "secret", target.unique_name, target.project_id
    if isinstance(target, User):
        return "user", target.username, None
    if isinstance(target, Server):
        return "server", "server", None
    if isinstance(target, Webhook):
        return "webhook", parse_url(target.url).origin, target.project_id  # the rest of the URL may be a secret
    return "token", target.name, target.project_id


def list_entries(
    *,
    kind: str | None = None,
    target_id: int | None = None,
    user: str | None = None,
    project: Project | None = None,
) -> ModelSelect[Audit]:
    """Return the entries that match, newest first."""
    query = Audit.select().order_by(Audit.id.desc())
    for column, value in ((Audit.kind, kind), (Audit.target_id, target_id), (Audit.username, user)):
        if value is not None:
            query = query.where(column == value)
    return query if project is None else query.where(Audit.project == project)


def has_used_address(username: str, address: str) -> bool:
    """Return whether the user has changed something from this address."""
    entries = Audit.select().where(Audit.username == username, Audit.address == address, Audit.user.is_null(False))
    return bool(entries.exists())


def prune(days: float, limit: int) -> int:
    """Remove up to `limit` entries older than `days` days, oldest first, and return how many were removed.

    Must be called inside `database.write`.
    """
    old = Audit.select(Audit.id).where(Audit.created_at < now() - datetime.timedelta(days=days))
    return int(Audit.delete().where(Audit.id.in_(old.order_by(Audit.id).limit(limit))).execute())
