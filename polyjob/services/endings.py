"""The end of a job: its terminal status, and what follows from it in the same transaction."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Any

from polyjob.db.models import Job, JobStatus
from polyjob.services import dependencies, job_inputs, outbox, webhooks
from polyjob.services.job_retries import insert_retry
from polyjob.services.transitions import transition
from polyjob.statuses import Status


def end_job(
    job: Job,
    status: Status,
    *,
    message: str | None = None,
    traceback: str | None = None,
    details: dict[str, Any] | None = None,
    **columns: Any,
) -> JobStatus | None:
    """Write the terminal status of a job like `transition`, and do what follows from it.

    Returns None, and does nothing, if the job has ended already. So it is idempotent. Must be called inside
    `database.write`. All code that ends a job calls this.
    """
    row = transition(job, status, message=message, traceback=traceback, details=details, **columns)
    if not isinstance(row, JobStatus):
        return None
    unmet = deque(_follow_up(job, row))
    while unmet:
        end = unmet.popleft()
        end_row = transition(end.job, end.status, message=end.message, details=end.details)
        if isinstance(end_row, JobStatus):
            unmet += _follow_up(end.job, end_row)
    return row


def add_dependencies(job: Job, upstreams: Sequence[tuple[Job, dependencies.Requested]]) -> None:
    """Let a job that was just inserted wait for others, or end it if it can never start because of them.

    Must be called inside `database.write`, after the webhooks of the job were added.
    """
    if upstreams and (end := dependencies.add(job, upstreams)):
        end_job(job, end.status, message=end.message, details=end.details)


def _follow_up(job: Job, row: JobStatus) -> list[dependencies.Unmet]:
    """Do what follows from a terminal status, and return the jobs that have to end because of it."""
    retry = insert_retry(job, row)
    if retry is not None:
        webhooks.copy_to_clone(job, retry)
        job_inputs.copy_to_retry(job, retry)
    outbox.record_end(job, row.status, is_retried=retry is not None)
    return dependencies.settle(job, retry)
