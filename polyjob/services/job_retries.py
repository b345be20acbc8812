"""Retries: a job that fails is tried again by a clone, if its config asks for that.

The clones of one job are a chain: the original of each is the attempt before it. A retry with a pause is held until its
time: it has the status `created`, and is not in the queue of its runner.
"""

from __future__ import annotations

import datetime
from typing import Any

from polyjob.clock import to_microseconds
from polyjob.db.database import database
from polyjob.db.models import DELAYED, Job, JobStatus
from polyjob.db.prepared import Prepared
from polyjob.jobconfig.retry_rules import max_retries, next_retry
from polyjob.services.abandon import ABANDONED_NOTE
from polyjob.services.build_reuse import has_named_build
from polyjob.services.new_jobs import insert_job
from polyjob.services.notes import MISSING_OUTPUTS_NOTE, Notes, note_text, with_note
from polyjob.services.transitions import update_columns
from polyjob.statuses import Status
from runners.base import Reason
from runners.registry import runner_facts

EMPTY_OUTPUTS_NOTE = "inputs"
"""Note kind: why a retry that should begin with the outputs of the failed attempt begins with empty ones."""
_KEPT_COLUMNS = ("description", "readme", "tags", "data_refs", "ttl", "config", "content", "is_managed", "runner")

_inserted = [0]
"""The number of delayed retries that this process has inserted."""
_DUE = f"SELECT id FROM job WHERE {DELAYED.sql} AND wait_until <= ? ORDER BY wait_until, id LIMIT ?"
_FIRST_DUE = f"SELECT MIN(wait_until) FROM job WHERE {DELAYED.sql}"
_NEXT = Prepared(
    lambda: Job.select(Job.id).where(Job.original == 0, Job.retry_number == 0, Job.deleted_at.is_null()).limit(1)
)


def insert_retry(job: Job, end: JobStatus) -> Job | None:
    """Insert the next attempt of a job that has just ended, and return it; None if the job is not tried again.

    A job that was stopped, archived or deleted is not tried again. Must be called inside `database.write`, in the
    transaction of the terminal status `end`. So a crash neither loses a retry nor doubles one.
    """
    if end.status is not Status.FAILED or not job.is_managed or job.deleted_at or job.archived_at:
        return None
    reason = (end.details or {}).get("reason")
    retry = next_retry(job.config, job.retry_number, reason, job.exit_code)
    if retry is None:
        return None
    columns: dict[str, Any] = {name: getattr(job, name) for name in _KEPT_COLUMNS}
    columns |= {
        "code": job.code_id,
        "build": _named_build(job, reason),
        "original": job.id,
        "cloning_strategy": "restart",
        "notes": _notes_on_config(job),
        "retry_number": job.retry_number + 1,
        "first_attempt": job.first_attempt_id if job.retry_number else job.id,
    }
    if retry.resumes:
        columns |= _resume_columns(job, columns["notes"])
    if retry.delay:
        wait_until = end.created_at + datetime.timedelta(seconds=retry.delay)
        columns |= {"is_held": True, "wait_until": wait_until}
        _inserted[0] += 1
    return insert_job(job.project, job.user, columns)


def _named_build(job: Job, reason: str | None) -> int | None:
    """Return the build of the retry, if the request named one. A failed one is made again, if that is possible."""
    if job.build_id is None or not has_named_build(job):
        return None
    can_be_made = "build" in (job.config or {})
    return None if reason == Reason.BUILD and can_be_made else job.build_id


def _notes_on_config(job: Job) -> Notes | None:
    """Return the notes that the job got when it was accepted: those on the parts of its config."""
    parts = runner_facts(job.runner).support
    return [note for note in job.notes or [] if note["kind"] in parts] or None


def _resume_columns(job: Job, notes: Notes | None) -> dict[str, Any]:
    """Return the columns of a retry that begins with the outputs of the failed attempt, if these could be stored."""
    fault = note_text(job.notes, MISSING_OUTPUTS_NOTE) or note_text(job.notes, ABANDONED_NOTE)
    if fault is None:
        return {"cloning_strategy": "resume"}
    text = f"The job begins with empty outputs, because those of #{job.id} are missing: {fault}"
    return {"notes": with_note(notes, EMPTY_OUTPUTS_NOTE, text)}


def resumes_on_start(job: Job) -> bool:
    """Return whether the outputs of the original have to be linked when the job starts.

    Those of a clone that a user requested are linked before it is accepted.
    """
    return bool(job.retry_number) and job.cloning_strategy == "resume"


# Pauses.


def delayed_count() -> int:
    """Return how many delayed retries this process has inserted. While it stays the same, `next_due` does not fall.

    Only the engine inserts retries, so it need not read the database to know that there are no new ones.
    """
    return _inserted[0]


def next_due() -> int | None:
    """Return the earliest instant at which a held job may start, in microseconds since 1970; None if there is none."""
    instant: int | None = database.execute_sql(_FIRST_DUE).fetchone()[0]
    return instant


def due_jobs(moment: datetime.datetime, limit: int) -> list[int]:
    """Return the ids of held jobs whose time has come, the earliest first."""
    return [job_id for (job_id,) in database.execute_sql(_DUE, (to_microseconds(moment), limit))]


def release(job: Job) -> None:
    """Put a held job into the queue of its runner. Must be called inside `database.write`."""
    if job.status is Status.CREATED and job.is_held:
        update_columns(job, is_held=False)


def held_reason(job: Job) -> str:
    """Return one sentence with the reason why a held job waits."""
    return f"Waiting until {job.wait_until:%Y-%m-%d %H:%M:%S} UTC, to retry #{job.original_id}."


# For responses.


def describe_retry(job: Job) -> str | None:
    """Return `2 of 3 of #12` for a retry, or None."""
    if not job.retry_number:
        return None
    text = f"{job.retry_number} of {max_retries(job.config)}"
    return f"{text} of #{job.first_attempt_id}" if job.first_attempt_id else text


def retry_state(job: Job) -> dict[str, Any] | None:
    """Return the place of a job in its chain of retries, for the API; None if its config asks for none."""
    most = max_retries(job.config)
    if not most and not job.retry_number:
        return None
    following = _NEXT.first(job.id, job.retry_number + 1, 1) if job.status is Status.FAILED else None
    return {
        "number": job.retry_number,
        "left": max(0, most - job.retry_number),
        "first_job": job.first_attempt_id,
        "next_job": following.id if following else None,
    }
