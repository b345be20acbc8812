"""The queues: positions, used slots and GPUs, and the reason why a job waits.

Each runner has its own slots, and its jobs are a queue of their own. GPUs are one pool.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass

from polyjob.db.database import database
from polyjob.db.models import CLAIMED, QUEUED, Build, Job
from polyjob.db.prepared import Prepared
from polyjob.services import capacity, dependencies, specs
from polyjob.services.job_retries import held_reason
from polyjob.services.notes import note_text
from polyjob.statuses import Status

_NOT_STARTED = Prepared(
    lambda: (
        Job.select(Job.id, Job.runner, Job.build_id, Job.notes)
        .where(CLAIMED, Job.exit.is_null(), Job.handle.is_null())
        .order_by(Job.id)
    )
)
_OF_RUNNER = f"FROM job WHERE {QUEUED.sql} AND runner = :runner"
_COUNT_UP_TO = f"(SELECT COUNT(*) {_OF_RUNNER} AND id <= :id)"
_COUNT_AFTER = f"(SELECT COUNT(*) {_OF_RUNNER} AND id > :id)"
_POSITION = (
    f"SELECT CASE WHEN last - :id < :id - first THEN (SELECT length FROM queue WHERE runner = :runner) - {_COUNT_AFTER}"
    f" ELSE {_COUNT_UP_TO} END"
    f" FROM (SELECT (SELECT MIN(id) {_OF_RUNNER}) AS first, (SELECT MAX(id) {_OF_RUNNER}) AS last)"
)
_STATE = (
    f"SELECT ({_POSITION}), (SELECT COUNT(*) FROM job WHERE {CLAIMED.sql} AND exit IS NULL AND runner = :runner),"
    f" EXISTS (SELECT 1 FROM job WHERE {CLAIMED.sql} AND exit IS NULL AND handle IS NULL AND runner = :runner),"
    f" {capacity.CHANGES_SQL}"
)
_POSITIONS = (
    "SELECT id, position FROM (SELECT id, ROW_NUMBER() OVER (PARTITION BY runner ORDER BY id) AS position FROM job"
    f" WHERE {QUEUED.sql}) WHERE id IN (SELECT value FROM json_each(?))"
)
_WITH_QUEUED = (
    f"WITH RECURSIVE queued (runner) AS (SELECT MIN(runner) FROM job WHERE {QUEUED.sql} UNION ALL"
    f" SELECT (SELECT MIN(runner) FROM job WHERE {QUEUED.sql} AND job.runner > queued.runner) FROM queued"
    " WHERE queued.runner IS NOT NULL)"
)
_RUNNERS = f"{_WITH_QUEUED} SELECT runner FROM queued WHERE runner IS NOT NULL"
_QUEUES = (
    f"{_WITH_QUEUED} SELECT runner,"
    f" (SELECT COUNT(*) FROM job WHERE {CLAIMED.sql} AND exit IS NULL AND job.runner = queued.runner),"
    f" {capacity.CHANGES_SQL} FROM queued WHERE runner IS NOT NULL"
)


@dataclass(frozen=True)
class QueueState:
    """The queue of a runner at one moment, as far as one job in it is concerned."""

    position: int
    """The position of the job, if it is queued."""
    slots_taken: int
    has_unstarted: bool
    """Whether a job holds a slot that the backend has not started."""
    changes: capacity.Changes


def read_state(job: Job) -> QueueState:
    """Return the queue of the job's runner at this moment, read by one statement."""
    parameters = {"runner": job.runner, "id": job.id}
    position, taken, has_unstarted, *changes = database.execute_sql(_STATE, parameters).fetchone()
    return QueueState(max(position or 0, 1), taken, bool(has_unstarted), capacity.parse_changes(*changes))


def queue_position(job: Job) -> int | None:
    """Return the job's position in the queue of its runner, or None if it is not queued. Position 1 is next."""
    return position_of(job.id, job.runner) if is_queued(job) else None


def is_queued(job: Job) -> bool:
    """Return whether the job is in the queue of its runner."""
    return job.status is Status.CREATED and job.is_managed and not job.is_held


def position_of(job_id: int, runner: str) -> int:
    """Return the position of a job that is known to be queued.

    Counts the jobs up to this one, or those after it, whichever is likely to be fewer.
    """
    row = database.execute_sql(_POSITION, {"runner": runner, "id": job_id}).fetchone()
    return max(int(row[0]), 1)  # the engine may have claimed it meanwhile


def positions_of(job_ids: Collection[int]) -> dict[int, int]:
    """Return the position of each of these jobs that is queued. Reads the index of the queues."""
    return dict(database.execute_sql(_POSITIONS, (json.dumps(list(job_ids)),)).fetchall()) if job_ids else {}


