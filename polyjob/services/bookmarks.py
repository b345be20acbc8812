"""Bookmarks of jobs, builds and projects. Each user has their own."""

from __future__ import annotations

import json
from collections.abc import Iterable

from peewee import ModelSelect

from polyjob.clock import now
from polyjob.db.database import database, write
from polyjob.db.models import Bookmark, Build, Job, Project, User
from polyjob.errors import NotFound

Target = Job | Build | Project
TARGET_KINDS: dict[type[Target], str] = {Job: "job", Build: "build", Project: "project"}


def add(target: Target, user: User) -> None:
    """Bookmark the target for the user. Idempotent. Raises NotFound if the target was removed."""
    moment = now()
    with write("bookmark"):
        if not _raise_version(target):
            raise NotFound(f"The {_kind(target)} was deleted.")
        Bookmark.insert(
            user=user, kind=_kind(target), target_id=target.id, is_set=True, created_at=moment, updated_at=moment
        ).on_conflict(
            conflict_target=[Bookmark.user, Bookmark.kind, Bookmark.target_id],
            update={Bookmark.is_set: True, Bookmark.updated_at: moment},
        ).execute()


def remove(target: Target, user: User) -> None:
    """Remove the user's bookmark of the target. Idempotent. Raises NotFound if the user never bookmarked it."""
    kind = _kind(target)
    with write("unbookmark"):
        query = Bookmark.update(is_set=False, updated_at=now()).where(
            Bookmark.user == user, Bookmark.kind == kind, Bookmark.target_id == target.id
        )
        if not query.execute():
            raise NotFound(f"The {kind} was never bookmarked.")
        _raise_version(target)


def bookmarked_ids(user: User, table: type[Target], target_ids: Iterable[int]) -> set[int]:
    """Return the ids among `target_ids` that the user has bookmarked."""
    sql = (
        "SELECT target_id FROM bookmark WHERE user_id = ? AND kind = ? AND is_set"
        " AND target_id IN (SELECT value FROM json_each(?))"
    )
    rows = database.execute_sql(sql, (user.id, TARGET_KINDS[table], json.dumps(list(target_ids))))
    return {target_id for (target_id,) in rows}


def is_bookmarked(target: Target, user: User) -> bool:
    sql = "SELECT 1 FROM bookmark WHERE user_id = ? AND kind = ? AND target_id = ? AND is_set"
    return database.execute_sql(sql, (user.id, _kind(target), target.id)).fetchone() is not None


def list_bookmarks(user: User, table: type[Target], *, by: str = "-updated_at") -> ModelSelect[Bookmark]:
    """Return the user's bookmarks of one kind, sorted by time; `by` is `created_at` or `updated_at`, `-` for newest
    first."""
    column = Bookmark.created_at if by.endswith("created_at") else Bookmark.updated_at
    orders = (column.desc(), Bookmark.id.desc()) if by.startswith("-") else (column.asc(), Bookmark.id.asc())
    return (
        Bookmark.select()
        .where(Bookmark.user == user, Bookmark.kind == TARGET_KINDS[table], Bookmark.is_set == 1)
        .order_by(*orders)
    )


def _kind(target: Target) -> str:
    return TARGET_KINDS[type(target)]


def _raise_version(target: Target) -> bool:
    """Raise the target's version, and return whether it still exists. Its ETag covers the bookmark as well."""
    if isinstance(target, Project):
        return bool(Project.select().where(Project.id == target.id).exists())
    table = type(target)
    return bool(table.update(version=table.version + 1).where(table.id == target.id).execute())
