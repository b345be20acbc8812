"""Retention of jobs: find jobs that ended long ago and that nothing refers to, and delete them.

These jobs are kept:

* jobs with a bookmark, and archived ones, which have a retention of their own
* jobs that an unfinished job refers to: as a dependency, or as the original of a clone
* all attempts of a retried job, until its last retry is old as well
* jobs among the runs of a schedule that its page shows
"""

from __future__ import annotations

import datetime
from typing import Any

from polyjob.clock import to_microseconds
from polyjob.db.database import database, write
from polyjob.db.models import MAX_SHOWN_FIRES, Job, Project
from polyjob.services import audit, jobs

MAX_EXPIRED_JOBS = 5000
"""Old jobs that one round of the cleanup deletes, each in a transaction of its own."""

_IS_OLD = """
    job.finished_at < :oldest AND job.deleted_at IS NULL AND job.archived_at IS NULL
    AND NOT EXISTS (SELECT 1 FROM bookmark WHERE kind = 'job' AND target_id = job.id AND is_set = 1)
    AND NOT EXISTS (
        SELECT 1 FROM dependency JOIN job AS waiting ON waiting.id = dependency.job_id
        WHERE dependency.upstream_id = job.id AND waiting.finished_at IS NULL
    )
    AND NOT EXISTS (SELECT 1 FROM job AS clone WHERE clone.original_id = job.id AND clone.finished_at IS NULL)
    AND NOT EXISTS (
        SELECT 1 FROM job AS retry WHERE retry.first_attempt_id = coalesce(job.first_attempt_id, job.id)
            AND (retry.finished_at IS NULL OR retry.finished_at >= :oldest)
    )
    AND NOT EXISTS (
        SELECT 1 FROM schedule_fire AS fire WHERE fire.job_id = job.id AND :shown > (
            SELECT COUNT(*) FROM (
                SELECT 1 FROM schedule_fire AS later
                WHERE later.schedule_id = fire.schedule_id AND later.id > fire.id LIMIT :shown
            )
        )
    )
"""
_LIST = f"SELECT id, uuid FROM job WHERE project_id = :project AND {_IS_OLD} ORDER BY finished_at LIMIT :limit"
_CHECK = f"SELECT 1 FROM job WHERE id = :job AND {_IS_OLD}"


def find_old(project: Project, oldest: datetime.datetime, limit: int) -> list[tuple[int, str]]:
    """Return (id, uuid) of up to `limit` jobs of the project that can be deleted, sorted by the time of their end.

    These are the jobs that ended before `oldest`, without those that are kept.
    """
    values = _values(oldest) | {"project": project.id, "limit": limit}
    rows: list[tuple[int, str]] = database.execute_sql(_LIST, values).fetchall()
    return rows


def delete_old(job_id: int, oldest: datetime.datetime, reason: str) -> bool:
    """Delete the job, unless it is kept by now. Return whether it was deleted. The engine then removes it."""
    with write("expire-job", use_reserve=True):
        if database.execute_sql(_CHECK, _values(oldest) | {"job": job_id}).fetchone() is None:
            return False
        job = Job.get_by_id(job_id)
        jobs.mark_deleted(job, None)
        audit.record_by_server("delete", job, reason=reason)
        return True


def _values(oldest: datetime.datetime) -> dict[str, Any]:
    return {"oldest": to_microseconds(oldest), "shown": MAX_SHOWN_FIRES}
