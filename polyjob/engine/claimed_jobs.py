"""Cache of the rows of claimed jobs, so that a pass reads only those that have changed."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from polyjob.db.database import database
from polyjob.db.models import CLAIMED, Job
from polyjob.db.prepared import Prepared
from polyjob.services.jobs import BY_ID
from polyjob.statuses import Status

MIN_BATCH_ROWS = 20
"""From this many changed rows on, one query reads all claimed jobs."""

_CLAIMED = Prepared(lambda: Job.select().where(CLAIMED).order_by(Job.id))
_VERSIONS = f"SELECT id, version FROM job WHERE {CLAIMED.sql} ORDER BY id"


class ClaimedJobs:
    """Keeps the rows between passes. All of it can be lost."""

    def __init__(self) -> None:
        self.rows: dict[int, Job] = {}
        """Id → job, in the order of the ids."""
        self.runners: set[str] = set()
        """The names of their runners."""
        self._seen: tuple[Any, ...] = ()
        """State of the database at the last read."""

    def read(self) -> set[int] | None:
        """Read the rows that have changed. Return their ids, or None if nothing in the database has changed.

        Every change of a job raises its version, except for columns that only the engine writes; see `forget`.
        """
        connection = database.connection()
        data_version = database.execute_sql("PRAGMA data_version").fetchone()[0]
        seen = (connection, data_version, connection.total_changes)
        if seen == self._seen:
            return None
        versions = dict(database.execute_sql(_VERSIONS).fetchall())
        changed = {job_id for job_id, version in versions.items() if not self._is_current(job_id, version)}
        rows = self.rows | {row.id: row for row in self._read(changed)}
        self.rows = {job_id: rows[job_id] for job_id in versions if job_id in rows}
        self.runners = {row.runner for row in self.rows.values()}
        self._seen = seen
        return changed

    def forget(self, job_ids: Iterable[int]) -> None:
        """Read these jobs again in the next pass."""
        for job_id in job_ids:
            if self.rows.pop(job_id, None) is not None:
                self._seen = ()

    def _is_current(self, job_id: int, version: int) -> bool:
        """Return whether the row in memory can be used.

        Only rows of running jobs are used again. A decision on a building job also depends on its build.
        """
        row = self.rows.get(job_id)
        return row is not None and row.version == version and row.status is Status.RUNNING

    def _read(self, job_ids: set[int]) -> list[Job]:
        if len(job_ids) >= MIN_BATCH_ROWS:
            return [row for row in _CLAIMED() if row.id in job_ids]
        return [row for job_id in sorted(job_ids) if (row := BY_ID.first(job_id)) is not None]
