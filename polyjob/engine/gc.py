"""Garbage collection: remove unused images and virtualenvs of builds, old jobs or their files, and old archived items.

Nothing that is in use is chosen. If a job comes to use an artifact while it is being removed, its runner raises
`ArtifactMissing` at the start, and the build is made again.
"""

from __future__ import annotations

import datetime
import logging
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from peewee import Expression, fn

from polyjob.clock import now
from polyjob.db.database import write
from polyjob.db.models import LIVE_BUILDS, Bookmark, Build, Job, Project
from polyjob.db.prepared import update
from polyjob.engine_link import wake_engine
from polyjob.formatting import format_size
from polyjob.services import builds, job_inputs, jobs, old_jobs, projects
from polyjob.services.notes import with_note
from polyjob.services.old_jobs import MAX_EXPIRED_JOBS
from polyjob.settings import Settings
from polyjob.storage.store import Store
from runners.base import Runner, RunnerError

log = logging.getLogger("polyjob.engine")

GB = 10**9
ROWS_PER_ROUND = 5000
"""Jobs, and archived items of each kind, that one round looks at, the oldest first."""


@dataclass(frozen=True)
class Garbage:
    """One thing that can be removed."""

    kind: str
    name: str
    size: int
    """Bytes."""
    reason: str
    remove: Callable[[], None]
    """Idempotent. Raises RunnerError, OSError."""


def find_garbage(settings: Settings, store: Store, runners: Mapping[str, Runner]) -> Iterator[Garbage]:
    """Yield what can be removed now under these settings, in the order in which it should be removed.

    Removes nothing. A runner that cannot be asked is left out.
    """
    for name, runner in runners.items():
        try:
            yield from _artifacts(settings, name, runner)
        except RunnerError as error:
            log.warning("the artifacts on the %s runner could not be listed: %s", name, error)
    old_ids: set[int] = set()
    yield from _old_jobs(settings, store, old_ids)
    yield from _job_files(settings, store, old_ids)
    yield from _archived_items(settings, store)


def collect(settings: Settings, store: Store, runners: Mapping[str, Runner]) -> int:
    """Remove all garbage, and return the freed bytes. What cannot be removed is logged and left for the next round."""
    freed = 0
    for garbage in find_garbage(settings, store, runners):
        try:
            garbage.remove()
        except (RunnerError, OSError) as error:
            log.warning("%s %s could not be removed: %s", garbage.kind, garbage.name, error)
            continue
        log.info("%s %s was removed: %s", garbage.kind, garbage.name, garbage.reason)
        freed += garbage.size
    return freed


# Builds.


def _artifacts(settings: Settings, runner_name: str, runner: Runner) -> Iterator[Garbage]:
    """Yield artifacts without a build, and, if all take too much space, those that were used longest ago."""
    sizes = runner.cached_artifacts()
    if not sizes:
        return
    # Looked up before the owners: a build that is done by then has its artifact in its row.
    is_building = Build.select().where(Build.runner == runner_name, LIVE_BUILDS).exists()
    owners: dict[str, list[Build]] = {}
    for build in Build.select().where(Build.runner == runner_name, Build.artifact.is_null(False)):
        name = runner.artifact_name(str(build.artifact))
        if name is not None and name in sizes:
            owners.setdefault(name, []).append(build)
    for name in [] if is_building else sorted(sizes.keys() - owners.keys()):
        yield Garbage(runner.artifact_kind, name, sizes.pop(name), "no build has it", _artifact_removal(runner, name))
    excess = sum(sizes.values()) - settings.cache_limit
    if not settings.cache_limit or excess <= 0:
        return
    last_uses = {name: max(map(_used_at, found)) for name, found in owners.items() if not any(map(_is_used, found))}
    for name in sorted(last_uses, key=last_uses.__getitem__):
        if excess <= 0:
            return
        last_use, limit = f"{last_uses[name]:%Y-%m-%d %H:%M} UTC", format_size(settings.cache_limit)
        reason = f"last used {last_use}, and all take more than {limit}"
        yield Garbage(runner.artifact_kind, name, sizes[name], reason, _artifact_removal(runner, name, owners[name]))
        excess -= sizes[name]


def _used_at(build: Build) -> datetime.datetime:
    """Return when the last job that ran on a build ended, or, without such a job, when the build did."""
    last = Job.select(fn.MAX(Job.finished_at)).where(Job.build == build).scalar()
    return max(moment for moment in (last, build.finished_at, build.created_at) if moment is not None)


def _is_used(build: Build) -> bool:
    return build.finished_at is None or builds.jobs_using(build).exists()


def _artifact_removal(runner: Runner, name: str, owners: Sequence[Build] = ()) -> Callable[[], None]:
    """Return a function that removes an artifact, unless one of the builds that own it is in use by then."""

    def remove() -> None:
        with write("outdate"):
            current = [build for build in (Build.get_or_none(Build.id == owner.id) for owner in owners) if build]
            if any(map(_is_used, current)):
                return
            for build in current:
                builds.mark_stale(build, f"its {runner.artifact_kind} was removed to make room")
        runner.remove_artifact(name)

    return remove


def remove_artifact_in_steps(build: Build, runner: Runner) -> Iterator[None]:
    """Remove the artifact of a deleted build in short steps, unless another build that stays or is in use has it, too.

    Raises RunnerUnavailable.
    """
    name = runner.artifact_name(str(build.artifact))
    others = Build.select().where(Build.artifact == build.artifact, Build.id != build.id)
    is_shared = any(other.deleted_at is None or _is_used(other) for other in others)
    if name is not None and not is_shared:
        yield from runner.remove_artifact_in_steps(name)


# Jobs.


