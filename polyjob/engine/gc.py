"""What may go: images and virtualenvs that nobody has used for long, and what old jobs have left.

Nothing that is in use is chosen. Should a job come to use it after all, while it is being removed, its runner says so
at the start, and the build is made again.
"""

from __future__ import annotations

import datetime
import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from peewee import fn

from polyjob.clock import now
from polyjob.db.database import write
from polyjob.db.models import LIVE_BUILDS, Bookmark, Build, Job, Project
from polyjob.db.prepared import update
from polyjob.engine_link import wake_engine
from polyjob.services import builds, jobs, projects
from polyjob.services.notes import with_note
from polyjob.settings import Settings
from polyjob.storage.store import Store
from runners.base import Runner, RunnerError

log = logging.getLogger("polyjob.engine")

GB = 10**9
MOST = 5000
"""Jobs that are looked at in one round; the oldest come first, and those that are left the next time."""


@dataclass(frozen=True)
class Garbage:
    """One thing that may go."""

    what: str
    name: str
    size: int
    """Bytes."""
    why: str
    remove: Callable[[], None]
    """Idempotent. Raises RunnerError, OSError."""


def find(settings: Settings, store: Store, runners: Mapping[str, Runner]) -> Iterator[Garbage]:
    """What may go now, by these settings, in the order in which it should. Reads and asks; removes nothing. A runner
    that cannot be asked is left out."""
    for name, runner in runners.items():
        try:
            yield from _of_builds(settings, name, runner)
        except RunnerError as error:
            log.warning("what builds hold on the %s runner cannot be told: %s", name, error)
    yield from _of_jobs(settings, store)
    yield from _of_archives(settings, store)


def collect(settings: Settings, store: Store, runners: Mapping[str, Runner]) -> int:
    """Remove it; the bytes that this has freed. What cannot be removed is logged and left for the next time."""
    freed = 0
    for garbage in find(settings, store, runners):
        try:
            garbage.remove()
        except (RunnerError, OSError) as error:
            log.warning("%s %s could not be removed: %s", garbage.what, garbage.name, error)
            continue
        log.info("%s %s was removed: %s", garbage.what, garbage.name, garbage.why)
        freed += garbage.size
    return freed


# Builds.


def _of_builds(settings: Settings, name: str, runner: Runner) -> Iterator[Garbage]:
    held = runner.cached_artifacts()
    if not held:
        return
    under_way = Build.select().where(Build.runner == name, LIVE_BUILDS).exists()  # asked before owners
    owners: dict[str, list[Build]] = {}
    for build in Build.select().where(Build.runner == name, Build.artifact.is_null(False)):
        holding = runner.artifact_name(str(build.artifact))
        if holding is not None and holding in held:
            owners.setdefault(holding, []).append(build)
    for nobodys in [] if under_way else sorted(held.keys() - owners.keys()):
        yield Garbage(runner.artifact_kind, nobodys, held.pop(nobodys), "no build has it", _drop(runner, nobodys, []))
    room = sum(held.values()) - settings.cache_limit
    if not settings.cache_limit or room <= 0:
        return
    used = {holding: max(map(_used_at, found)) for holding, found in owners.items() if not any(map(_is_used, found))}
    for holding in sorted(used, key=used.__getitem__):
        if room <= 0:
            return
        why = f"last used {used[holding]:%Y-%m-%d %H:%M}, and all take more than {settings.cache_limit / GB:g} GB"
        yield Garbage(runner.artifact_kind, holding, held[holding], why, _drop(runner, holding, owners[holding]))
        room -= held[holding]


def _used_at(build: Build) -> datetime.datetime:
    """When a job that ran on it last ended, or else it itself."""
    last = Job.select(fn.MAX(Job.finished_at)).where(Job.build == build).scalar()
    return max(moment for moment in (last, build.finished_at, build.created_at) if moment is not None)


def _is_used(build: Build) -> bool:
    return build.finished_at is None or builds.jobs_using(build).exists()


def _drop(runner: Runner, holding: str, owners: list[Build]) -> Callable[[], None]:
    def remove() -> None:
        with write("outdate"):
            fresh = [build for build in (Build.get_or_none(Build.id == owner.id) for owner in owners) if build]
            if any(map(_is_used, fresh)):
                return
            for build in fresh:
                builds.mark_stale(build, f"its {runner.artifact_kind} was removed to make room")
        runner.remove_artifact(holding)

    return remove


