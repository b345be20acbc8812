"""The queue: positions, used slots and GPUs, and the reason why a job waits."""

from __future__ import annotations

from polyjob.db.database import database
from polyjob.db.models import CLAIMED, QUEUED, Build, Job
from polyjob.db.prepared import Prepared
from polyjob.services import specs
from polyjob.services.notes import note_text
from polyjob.statuses import Status

_NOT_STARTED = Prepared(
    lambda: (
        Job.select(Job.id, Job.build_id, Job.notes)
        .where(CLAIMED, Job.exit.is_null(), Job.handle.is_null())
        .order_by(Job.id)
    )
)
_POSITION = f"SELECT COUNT(*) FROM job WHERE {QUEUED.sql} AND id <= ?"


def queue_position(job: Job) -> int | None:
    """Return the job's position in the queue, or None if it is not queued. The engine claims position 1 next."""
    if job.status is not Status.CREATED or not job.is_managed:
        return None
    return position_of(job.id)


def position_of(job_id: int) -> int:
    """Return the position of a job that is known to be queued."""
    return int(database.execute_sql(_POSITION, (job_id,)).fetchone()[0])


def slots_taken() -> int:
    """Count the jobs that hold a slot: claimed, and not known to have ended."""
    return int(database.execute_sql(f"SELECT COUNT(*) FROM job WHERE {CLAIMED.sql} AND exit IS NULL").fetchone()[0])


def gpus_taken() -> set[int]:
    """Return the indices of the GPUs that claimed jobs hold until they are known to have ended."""
    holders = Job.select(Job.gpus).where(CLAIMED, Job.exit.is_null(), Job.gpus.is_null(False))
    return {index for job in holders for index in job.gpus}


def jobs_with_retried_start() -> list[int]:
    """Return the ids of the jobs that hold a slot while their start, or their build, is retried."""
    holders = _NOT_STARTED()
    build_ids = {job.build_id for job in holders if job.build_id is not None}
    retried_builds = set()
    if build_ids:
        builds = Build.select(Build.id, Build.notes).where(Build.id.in_(build_ids), Build.finished_at.is_null())
        retried_builds = {build.id for build in builds if note_text(build.notes, "retry")}
    return [job.id for job in holders if note_text(job.notes, "retry") or job.build_id in retried_builds]


def slots_note() -> str | None:
    """Return one sentence that names the jobs that hold slots without running, or None."""
    job_ids = jobs_with_retried_start()
    if not job_ids:
        return None
    names = ", ".join(f"#{job_id}" for job_id in job_ids)
    if len(job_ids) == 1:
        return f"1 slot is held by a job whose start is retried: {names}."
    return f"{len(job_ids)} slots are held by jobs whose start is retried: {names}."


def waiting_reason(job: Job, position: int | None) -> str | None:
    """Return one sentence with the reason why the job does not run now, or None. `position` is that in the queue."""
    if job.status.is_done or not job.is_managed:
        return None
    if job.status is Status.CREATED:
        return _queued_reason(job, (position or 1) - 1)
    if job.status is Status.BUILDING and job.build is not None and not job.build.status.is_done:
        retry = note_text(job.build.notes, "retry")
        return f"Waiting for build {job.build.unique_name}, which is {job.build.status}{f': {retry}' if retry else '.'}"
    return note_text(job.notes, "retry") if job.handle is None and job.exit is None else None


def _queued_reason(job: Job, jobs_ahead: int) -> str:
    runs_without_gpus = note_text(job.notes, specs.GPU_PATH)
    gpus = 0 if runs_without_gpus else specs.requested_gpus(job.config, job.runner)
    if gpus and not jobs_ahead:
        reason = f"Waiting for {gpus} free {'GPU' if gpus == 1 else 'GPUs'}, or for a free slot."
    else:
        reason = f"Waiting for a free slot; {jobs_ahead} {'job is' if jobs_ahead == 1 else 'jobs are'} ahead."
    note = slots_note()
    return f"{reason} {note}" if note else reason
