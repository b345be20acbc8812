"""Abandon jobs: an administrator ends jobs whose backend never returns, although their result is unknown."""

from __future__ import annotations

from collections.abc import Iterable

from polyjob.clock import now
from polyjob.db.database import write
from polyjob.db.models import CLAIMED, Job
from polyjob.engine_link import wake_engine
from polyjob.services.notes import note_text, with_note
from polyjob.services.transitions import update_columns
from polyjob.settings import Settings
from runners.base import Exit, Reason

ABANDONED_NOTE = "given-up"
"""Note kind: when and why the job was abandoned. Stored in databases, so it keeps this text."""


def stalled_reason(job: Job) -> str | None:
    """Return why the job makes no progress, if its backend does not answer; else None."""
    if note_text(job.notes, ABANDONED_NOTE):
        return None
    unreachable = note_text(job.notes, "unreachable")
    if unreachable or (job.handle is not None and job.exit is None and job.stop_at is None):
        return unreachable
    return note_text(job.notes, "retry")  # a start, a stop or the end of the job is retried


def stalled_jobs(job_ids: Iterable[int] | None = None) -> list[Job]:
    """Return the jobs that wait for a backend that does not answer, deleted ones included.

    `job_ids` limits the search to these jobs.
    """
    jobs = Job.select().where(CLAIMED, Job.attempt_at.is_null(False)).order_by(Job.id)
    if job_ids is not None:
        jobs = jobs.where(Job.id.in_(list(job_ids)))
    return [job for job in jobs if stalled_reason(job)]


def abandon_jobs(job_ids: Iterable[int] | None, settings: Settings) -> list[Job]:
    """Abandon jobs that wait for a backend that does not answer, and return them. `job_ids` limits them; None: all.

    The engine then ends each of them with the log that was fetched so far, and does not ask the backend about it again.
    The reason is `lost`, unless the job's exit is known; a job that was to be stopped is `stopped`. Idempotent.
    """
    with write("abandon"):
        abandoned = stalled_jobs(job_ids)
        for job in abandoned:
            message = (
                f"Abandoned on {now():%Y-%m-%d %H:%M} UTC because its backend did not answer: {stalled_reason(job)}"
            )
            exit_status = job.exit or Exit(Reason.LOST, message=message).to_json()
            notes = with_note(with_note(job.notes, "unreachable", None), ABANDONED_NOTE, message)
            update_columns(job, exit=exit_status, handle=None, notes=notes)
    wake_engine(settings.data_dir)
    return abandoned
