"""Who did what to what, and when: one line for each thing that a person changed, in the transaction that changed it.

Whoever serves a request says once who acts; the verbs of the domain say what is done. What nobody asked for (the
engine's own steps) leaves no line: a job's statuses tell of those.
"""

from __future__ import annotations

import datetime
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

from peewee import ModelSelect

from polyjob.clock import now
from polyjob.db.models import Audit, Build, Job, Project, Token, User
from polyjob.db.prepared import insert


@dataclass(frozen=True)
class Actor:
    """Who asks for what is done."""

    user: User
    token: str | None = None
    """The name of the key that was shown; None for a browser's session."""
    address: str | None = None


_actor: ContextVar[Actor | None] = ContextVar("actor", default=None)


def set_actor(actor: Actor | None) -> None:
    """Say who asks for what this thread does from now on; None for nobody."""
    _actor.set(actor)


def record(action: str, target: Job | Build | Project | Token | User, **details: Any) -> None:
    """Keep that whoever acts has done this; nothing where nobody does. Must be called inside `database.write`."""
    actor = _actor.get()
    if actor is not None:
        record_as(actor, action, target, details)


def record_failed_login(username: str, address: str | None) -> None:
    """Keep that somebody tried a password that was not this user's. Must be called inside `database.write`."""
    line = {"created_at": now(), "username": username, "address": address, "action": "login failed", "kind": "user"}
    insert(Audit, line | {"target": username})


def record_as(actor: Actor, action: str, target: Any, details: dict[str, Any]) -> None:
    """As `record`, for an actor that is named."""
    kind, name, project = _described(target)
    insert(
        Audit,
        {
            "created_at": now(),
            "user": actor.user.id,
            "username": actor.user.username,
            "token": actor.token,
            "address": actor.address,
            "action": action,
            "kind": kind,
            "target_id": target.id,
            "target": name,
            "project": project,
            "details": details or None,
        },
    )


def _described(target: Any) -> tuple[str, str, int | None]:
    """(kind, name, the project's id)."""
    if isinstance(target, Job | Build):
        return ("job" if isinstance(target, Job) else "build"), target.unique_name, target.project_id
    if isinstance(target, Project):
        return "project", target.unique_name, target.id
    if isinstance(target, User):
        return "user", target.username, None
    return "token", target.name, target.project_id


def list_entries(
    *,
    kind: str | None = None,
    target_id: int | None = None,
    user: str | None = None,
    project: Project | None = None,
) -> ModelSelect[Audit]:
    """The lines that are asked for, the latest first."""
    query = Audit.select().order_by(Audit.id.desc())
    for column, value in ((Audit.kind, kind), (Audit.target_id, target_id), (Audit.username, user)):
        if value is not None:
            query = query.where(column == value)
    return query if project is None else query.where(Audit.project == project)


def has_used_address(username: str, address: str) -> bool:
    """Whether the user has done something from this address."""
    mine = Audit.select().where(Audit.username == username, Audit.address == address, Audit.user.is_null(False))
    return bool(mine.exists())


def prune(days: float, limit: int) -> int:
    """Remove up to `limit` lines older than so many days, the oldest first; how many that were. Must be called inside
    `database.write`."""
    old = Audit.select(Audit.id).where(Audit.created_at < now() - datetime.timedelta(days=days))
    return int(Audit.delete().where(Audit.id.in_(old.order_by(Audit.id).limit(limit))).execute())
