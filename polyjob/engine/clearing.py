"""Clear the backend of ended jobs after their terminal status, where that is safe; see `job_decisions`.

The empty folder of outputs is removed, too. The removal of a folder can wait for the syncs of other files, so it does
not delay the status.

Only local runners are cleared like this. All of it can be lost: the first call for a runner looks for what an earlier
engine has left.
"""

from __future__ import annotations

import logging
from collections import deque
from dataclasses import dataclass, field

from peewee import chunked

from polyjob.db.models import Job
from polyjob.engine.backends import Backends
from polyjob.engine.call_pools import FunctionCall, Key, Result
from polyjob.engine.context import Context
from polyjob.engine.retries import Backoff
from runners.base import Runner

log = logging.getLogger("polyjob.engine")

SLICE_SECONDS = 1.0
"""Work of one call. A job can leave millions of temporary files."""


class _ClearCall(FunctionCall):
    """Its result is worth a pass of its own only if something is left to clear."""

    def is_urgent(self, result: Result) -> bool:
        return bool(result.value) or result.error is not None


@dataclass
class _Backend:
    jobs: deque[tuple[str, str]] = field(default_factory=deque)
    """Uuid and handle of the jobs to clear."""
    has_listed_leftovers: bool = False
    """Whether `jobs` has the jobs that an earlier engine left."""
    backoff: Backoff = field(default_factory=Backoff)


class Clearing:
    """Clears one job after another, with one call at a time for each runner. Only the engine's thread uses it."""

    def __init__(self, context: Context, backends: Backends) -> None:
        self._context = context
        self._runners = backends
        self._backends: dict[str, _Backend] = {}

    def add(self, runner_name: str, uuid: str, handle: str) -> None:
        """Clear this job soon. Its terminal status is committed."""
        self._backends.setdefault(runner_name, _Backend()).jobs.append((uuid, handle))

    def submit_calls(self) -> None:
        """Submit the next call for each local runner that has something to clear."""
        now = self._context.clock.seconds()
        for name, runner in self._runners.in_use().items():
            backend = self._backends.setdefault(name, _Backend())
            is_due = (
                runner.is_local
                and (backend.jobs or not backend.has_listed_leftovers)
                and now >= backend.backoff.retry_at
            )
            if is_due and not self._context.calls.is_busy(("clear", name)):
                self._context.calls.submit(self._next_call(("clear", name), backend, runner))

    def _next_call(self, key: Key, backend: _Backend, runner: Runner) -> FunctionCall:
        if not backend.has_listed_leftovers:
            return FunctionCall("files", key, "leftovers", lambda: leftovers(runner), self._on_leftovers)
        return _ClearCall("files", key, "clear", lambda: self._clear(runner, backend.jobs), self._on_cleared)

    def _on_leftovers(self, result: Result) -> None:
        backend = self._backend_of(result)
        if result.error is not None:
            backend.backoff.fail("leftovers", result.error, self._context.clock.seconds())
            return
        backend.has_listed_leftovers = True
        backend.jobs.extend(result.value)
        backend.backoff.succeed()

    def _clear(self, runner: Runner, jobs: deque[tuple[str, str]]) -> bool:
        """Clear jobs for a moment. One that cannot be cleared goes to the end. Runs in a pool's thread.

        Return whether jobs are left.
        """
        deadline = self._context.clock.seconds() + SLICE_SECONDS
        error: Exception | None = None
        for _ in range(len(jobs)):
            uuid, handle = jobs[0]
            try:
                self._context.store.remove_empty_outputs(uuid)
                for _ in runner.clean_in_steps(handle):
                    if self._context.clock.seconds() >= deadline:
                        return True
                jobs.popleft()
            except Exception as raised:
                error = raised
                jobs.rotate(-1)
        self._context.store.prepare_job_folder()
        if error is not None:
            raise error
        return bool(jobs)

    def _on_cleared(self, result: Result) -> None:
        backend = self._backend_of(result)
        if result.error is None:
            backend.backoff.succeed()
            return
        backend.backoff.log_defect(result.error, "the files of ended jobs could not be removed; it is tried again")
        backend.backoff.fail("clear", result.error, self._context.clock.seconds())

    def _backend_of(self, result: Result) -> _Backend:
        _, name = result.call.key
        return self._backends[name]


def leftovers(runner: Runner) -> list[tuple[str, str]]:
    """Return uuid and handle of the jobs in the backend that are done. Raises RunnerUnavailable."""
    handles = runner.inventory()
    done: list[tuple[str, str]] = []
    for chunk in chunked(handles, 500):
        rows = Job.select(Job.uuid).where(Job.uuid << list(chunk), Job.finished_at.is_null(False))
        done.extend((row.uuid, handles[row.uuid]) for row in rows)
    return done
