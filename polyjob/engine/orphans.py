"""What a back end has of this installation and no live job claims: found, said in the server's log, and removed.

What has ended there is fetched first, into `<data>/unclaimed`, and stays there until somebody removes it.

A job's row is there before anything is made for it, and the job is not done before that is removed. So what is left
over comes from a data folder that was put back to an older state, or of a job that was given up.
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
from polyjob.engine.call_pools import Done
from polyjob.engine.context import Context
from polyjob.engine.finalize import Finished, LogPosition, finish
from polyjob.engine.finalize_lanes import MAX_SEAL_SECONDS, OVERDUE
from polyjob.settings import Settings
from polyjob.storage.store import Store
from runners.base import Exited, RemoteRunner, Runner, RunnerError

log = logging.getLogger("polyjob.engine")

KEPT = "unclaimed"
EVERY = 300.0
"""Seconds from look to look; what is found twice is removed."""
FIRST_SECONDS = 5.0
"""For the log and outputs of one job; what takes longer is fetched after all others."""


class Unclaimed:
    """See the module. What it remembers, the last look's finds, may be lost: then removal comes one look later."""

    def __init__(self, context: Context, backends: Backends) -> None:
        self._context = context
        self._backends = backends
        self._at = context.clock.seconds()
        self._found: dict[str, frozenset[str]] = {}

    def look(self) -> None:
        """Begin a look at each runner in use, where it is due."""
        clock, calls = self._context.clock, self._context.calls
        if clock.seconds() < self._at:
            return
        self._at = clock.seconds() + EVERY
        for name, runner in self._backends.in_use().items():
            if not calls.busy(("unclaimed", name)):
                before = self._found.get(name, frozenset())
                self._begin(name, runner, before)

    def ended(self, name: str, done: Done) -> None:
        if done.error is None:
            self._found[name] = done.value
        elif not isinstance(done.error, RunnerError):
            log.error("what nobody claims on the %s runner cannot be told", name, exc_info=done.error)

    def _begin(self, name: str, runner: Runner, before: frozenset[str]) -> None:
        settings = self._context.settings
        self._context.calls.submit("sweep", ("unclaimed", name), "look", lambda: remove(name, runner, before, settings))


class _TakesLong(Exception):
    """The fetch was given up, and is to be begun again once all others are done."""


def remove(name: str, runner: Runner, before: frozenset[str], settings: Settings) -> frozenset[str]:
    """Remove what nobody claims and was in `before`; the uuids of what is left that nobody claims. Raises
    RunnerUnavailable where nothing can be told.

    What takes long to fetch comes last, so that nothing else waits for it.
    """
    there = runner.inventory()
    left = set(there) - _live(there)
    waiting = sorted(left & before)
    for uuid in waiting:
        log.warning("the %s runner has something of job %s, which is done or unknown here; it is removed", name, uuid)
    for patience in (FIRST_SECONDS, float("inf")):
        slow = []
        for uuid in waiting:
            try:
                folder = _fetch(runner, uuid, there[uuid], settings, patience)
                runner.clean(there[uuid])
                left.discard(uuid)
                if folder is not None:
                    log.warning("what job %s has left on the %s runner is kept in %s", uuid, name, folder)
            except _TakesLong:
                slow.append(uuid)
            except (RunnerError, OSError) as error:
                log.warning("what the %s runner has of job %s could not be removed: %s", name, uuid, error)
        waiting = slow
    return frozenset(left)


def _fetch(runner: Runner, uuid: str, handle: str, settings: Settings, patience: float) -> Path | None:
    """Bring in log and outputs of a job that has ended in its back end, and where they are; None where that has none
    to give. Raises _TakesLong after `patience` seconds."""
    if not isinstance(runner, RemoteRunner) or not isinstance(runner.poll([handle]).get(handle), Exited):
        return None
    store = Store(settings.data_dir / KEPT)
    store.job_folder(uuid).mkdir(mode=0o700, parents=True, exist_ok=True)
    done = Finished(LogPosition(), is_whole=False)
    clock = Clock()
    begun = clock.seconds()
    about = (runner, uuid, uuid, handle, store)
    limits = (settings.log_limit, settings.outputs_limit)
    overdue = lambda: OVERDUE if clock.seconds() - begun > MAX_SEAL_SECONDS else None  # noqa: E731
    while not done.is_whole:
        with contextlib.closing(finish(*about, done.position, *limits, (), overdue)) as steps:
            for done in steps:
                if not done.is_whole and clock.seconds() - begun > patience:
                    raise _TakesLong
    return store.job_folder(uuid)


def _live(uuids: Iterable[str]) -> set[str]:
    """Those of jobs that are not done."""
    found: set[str] = set()
    for some in chunked(uuids, 500):
        found.update(job.uuid for job in Job.select(Job.uuid).where(Job.uuid << list(some), Job.finished_at.is_null()))
    return found