def queued_runners() -> list[str]:
    """Return the runners of the queued jobs. Reads one row for each of them, however long the queues are."""
    return [name for (name,) in database.execute_sql(_RUNNERS)]


def read_queues() -> tuple[dict[str, int], capacity.Changes]:
    """Return the runners of the queued jobs with the number of their used slots, and the changes of the capacity.

    Reads all of it by one statement. The changes are left out if no job is queued.
    """
    rows = database.execute_sql(_QUEUES).fetchall()
    changes = capacity.parse_changes(*rows[0][2:]) if rows else capacity.Changes()
    return {runner: taken for runner, taken, *_ in rows}, changes


def slots_taken() -> Counter[str]:
    """Count the jobs that hold a slot of each runner: claimed, and not known to have ended."""
    sql = f"SELECT runner, COUNT(*) FROM job WHERE {CLAIMED.sql} AND exit IS NULL GROUP BY runner"
    return Counter(dict(database.execute_sql(sql).fetchall()))


def gpus_taken() -> set[int]:
    """Return the indices of the GPUs that claimed jobs hold until they are known to have ended."""
    return set(gpu_holders())


def assigned_gpus(job: Job) -> int:
    """Return the number of GPUs that polyjob assigns to a queued job: none if it was accepted without its GPUs."""
    return 0 if note_text(job.notes, specs.GPU_PATH) else specs.requested_gpus(job.config, job.runner)


def gpu_holders() -> dict[int, int]:
    """Return the index of each GPU that a claimed job holds → the id of that job."""
    holders = Job.select(Job.id, Job.gpus).where(CLAIMED, Job.exit.is_null(), Job.gpus.is_null(False))
    return {index: job.id for job in holders for index in job.gpus}


def jobs_with_retried_start(runner: str | None = None) -> list[int]:
    """Return the ids of the jobs that hold a slot, of one runner or of any, while their start or build is retried."""
    holders = [job for job in _NOT_STARTED() if runner in (None, job.runner)]
    build_ids = {job.build_id for job in holders if job.build_id is not None}
    retried_builds = set()
    if build_ids:
        builds = Build.select(Build.id, Build.notes).where(Build.id.in_(build_ids), Build.finished_at.is_null())
        retried_builds = {build.id for build in builds if note_text(build.notes, "retry")}
    return [job.id for job in holders if note_text(job.notes, "retry") or job.build_id in retried_builds]


def slots_note(runner: str | None = None) -> str | None:
    """Return one sentence that names the jobs that hold slots, of one runner or of any, without running; or None."""
    job_ids = jobs_with_retried_start(runner)
    if not job_ids:
        return None
    names = ", ".join(f"#{job_id}" for job_id in job_ids)
    if len(job_ids) == 1:
        return f"1 slot is held by a job whose start is retried: {names}."
    return f"{len(job_ids)} slots are held by jobs whose start is retried: {names}."


def waiting_reason(job: Job, position: int | None, state: QueueState | None = None) -> str | None:
    """Return one sentence with the reason why the job does not run now, or None.

    `position` is that in the queue. `state` is read if it is None.
    """
    if job.status.is_done or not job.is_managed:
        return None
    if job.status is Status.CREATED and job.is_held:
        return held_reason(job) if job.wait_until else dependencies.waiting_reason(job)
    if job.status is Status.CREATED:
        return _queued_reason(job, (position or 1) - 1, state or read_state(job))
    if job.status is Status.BUILDING and job.build is not None and not job.build.status.is_done:
        retry = note_text(job.build.notes, "retry")
        return f"Waiting for build {job.build.unique_name}, which is {job.build.status}{f': {retry}' if retry else '.'}"
    return note_text(job.notes, "retry") if job.handle is None and job.exit is None else None


def _queued_reason(job: Job, jobs_ahead: int, state: QueueState) -> str:
    gpus = assigned_gpus(job)
    lowered = capacity.why_lowered(state.changes, job.runner, gpus)
    if lowered:
        return lowered
    slot = f"a free slot of the {job.runner} runner"
    if gpus and not jobs_ahead:
        reason = f"Waiting for {gpus} free {'GPU' if gpus == 1 else 'GPUs'}, or for {slot}."
        holders = ", ".join(f"GPU {index} is held by #{job_id}" for index, job_id in sorted(gpu_holders().items()))
        reason += f" {holders}." if holders else ""
    elif not jobs_ahead:
        reason = f"Waiting for {slot}; this job is next."
    else:
        reason = f"Waiting for {slot}; {jobs_ahead} {'job is' if jobs_ahead == 1 else 'jobs are'} ahead."
    note = slots_note(job.runner) if state.has_unstarted else None
    return f"{reason} {note}" if note else reason
