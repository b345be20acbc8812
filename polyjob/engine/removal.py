"""Removal of deleted jobs and builds once they are done: in turns, so that none holds up another.

A few are removed side by side, each for a second at a time. After the last one it is the first one's turn again. If one
cannot be removed, it rests before its next try. All memory of this can be lost.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from typing import Any

from polyjob.db.models import DELETED, Build, Job
from polyjob.db.prepared import Prepared
from polyjob.engine import gc
from polyjob.engine.backends import Backends
from polyjob.engine.call_pools import Done, Key
from polyjob.engine.context import Context
from polyjob.engine.retries import Retry
from polyjob.engine.writes import Step
from polyjob.services import builds
from runners.base import Runner, RunnerError

log = logging.getLogger("polyjob.engine")

ERASED_AT_ONCE = 8
"""Jobs, and builds, whose files are removed side by side."""
LOOKED_AT = 200
"""Deleted jobs, and builds, that one pass looks through; the next pass goes on after them."""
SLICE_SECONDS = 1.0

_JOBS = Prepared(
    lambda: (
        Job.select(Job.id, Job.uuid)
        .where(DELETED, Job.finished_at.is_null(False), Job.id > 0)
        .order_by(Job.id)
        .limit(1)
    )
)
_BUILDS = Prepared(
    lambda: (
        Build.select(Build.id, Build.uuid, Build.runner, Build.artifact)
        .where(DELETED, Build.finished_at.is_null(False), Build.id > 0)
        .order_by(Build.id)
        .limit(1)
    )
)


@dataclass
class _Turns:
    """Deleted rows of one table, and whose turn it is."""

    query: Prepared[Any]
    """(id after which it begins, most) → rows."""
    after: int = 0
    under_way: set[int] = field(default_factory=set)
    retries: dict[int, Retry] = field(default_factory=dict)
    """Of what could not be removed."""
    dropped: set[int] = field(default_factory=set)
    """Builds whose artifact is removed or left to garbage collection; only their files remain."""

    def rows(self) -> list[Any]:
        """Return the rows from the next one on; those before it follow if all fit."""
        if len(self.under_way) >= ERASED_AT_ONCE:
            return []
        rows = self.query(self.after, LOOKED_AT)
        return rows + self.query(0, LOOKED_AT) if self.after and len(rows) < LOOKED_AT else rows


class Erasing:
    """Makes the calls that remove what is deleted. Owned by the engine's thread."""

    def __init__(self, context: Context, backends: Backends) -> None:
        self._context = context
        self._backends = backends
        self._turns = {"job": _Turns(_JOBS), "build": _Turns(_BUILDS)}

    def go_on(self, decided: Collection[Key]) -> None:
        """Submit the next calls, for what is neither busy nor in `decided`."""
        for kind, turns in self._turns.items():
            for row in turns.rows():
                if len(turns.under_way) >= ERASED_AT_ONCE:
                    break
                turns.after = row.id
                key = (kind, row.id)
                if key not in decided and self._may_begin(key, row):
                    turns.under_way.add(row.id)
                    self._context.calls.submit("erase", key, *self._next_call(row))

    def ended(self, done: Done) -> Step | None:
        """Return the step that the end of a call asks for."""
        kind, number = done.key
        turns = self._turns[kind]
        turns.under_way.discard(number)
        if done.error is not None:
            retry = turns.retries.setdefault(number, Retry())
            retry.log_defect(done.error, "%s %s could not be removed; it is tried again", kind, number)
            retry.fail("erase", done.error, self._context.clock.seconds())
            return None
        turns.retries.pop(number, None)
        if not done.value:
            return None
        if done.verb == "drop":
            turns.dropped.add(number)
            return None
        turns.dropped.discard(number)
        table = Job if kind == "job" else Build
        return Step("erase", lambda: table.delete().where(table.id == number).execute())

    def _may_begin(self, key: Key, row: Job | Build) -> bool:
        kind, number = key
        retry = self._turns[kind].retries.get(number)
        if self._context.calls.busy(key) or (retry and self._context.clock.seconds() < retry.retry_at):
            return False
        return not (isinstance(row, Build) and builds.jobs_using(row).exists())

    def _next_call(self, row: Job | Build) -> tuple[str, Callable[[], bool]]:
        """Return the verb and the call of the next removal; the call returns whether that removal is finished.

        An artifact is dropped before the build's files are erased, so that no later build finds its layers in a cache.
        """
        store = self._context.store
        if isinstance(row, Job):
            return "erase", lambda: self._work(store.remove_job_in_steps(row.uuid))
        if row.artifact and row.id not in self._turns["build"].dropped:
            runner = self._backends.runner(row.runner)
            return "drop", lambda: self._drop(row, runner)
        return "erase", lambda: self._work(store.remove_build_in_steps(row.uuid))

    def _drop(self, build: Build, runner: Runner) -> bool:
        """Work on the removal of the artifact for a moment, and return whether it is finished.

        If the backend is away, the artifact is left to garbage collection.
        """
        try:
            return self._work(gc.removing_artifact(build, runner))
        except RunnerError as error:
            log.warning("the artifact of build %s could not be removed: %s", build.id, error)
            return True

    def _work(self, steps: Iterator[None]) -> bool:
        """Take steps for a moment, and return whether they came to their end."""
        until = self._context.clock.seconds() + SLICE_SECONDS
        return all(self._context.clock.seconds() < until for _ in steps)
