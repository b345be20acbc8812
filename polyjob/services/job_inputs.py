"""Outputs of earlier jobs that a job reads: `environment.outputs.jobs` of its config.

Each of these jobs is a dependency with the name of a folder, in which the new job finds its outputs. They are linked
when the job starts, so the earlier job may still run when this one is submitted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from peewee import SQL, Expression, fn

from polyjob.db.models import Dependency, Job
from polyjob.db.prepared import Prepared, insert, update
from polyjob.errors import Invalid, Problem
from polyjob.services.abandon import ABANDONED_NOTE
from polyjob.services.dependencies import Condition, Requested, unknown_job
from polyjob.services.notes import MISSING_OUTPUTS_NOTE, note_text
from polyjob.storage.store import Store

FindJob = Callable[[int | str], int | None]
"""Returns the id of the job with this id or unique name, if the sender of a request may read it."""

POINTER = "/config/environment/outputs/jobs"
_OF_JOB = Prepared(
    lambda: Dependency.select().where(Dependency.job == 0, Dependency.folder.is_null(False)).order_by(Dependency.id)
)
_JOB = Prepared(lambda: Job.select().where(Job.id == 0))


@dataclass(frozen=True)
class Source:
    """The outputs of one earlier job."""

    folder: str
    """Name of the folder in which the job finds them: the number of the earlier job."""
    uuid: str | None
    """None if they cannot be read any more."""


def references(config: Mapping[str, Any] | None) -> list[int | str]:
    """Return the ids and unique names of the jobs whose outputs a job with this config reads."""
    jobs: list[int | str] = (((config or {}).get("environment") or {}).get("outputs") or {}).get("jobs") or []
    return jobs


def reads_outputs(job: Job) -> bool:
    """Return whether the job reads outputs of earlier jobs. Costs no look-up."""
    return job.has_dependencies and bool(references(job.config))


def find(config: Mapping[str, Any] | None, after: Sequence[Requested], find_job: FindJob | None) -> list[Requested]:
    """Return the jobs whose outputs a new job reads, which are dependencies besides those in `after`.

    The new job waits until such a job has succeeded, unless that is done already or `after` has its own condition.
    Raises Invalid for each job that does not exist, that the sender may not read, or that is listed twice. Without
    `find_job`, as for the job of a schedule, a config that names jobs is refused.
    """
    names = references(config)
    if names and find_job is None:
        raise Invalid([Problem(POINTER, "A job of a schedule cannot read outputs of other jobs.")])
    awaited = {one.job_id for one in after}
    found: list[Requested] = []
    problems: list[Problem] = []
    for index, name in enumerate(names):
        pointer = f"{POINTER}/{index}"
        job_id = find_job(name) if find_job else None
        if job_id is None:
            problems.append(unknown_job(pointer, name))
        elif job_id in [one.job_id for one in found]:
            problems.append(Problem(pointer, f"Job `{name}` is listed twice."))
        else:
            condition = Condition.END if job_id in awaited else Condition.SUCCESS
            found.append(Requested(job_id, condition, folder=str(job_id), pointer=pointer))
    if problems:
        raise Invalid(problems)
    return found


def check(upstreams: Iterable[tuple[Job, Requested]], store: Store) -> None:
    """Raise Invalid for each job that is done and whose outputs cannot be read."""
    problems = []
    for upstream, requested in upstreams:
        fault = outputs_fault(upstream, store) if requested.folder and upstream.status.is_done else None
        if fault:
            problems.append(Problem(requested.pointer, f"The outputs of job #{upstream.id} {fault}."))
    if problems:
        raise Invalid(problems)


def outputs_fault(source: Job, store: Store) -> str | None:
    """Return why no job can begin with the outputs of a job that is done, or None.

    The text completes a sentence that begins with "The outputs".
    """
    if source.cleared_at is not None:
        return "were removed to make room"
    is_missing = note_text(source.notes, MISSING_OUTPUTS_NOTE) or note_text(source.notes, ABANDONED_NOTE)
    return "are missing, as its notes say" if is_missing and not store.is_sealed(source.uuid) else None


def awaited_outputs() -> Expression:
    """Return the condition that an unfinished job reads a job's outputs, or is a retry that begins with them.

    To be used in a query of `Job`.
    """
    reader, retry = Job.alias(), Job.alias()
    readers = (
        Dependency.select(SQL("1"))
        .join(reader, on=(Dependency.job == reader.id))
        .where(Dependency.upstream == Job.id, Dependency.folder.is_null(False), reader.finished_at.is_null())
    )
    retries = retry.select(SQL("1")).where(
        retry.original == Job.id,
        retry.retry_number > 0,
        retry.cloning_strategy == "resume",
        retry.finished_at.is_null(),
    )
    return fn.EXISTS(readers) | fn.EXISTS(retries)


def copy_to_retry(job: Job, retry: Job) -> None:
    """Let a retry read the same outputs as the failed attempt. Must be called inside `database.write`."""
    if not reads_outputs(job):
        return
    update(Job, retry.id, {"has_dependencies": True})
    for row in _OF_JOB(job.id):
        values = {"job": retry.id, "upstream": row.upstream_id, "condition": row.condition, "folder": row.folder}
        insert(Dependency, values | {"is_met": True})


def sources(job: Job, store: Store) -> list[Source]:
    """Return the outputs that the job reads, in the order of its config."""
    return [Source(str(row.folder), _readable_uuid(row.upstream_id, store)) for row in _OF_JOB(job.id)]


def _readable_uuid(job_id: int | None, store: Store) -> str | None:
    job = _JOB.first(job_id) if job_id else None
    is_readable = job is not None and job.deleted_at is None and outputs_fault(job, store) is None
    return job.uuid if job is not None and is_readable else None
