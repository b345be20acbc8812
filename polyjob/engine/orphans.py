"""Find and remove orphans: objects in a backend that carry this installation's id and belong to no live job.

The log and outputs of an orphan that has ended are first fetched into `<data>/unclaimed`. They stay there until an
administrator removes them.

A job's row is written before anything is created for it. That is removed before the job is done, or soon afterwards by
`clearing`. So an orphan comes from a data folder that was restored to an older state, or from a job that was abandoned.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterable
from pathlib import Path

from peewee import chunked

from polyjob.clock import Clock
from polyjob.db.models import Job
from polyjob.engine.backends import Backends
from polyjob.engine.call_pools import FunctionCall, Result
from polyjob.engine.context import Context
from polyjob.engine.finalize import FinishProgress, LogPosition, finish
from polyjob.engine.finalize_lanes import MAX_PACKING_SECONDS, PACKING_TIMEOUT_NOTE
from polyjob.engine.log_mask import LogMask
from polyjob.settings import Settings
from polyjob.storage.store import Store
from runners.base import Exited, RemoteRunner, Runner, RunnerError

log = logging.getLogger("polyjob.engine")

SALVAGE_FOLDER = "unclaimed"
LOOK_INTERVAL_SECONDS = 300.0
"""Seconds between two looks at a backend. What two looks find is removed."""
FIRST_FETCH_SECONDS = 5.0
"""For the log and outputs of one orphan. If it takes longer, it is fetched after all others."""


class OrphanRemoval:
    """Looks for orphans. The findings of the last look may be lost: then removal comes one look later."""

    def __init__(self, context: Context, backends: Backends) -> None:
        self._context = context
        self._backends = backends
        self._due_at = context.clock.seconds()
        self._orphans: dict[str, frozenset[str]] = {}
        """Runner → uuids of the orphans that its last look has found and left."""

    def submit_calls(self) -> None:
        """Begin a look at each runner in use, if it is due."""
        clock, calls = self._context.clock, self._context.calls
        if clock.seconds() < self._due_at:
            return
        self._due_at = clock.seconds() + LOOK_INTERVAL_SECONDS
        for name, runner in self._backends.in_use().items():
            if not calls.is_busy(("orphans", name)):
                calls.submit(self._look(name, runner))

    def _look(self, name: str, runner: Runner) -> FunctionCall:
        previous, settings = self._orphans.get(name, frozenset()), self._context.settings
        return FunctionCall(
            "sweep",
            ("orphans", name),
            "look",
            lambda: remove_orphans(name, runner, previous, settings),
            self._on_done,
        )

    def _on_done(self, result: Result) -> None:
        _, name = result.call.key
        if result.error is None:
            self._orphans[name] = result.value
        elif not isinstance(result.error, RunnerError):
            log.error("the orphans on the %s runner could not be found", name, exc_info=result.error)


class _SlowFetch(Exception):
    """The fetch was abandoned. It begins again after all others."""


def remove_orphans(name: str, runner: Runner, previous: frozenset[str], settings: Settings) -> frozenset[str]:
    """Remove the orphans on a runner that the previous look has found, too. Return the uuids of the remaining ones.

    Orphans that take long to fetch come last, so that they delay no other. Raises RunnerUnavailable.
    """
    handles = runner.inventory()
    remaining = set(handles) - _live_uuids(handles)
    queue = sorted(remaining & previous)
    for uuid in queue:
        log.warning("the %s runner has something of job %s, which is done or unknown here; it is removed", name, uuid)
    for seconds in (FIRST_FETCH_SECONDS, float("inf")):
        slow = []
        for uuid in queue:
            try:
                folder = _fetch(runner, uuid, handles[uuid], settings, seconds)
                runner.clean(handles[uuid])
                remaining.discard(uuid)
                if folder is not None:
                    log.warning("the log and outputs of job %s on the %s runner are kept in %s", uuid, name, folder)
            except _SlowFetch:
                slow.append(uuid)
            except (RunnerError, OSError) as error:
                log.warning("the orphan of job %s on the %s runner could not be removed: %s", uuid, name, error)
        queue = slow
    return frozenset(remaining)


def _fetch(runner: Runner, uuid: str, handle: str, settings: Settings, max_seconds: float) -> Path | None:
    """Fetch the log and outputs of an orphan that has ended. Return their folder, or None if it has not ended.

    Raises _SlowFetch after `max_seconds`.
    """
    if not isinstance(runner, RemoteRunner) or not isinstance(runner.poll([handle]).get(handle), Exited):
        return None
    store = Store(settings.data_dir / SALVAGE_FOLDER)
    store.job_folder(uuid).mkdir(mode=0o700, parents=True, exist_ok=True)
    clock = Clock()
    began_at = clock.seconds()

    def deadline() -> str | None:
        return PACKING_TIMEOUT_NOTE if clock.seconds() - began_at > MAX_PACKING_SECONDS else None

    progress = FinishProgress(LogPosition(), is_complete=False)
    limits, mask = (settings.log_limit, settings.outputs_limit), LogMask()
    while not progress.is_complete:
        steps = finish(runner, uuid, uuid, handle, store, progress.position, *limits, (), deadline, mask=mask)
        with contextlib.closing(steps):
            for progress in steps:
                if not progress.is_complete and clock.seconds() - began_at > max_seconds:
                    raise _SlowFetch
    return store.job_folder(uuid)


def _live_uuids(uuids: Iterable[str]) -> set[str]:
    """Return those uuids whose jobs are not done."""
    live: set[str] = set()
    for chunk in chunked(uuids, 500):
        live.update(job.uuid for job in Job.select(Job.uuid).where(Job.uuid << list(chunk), Job.finished_at.is_null()))
    return live
