"""Remove deleted jobs and builds once they are done: in turns, so that none holds up another.

A few are removed side by side, each for a second at a time. After the last one it is the first one's turn again. If one
cannot be removed, it waits before its next try. All memory of this can be lost.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from typing import Any

from polyjob.db.models import DELETED, Build, Job
from polyjob.db.prepared import Prepared
from polyjob.engine import gc
from polyjob.engine.backends import Backends
from polyjob.engine.call_pools import FunctionCall, Key, Result
from polyjob.engine.context import Context
from polyjob.engine.retries import Backoff
from polyjob.engine.writes import Write
from polyjob.services import builds
from runners.base import Runner, RunnerError

log = logging.getLogger("polyjob.engine")

CONCURRENT_REMOVALS = 8
"""Jobs, and builds, whose files are removed side by side."""
ROWS_PER_PASS = 200
"""Deleted jobs, and builds, that one pass looks through. The next pass continues after them."""
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
    """The deleted rows of one table, and whose turn it is."""

    query: Prepared[Any]
    """Called with the id after which it begins, and a limit."""
    after_id: int = 0
    running: set[int] = field(default_factory=set)
    backoffs: dict[int, Backoff] = field(default_factory=dict)
    """Of rows that could not be removed."""
    without_artifact: set[int] = field(default_factory=set)
    """Builds whose artifact is removed, or left to garbage collection. Only their files remain."""

    def rows(self) -> list[Any]:
        """Return the rows from the next one on. Those before it follow if all fit."""
        if len(self.running) >= CONCURRENT_REMOVALS:
            return []
        rows = self.query(self.after_id, ROWS_PER_PASS)
        return rows + self.query(0, ROWS_PER_PASS) if self.after_id and len(rows) < ROWS_PER_PASS else rows


class Removal:
    """Makes the calls that remove deleted jobs and builds. Only the engine's thread uses it."""

    def __init__(self, context: Context, backends: Backends) -> None:
        self._context = context
        self._backends = backends
        self._turns = {"job": _Turns(_JOBS), "build": _Turns(_BUILDS)}

    def submit_calls(self, decided: Collection[Key]) -> None:
        """Submit the next calls, for rows that are neither busy nor in `decided`."""
        for kind, turns in self._turns.items():
            for row in turns.rows():
                if len(turns.running) >= CONCURRENT_REMOVALS:
                    break
                turns.after_id = row.id
                key = (kind, row.id)
                if key not in decided and self._may_begin(key, row):
                    turns.running.add(row.id)
                    self._context.calls.submit(self._next_call(key, row))

    def _may_begin(self, key: Key, row: Job | Build) -> bool:
        kind, row_id = key
        backoff = self._turns[kind].backoffs.get(row_id)
        if self._context.calls.is_busy(key) or (backoff and self._context.clock.seconds() < backoff.retry_at):
            return False
        return not (isinstance(row, Build) and builds.jobs_using(row).exists())

    def _next_call(self, key: Key, row: Job | Build) -> FunctionCall:
        """Return the next call of a removal. Its value is whether that part of the removal is complete.

        An artifact is removed before the build's files, so that no later build finds its layers in a cache.
        """
        store = self._context.store
        if isinstance(row, Job):
            return FunctionCall(
                "erase", key, "erase", lambda: self._work(store.remove_job_in_steps(row.uuid)), self._on_files
            )
        if row.artifact and row.id not in self._turns["build"].without_artifact:
            runner = self._backends.runner(row.runner)
            return FunctionCall("erase", key, "drop", lambda: self._remove_artifact(row, runner), self._on_artifact)
        return FunctionCall(
            "erase", key, "erase", lambda: self._work(store.remove_build_in_steps(row.uuid)), self._on_files
        )

    def _on_artifact(self, result: Result) -> None:
        if self._is_complete(result):
            _, build_id = result.call.key
            self._turns["build"].without_artifact.add(build_id)

    def _on_files(self, result: Result) -> Write | None:
        if not self._is_complete(result):
            return None
        kind, row_id = result.call.key
        self._turns[kind].without_artifact.discard(row_id)
        table = Job if kind == "job" else Build
        return Write("erase", lambda: table.delete().where(table.id == row_id).execute())

    def _is_complete(self, result: Result) -> bool:
        """Record the end of a call, and return whether its part of the removal is complete."""
        kind, row_id = result.call.key
        turns = self._turns[kind]
        turns.running.discard(row_id)
        if result.error is not None:
            backoff = turns.backoffs.setdefault(row_id, Backoff())
            backoff.log_defect(result.error, "%s %s could not be removed; it is tried again", kind, row_id)
            backoff.fail("erase", result.error, self._context.clock.seconds())
            return False
        turns.backoffs.pop(row_id, None)
        return bool(result.value)

    def _remove_artifact(self, build: Build, runner: Runner) -> bool:
        """Work on the removal of the artifact for a moment, and return whether it is complete.

        If the backend is unavailable, the artifact is left to garbage collection.
        """
        try:
            return self._work(gc.remove_artifact_in_steps(build, runner))
        except RunnerError as error:
            log.warning("the artifact of build %s could not be removed: %s", build.id, error)
            return True

    def _work(self, steps: Iterator[None]) -> bool:
        """Take steps for a moment, and return whether that was the last one."""
        deadline = self._context.clock.seconds() + SLICE_SECONDS
        return all(self._context.clock.seconds() < deadline for _ in steps)