def removing_artifact(build: Build, runner: Runner) -> Iterator[None]:
    """Remove the artifact of a deleted build in short steps, unless a build that stays or is in use has it too.

    Raises RunnerUnavailable.
    """
    holding = runner.artifact_name(str(build.artifact))
    others = Build.select().where(Build.artifact == build.artifact, Build.id != build.id)
    is_shared = any(other.deleted_at is None or _is_used(other) for other in others)
    if holding is not None and not is_shared:
        yield from runner.remove_artifact_in_steps(holding)


# Jobs.


def _of_jobs(settings: Settings, store: Store) -> Iterator[Garbage]:
    if not settings.keep_days and not settings.keep_gb:
        return
    marked = Bookmark.select(Bookmark.target_id).where(Bookmark.kind == "job", Bookmark.is_set)
    kept = (
        Job.select(Job.id, Job.uuid, Job.finished_at)
        .where(Job.finished_at.is_null(False), Job.cleared_at.is_null(), Job.deleted_at.is_null())
        .order_by(Job.finished_at)
    )
    sizes = {job.id: store.job_size(job.uuid) for job in kept.iterator()} if settings.keep_gb else {}
    room = sum(sizes.values()) - settings.keep_gb * GB
    oldest = now() - datetime.timedelta(days=settings.keep_days or 0)
    for job in list(kept.where(Job.id.not_in(marked)).limit(MOST)):
        if settings.keep_days and job.finished_at < oldest:
            why = f"older than {settings.keep_days} days"
        elif settings.keep_gb and room > 0:
            why = f"all jobs have left more than {settings.keep_gb:g} GB"
        elif not settings.keep_days or job.finished_at >= oldest:
            return
        size = sizes.get(job.id) if settings.keep_gb else store.job_size(job.uuid)
        room -= size or 0
        yield Garbage("log and outputs of job", str(job.id), size or 0, why, _clear(store, job, why))


def _clear(store: Store, job: Any, why: str) -> Callable[[], None]:
    def remove() -> None:
        store.remove_job(job.uuid)
        with write("clear-job"):
            row = Job.get_or_none(Job.id == job.id)
            if row is not None:
                text = f"Log and outputs were removed on {now():%Y-%m-%d}: {why}."
                columns = {"cleared_at": now(), "notes": with_note(row.notes, "cleared", text)}
                update(Job, job.id, columns, increment="version")

    return remove


# Archives.


def _of_archives(settings: Settings, store: Store) -> Iterator[Garbage]:
    if not settings.archive_days:
        return
    oldest = now() - datetime.timedelta(days=settings.archive_days)
    why = f"archived more than {settings.archive_days} days ago"
    for job in _archived_before(oldest, Job, Job.uuid, Job.project):
        size = store.job_size(job.uuid)
        yield Garbage("archived job", job.unique_name, size, why, _expire(job, oldest, settings))
    for build in _archived_before(oldest, Build, Build.project, Build.finished_at):
        if not _is_used(build):
            yield Garbage("archived build", build.unique_name, 0, why, _expire(build, oldest, settings))
    for project in _archived_before(oldest, Project, Project.user, Project.name):
        yield Garbage("archived project", project.unique_name, 0, why, _expire(project, oldest, settings))


def _archived_before(oldest: datetime.datetime, table: Any, *columns: Any) -> list[Any]:
    expired = table.select(table.id, *columns).where(table.archived_at < oldest, table.deleted_at.is_null())
    return list(expired.order_by(table.archived_at).limit(MOST))


def _expire(row: Job | Build | Project, oldest: datetime.datetime, settings: Settings) -> Callable[[], None]:
    """Delete the row, unless it was restored or, of a build, a job needs it by then."""

    def remove() -> None:
        with write("expire", use_reserve=True):
            table = type(row)
            if not table.select().where(table.id == row.id, table.archived_at < oldest).exists():
                return
            if isinstance(row, Job):
                jobs.mark_deleted(jobs.reload(row), None)
            elif isinstance(row, Project):
                projects.mark_deleted(row, None)
            elif not _is_used(row):
                builds.mark_deleted(row)
        wake_engine(settings.data_dir)

    return remove