def _old_jobs(settings: Settings, store: Store, ids: set[int]) -> Iterator[Garbage]:
    """Yield jobs that ended long ago and that nothing refers to, and add their ids to `ids`."""
    if not settings.delete_days:
        return
    oldest = now() - datetime.timedelta(days=settings.delete_days)
    reason = f"ended more than {settings.delete_days} days ago"
    for project in list(Project.select().where(Project.deleted_at.is_null()).order_by(Project.id)):
        if len(ids) == MAX_EXPIRED_JOBS:
            return
        for job_id, uuid in old_jobs.find_old(project, oldest, MAX_EXPIRED_JOBS - len(ids)):
            ids.add(job_id)
            remove = partial(_delete_old_job, job_id, oldest, reason)
            yield Garbage("job", f"{project.unique_name}.jobs.{job_id}", store.job_size(uuid), reason, remove)


def _delete_old_job(job_id: int, oldest: datetime.datetime, reason: str) -> None:
    old_jobs.delete_old(job_id, oldest, reason)  # the engine removes it in one of its next passes


def _job_files(settings: Settings, store: Store, old_ids: Container[int]) -> Iterator[Garbage]:
    """Yield logs and outputs of ended jobs that are too old, or the oldest if all take too much space.

    Those of the jobs in `old_ids` are left out, because these jobs are deleted. So are outputs that a job will read.
    """
    if not settings.keep_days and not settings.keep_gb:
        return
    with_files = (
        Job.select(Job.id, Job.uuid, Job.finished_at)
        .where(Job.finished_at.is_null(False), Job.cleared_at.is_null(), Job.deleted_at.is_null())
        .order_by(Job.finished_at)
    )
    sizes = {}
    if settings.keep_gb:
        sizes = {job.id: store.job_size(job.uuid) for job in with_files.iterator() if job.id not in old_ids}
    excess = sum(sizes.values()) - settings.keep_gb * GB
    oldest = now() - datetime.timedelta(days=settings.keep_days or 0)
    for job in list(with_files.where(_may_lose_files()).limit(ROWS_PER_ROUND)):
        if job.id in old_ids:
            continue
        if settings.keep_days and job.finished_at < oldest:
            reason = f"older than {settings.keep_days} days"
        elif settings.keep_gb and excess > 0:
            reason = "all jobs have left more than `POLYJOB_KEEP_GB` allows"
        elif not settings.keep_days or job.finished_at >= oldest:
            return
        size = sizes.get(job.id) if settings.keep_gb else store.job_size(job.uuid)
        excess -= size or 0
        yield Garbage("log and outputs of job", str(job.id), size or 0, reason, _job_files_removal(store, job, reason))


def _job_files_removal(store: Store, job: Any, reason: str) -> Callable[[], None]:
    def remove() -> None:
        if not Job.select(Job.id).where(Job.id == job.id, _may_lose_files()).exists():
            return
        store.remove_job(job.uuid)
        with write("clear-job"):
            row = Job.get_or_none(Job.id == job.id)
            if row is not None:
                text = f"Log and outputs were removed on {now():%Y-%m-%d}: {reason}."
                columns = {"cleared_at": now(), "notes": with_note(row.notes, "cleared", text)}
                update(Job, job.id, columns, increment="version")

    return remove


def _may_lose_files() -> Expression:
    """Return the condition that nobody has bookmarked a job, and that no unfinished job reads its outputs."""
    bookmarked = Bookmark.select(Bookmark.target_id).where(Bookmark.kind == "job", Bookmark.is_set)
    return Job.id.not_in(bookmarked) & ~job_inputs.awaited_outputs()


def _is_awaited(job: Job) -> bool:
    return Job.select(Job.id).where(Job.id == job.id, job_inputs.awaited_outputs()).exists()


# Archived items.


def _archived_items(settings: Settings, store: Store) -> Iterator[Garbage]:
    """Yield jobs, builds and projects that were archived long ago, and can be deleted."""
    if not settings.archive_days:
        return
    oldest = now() - datetime.timedelta(days=settings.archive_days)
    reason = f"archived more than {settings.archive_days} days ago"
    for job in _archived_before(oldest, Job, Job.uuid, Job.project):
        if not _is_awaited(job):
            size = store.job_size(job.uuid)
            yield Garbage("archived job", job.unique_name, size, reason, _deletion(job, oldest, settings))
    for build in _archived_before(oldest, Build, Build.project, Build.finished_at):
        if not _is_used(build):
            yield Garbage("archived build", build.unique_name, 0, reason, _deletion(build, oldest, settings))
    for project in _archived_before(oldest, Project, Project.user, Project.name):
        yield Garbage("archived project", project.unique_name, 0, reason, _deletion(project, oldest, settings))


def _archived_before(oldest: datetime.datetime, table: Any, *columns: Any) -> list[Any]:
    expired = table.select(table.id, *columns).where(table.archived_at < oldest, table.deleted_at.is_null())
    return list(expired.order_by(table.archived_at).limit(ROWS_PER_ROUND))


def _deletion(row: Job | Build | Project, oldest: datetime.datetime, settings: Settings) -> Callable[[], None]:
    """Return a function that deletes a row, unless it was restored, or a job needs the build or the outputs by then."""

    def remove() -> None:
        with write("expire", use_reserve=True):
            table = type(row)
            if not table.select().where(table.id == row.id, table.archived_at < oldest).exists():
                return
            if isinstance(row, Job):
                if not _is_awaited(row):
                    jobs.mark_deleted(jobs.reload(row), None)
            elif isinstance(row, Project):
                projects.mark_deleted(row, None)
            elif not _is_used(row):
                builds.mark_deleted(row)
        wake_engine(settings.data_dir)

    return remove
