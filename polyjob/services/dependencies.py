"""Dependencies: a job that waits until other jobs have ended.

Such a job is held: it has the status `created`, and is not in the queue of its runner. The transaction that ends one of
the other jobs decides: it releases the job, or finds that a condition can no longer be met.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from polyjob.db.database import database
from polyjob.db.models import Dependency, Job
from polyjob.db.prepared import Prepared, insert, update
from polyjob.errors import Invalid, Problem
from polyjob.services.job_retries import release
from polyjob.services.transitions import update_columns
from polyjob.statuses import Status

MAX_DEPENDENCIES = 100
"""Jobs for which one job waits."""
MAX_NAMED_JOBS = 5
"""Jobs that the reason for waiting names."""


class Condition(enum.StrEnum):
    """The end of another job for which a job waits."""

    SUCCESS = "success"
    FAILURE = "failure"
    END = "end"

    def is_met_by(self, status: Status) -> bool:
        """Return whether a terminal status meets the condition. A stopped or skipped job has not failed."""
        return self is Condition.END or status in _STATUSES[self]


_FAILED = (Status.FAILED, Status.UPSTREAM_FAILED)
_STATUSES = {Condition.SUCCESS: (Status.SUCCEEDED,), Condition.FAILURE: _FAILED}
_VERBS = {Condition.SUCCESS: "succeed", Condition.FAILURE: "fail", Condition.END: "end"}


@dataclass(frozen=True)
class Requested:
    """One dependency of a new job."""

    job_id: int
    condition: Condition
    folder: str | None = None
    """Name of the folder in which the new job finds the outputs of the other one; None if it only waits."""
    pointer: str = "/after"
    """Its place in the request, for errors."""


@dataclass(frozen=True)
class Unmet:
    """A job that will never run, because a condition can no longer be met."""

    job: Job
    status: Status
    message: str
    details: dict[str, Any]


_WAITING = Prepared(lambda: Dependency.select().where(Dependency.upstream == 0, Dependency.is_met == 0))
_OF_JOB = Prepared(lambda: Dependency.select().where(Dependency.job == 0).order_by(Dependency.id))
_JOB = Prepared(lambda: Job.select().where(Job.id == 0))
_LAST_RETRY = "SELECT MAX(id) FROM job WHERE first_attempt_id = ? AND deleted_at IS NULL"
_IS_WAITING = "SELECT EXISTS (SELECT 1 FROM dependency WHERE job_id = ? AND is_met = 0)"


def find(requested: Sequence[Requested]) -> list[tuple[Job, Requested]]:
    """Return the jobs for which a new job waits. A job that is retried stands for its last retry.

    Raises Invalid if one of them was deleted. Must be called in the transaction of the new job.
    """
    upstreams = [(_last_attempt(one.job_id), one) for one in requested]
    problems = [unknown_job(one.pointer, one.job_id) for upstream, one in upstreams if upstream is None]
    if problems:
        raise Invalid(problems)
    return [(upstream, one) for upstream, one in upstreams if upstream is not None]


def unknown_job(pointer: str, name: int | str) -> Problem:
    return Problem(pointer, f"There is no job `{name}`, or you may not read it.")


def add(job: Job, upstreams: Sequence[tuple[Job, Requested]]) -> Unmet | None:
    """Let a job that was just inserted, and is held, wait for others. Release it if there is nothing to wait for.

    Return the end of the job if a condition can no longer be met. Must be called inside `database.write`.
    """
    unmet = None
    for upstream, one in upstreams:
        is_done = upstream.status.is_done
        condition = Condition.END if one.folder and is_done else one.condition  # its outputs are all that is needed
        is_met = is_done and condition.is_met_by(upstream.status)
        values = {"job": job, "upstream": upstream, "condition": str(condition), "folder": one.folder}
        insert(Dependency, values | {"is_met": is_met})
        if not upstream.is_awaited:
            update(Job, upstream.id, {"is_awaited": True})
        if is_done and not is_met:
            unmet = unmet or _unmet(job, upstream, condition)
    if unmet is None:
        _release_if_all_are_met(job)
    return unmet


def _last_attempt(job_id: int) -> Job | None:
    job = _JOB.first(job_id)
    if job is None or job.deleted_at is not None:
        return None
    last_id = database.execute_sql(_LAST_RETRY, (job.first_attempt_id or job.id,)).fetchone()[0]
    return _JOB.first(last_id) if last_id and last_id > job.id else job


def settle(upstream: Job, retry: Job | None) -> list[Unmet]:
    """Decide on the jobs that wait for a job that has just ended. Return those that will never run.

    If a retry follows, they go on waiting for that one. Must be called inside `database.write`.
    """
    unmet: list[Unmet] = []
    if not upstream.is_awaited:
        return unmet
    if retry is not None:
        update(Job, retry.id, {"is_awaited": True})
    for row in _WAITING(upstream.id, False):
        job = _JOB.first(row.job_id)
        if job is None or job.status.is_done:
            continue
        if retry is not None:
            Dependency.update(upstream=retry.id).where(Dependency.id == row.id).execute()
            update_columns(job)
        elif Condition(row.condition).is_met_by(upstream.status):
            Dependency.update(is_met=True).where(Dependency.id == row.id).execute()
            if not _release_if_all_are_met(job):
                update_columns(job)
        else:
            unmet.append(_unmet(job, upstream, Condition(row.condition)))
    return unmet


def _release_if_all_are_met(job: Job) -> bool:
    if database.execute_sql(_IS_WAITING, (job.id,)).fetchone()[0]:
        return False
    release(job)
    return True


def _unmet(job: Job, upstream: Job, condition: Condition) -> Unmet:
    """Return the end of a job: `upstream_failed` if the other job failed, else `skipped`.

    Clients know both: the first for a dependency that failed, the second for one that has made the job needless.
    """
    status = Status.UPSTREAM_FAILED if upstream.status in _FAILED else Status.SKIPPED
    state = {Status.UPSTREAM_FAILED: "did not run, because a job before it failed"}.get(
        upstream.status, f"{'was ' if upstream.status in (Status.STOPPED, Status.SKIPPED) else ''}{upstream.status}"
    )
    message = f"Job #{upstream.id} {state}, and this job waited for it to {_VERBS[condition]}"
    details = {"reason": "dependency", "job": upstream.id, "status": str(upstream.status)}
    return Unmet(job, status, message, details)


# For responses.


def dependencies_of(job: Job) -> list[dict[str, Any]]:
    """Return the dependencies of a job for the API."""
    rows = _OF_JOB(job.id) if job.has_dependencies else []
    return [
        {"job": row.upstream_id, "on": row.condition, "is_met": row.is_met, "reads_outputs": row.folder is not None}
        for row in rows
    ]


def waiting_reason(job: Job) -> str:
    """Return one sentence that names the jobs for which a held job waits."""
    waits = [f"#{row.upstream_id} to {_VERBS[Condition(row.condition)]}" for row in _OF_JOB(job.id) if not row.is_met]
    named, more = waits[:MAX_NAMED_JOBS], len(waits) - MAX_NAMED_JOBS
    if more > 0:
        named.append(f"{more} more {'job' if more == 1 else 'jobs'}")
    return f"Waiting for {', '.join(named[:-1])}{' and ' if named[:-1] else ''}{named[-1]}." if named else ""
