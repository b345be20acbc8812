"""Bookmarks: each user's own, of jobs, builds and projects."""

from __future__ import annotations

from collections.abc import Iterable

from peewee import ModelSelect

from polyjob.clock import now
from polyjob.db.database import database, write
from polyjob.db.models import Bookmark, Build, Job, Project, User
from polyjob.errors import NotFound

Target = Job | Build | Project
TARGET_KINDS: dict[type[Target], str] = {Job: "job", Build: "build", Project: "project"}


def add(target: Target, user: User) -> None:
    """Idempotent. Raises NotFound where the target is gone."""
    moment = now()
    with write("bookmark"):
        if not _raise_version(target):
            raise NotFound("Not found.")
        Bookmark.insert(
            user=user, kind=_kind(target), target_id=target.id, is_set=True, created_at=moment, updated_at=moment
        ).on_conflict(
            conflict_target=[Bookmark.user, Bookmark.kind, Bookmark.target_id],
            update={Bookmark.is_set: True, Bookmark.updated_at: moment},
        ).execute()


def remove(target: Target, user: User) -> None:
    """Idempotent once there was a bookmark. Raises NotFound if there never was."""
    kind = _kind(target)
    with write("unbookmark"):
        query = Bookmark.update(is_set=False, updated_at=now()).where(
            Bookmark.user == user, Bookmark.kind == kind, Bookmark.target_id == target.id
        )
        if not query.execute():
            raise NotFound(f"The {kind} was never bookmarked.")
        _raise_version(target)


def bookmarked_ids(user: User, table: type[Target], numbers: Iterable[int]) -> set[int]:
    """Which of these the user has bookmarked, by id."""
    query = Bookmark.select(Bookmark.target_id).where(
        Bookmark.user == user,
        Bookmark.kind == TARGET_KINDS[table],
        Bookmark.is_set,
        Bookmark.target_id.in_(list(numbers)),
    )
    return {bookmark.target_id for bookmark in query}


def is_bookmarked(target: Target, user: User) -> bool:
    sql = "SELECT 1 FROM bookmark WHERE user_id = ? AND kind = ? AND target_id = ? AND is_set"
    return database.execute_sql(sql, (user.id, _kind(target), target.id)).fetchone() is not None


def list_bookmarks(user: User, table: type[Target], *, by: str = "-updated_at") -> ModelSelect[Bookmark]:
    """The user's bookmarks of one kind, in the order of when they were set; first the latest, if not said otherwise."""
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
    """The version is the ETag of what people see, the bookmark included. Whether the target was still there."""
    if isinstance(target, Project):
        return bool(Project.select().where(Project.id == target.id).exists())
    table = type(target)
    return bool(table.update(version=table.version + 1).where(table.id == target.id).execute())
