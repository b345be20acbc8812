"""Release retries whose pause is over. A pass without one costs a comparison."""

from __future__ import annotations

from collections.abc import Sequence

from polyjob.clock import Clock, to_microseconds
from polyjob.engine.writes import Write
from polyjob.services import job_retries
from polyjob.services.jobs import BY_ID

RELEASES_PER_PASS = 100


class Delays:
    """Knows when the first held job is due. All of it can be lost."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._seen = -1
        """The number of delayed retries when `_next_due` was read; -1 if it has to be read again."""
        self._next_due: int | None = None
        """Microseconds since 1970."""

    def writes(self) -> Sequence[Write]:
        """Return the release of each job that is due."""
        inserted = job_retries.delayed_count()
        if inserted != self._seen:
            self._next_due, self._seen = job_retries.next_due(), inserted
        moment = self._clock.wall()
        if self._next_due is None or to_microseconds(moment) < self._next_due:
            return ()
        self._seen = -1
        return [_release(job_id) for job_id in job_retries.due_jobs(moment, RELEASES_PER_PASS)]


def _release(job_id: int) -> Write:
    def apply() -> None:
        job = BY_ID.first(job_id)
        if job is not None:
            job_retries.release(job)

    return Write("release", apply)
