"""Jobs whose back end is gone for good, ended by a person's word: what became of them is not known."""

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


def stalled_reason(job: Job) -> str | None:
    """Why nothing goes on with this job, where its back end does not answer; else None."""
    if note_text(job.notes, "given-up"):
        return None
    unreachable = note_text(job.notes, "unreachable")
    if unreachable or (job.handle is not None and job.exit is None and job.stop_at is None):
        return unreachable
    return note_text(job.notes, "retry")  # of its start, its stop or its end


def stalled_jobs(numbers: Iterable[int] | None = None) -> list[Job]:
    """The jobs that wait for a back end that does not answer, deleted ones too; of these numbers, or all."""
    found = Job.select().where(CLAIMED, Job.attempt_at.is_null(False)).order_by(Job.id)
    if numbers is not None:
        found = found.where(Job.id.in_(list(numbers)))
    return [job for job in found if stalled_reason(job)]


def abandon_jobs(numbers: Iterable[int] | None, settings: Settings) -> list[Job]:
    """Have these jobs (None: all) end, as far as they wait for a back end that does not answer; those that did.

    The engine then ends each as `lost` (or `stopped`, where that was asked for; or with the exit that is known),
    with the log that was fetched so far, and asks the back end nothing more about it. Idempotent.
    """
    with write("give-up"):
        found = stalled_jobs(numbers)
        for job in found:
            told = (
                f"It was given up on {now():%Y-%m-%d %H:%M} UTC, for its back end did not answer: {stalled_reason(job)}"
            )
            end = job.exit or Exit(Reason.LOST, message=told).to_json()
            notes = with_note(with_note(job.notes, "unreachable", None), "given-up", told)
            update_columns(job, exit=end, handle=None, notes=notes)
    wake_engine(settings.data_dir)
    return found
