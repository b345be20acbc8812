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
    job_ids = [_find(one["job"]) for one in after or ()]
    problems = [
        unknown_job(index, one["job"])
        for index, (one, job_id) in enumerate(zip(after or (), job_ids, strict=True))
        if job_id is None
    ]
    if problems:
        raise Invalid(problems)
    found = zip(after or (), job_ids, strict=True)
    return [Requested(job_id, one["on"]) for one, job_id in found if job_id is not None]


def _find(name: int | str) -> int | None:
    """Return the id of a readable job of any project."""
    digits = str(name).rsplit(".", 1)[-1]
    if not (digits.isascii() and digits.isdecimal()) or len(digits) > MAX_ID_DIGITS:
        return None
    listed = Job.deleted_at.is_null() & Job.archived_at.is_null()
    job = Job.select().join(Project).where(Job.id == int(digits), listed, readable_projects(me())).first()
    return job.id if job is not None and str(name) in (digits, job.unique_name) else None
