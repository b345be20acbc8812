"""The end of a job: its terminal status, and what follows from it in the same transaction."""

from __future__ import annotations

from typing import Any

from polyjob.db.models import Job, JobStatus
from polyjob.services import outbox, webhooks
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
    retry = insert_retry(job, row)
    if retry is not None:
        webhooks.copy_to_clone(job, retry)
    outbox.record_end(job, status, is_retried=retry is not None)
    return row
