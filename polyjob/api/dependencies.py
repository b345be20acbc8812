"""The jobs for which a new job waits, as its request names them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from polyjob.api.request_context import me
from polyjob.auth.identity import readable_projects
from polyjob.db.models import Job, Project
from polyjob.errors import Invalid
from polyjob.services.dependencies import Requested, unknown_job

MAX_ID_DIGITS = 18
"""Every number of so many digits fits into an SQLite integer."""


def find_dependencies(after: Sequence[Mapping[str, Any]] | None) -> list[Requested]:
    """Return the dependencies that a request names by ids or unique names.

    Raises Invalid with a pointer to each job that does not exist or that the sender may not read.
    """
    requested, problems = [], []
    for index, one in enumerate(after or ()):
        job_id, pointer = find_readable_job(one["job"]), f"/after/{index}/job"
        if job_id is None:
            problems.append(unknown_job(pointer, one["job"]))
        else:
            requested.append(Requested(job_id, one["on"], pointer=pointer))
    if problems:
        raise Invalid(problems)
    return requested


def find_readable_job(name: int | str) -> int | None:
    """Return the id of the job with this id or unique name, in any project that the user may read, or None."""
    digits = str(name).rsplit(".", 1)[-1]
    if not (digits.isascii() and digits.isdecimal()) or len(digits) > MAX_ID_DIGITS:
        return None
    listed = Job.deleted_at.is_null() & Job.archived_at.is_null()
    job = Job.select().join(Project).where(Job.id == int(digits), listed, readable_projects(me())).first()
    return job.id if job is not None and str(name) in (digits, job.unique_name) else None
