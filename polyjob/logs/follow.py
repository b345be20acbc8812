"""Waiting for a job to end; following the log of a job or build, and what becomes of it, until it does."""

from __future__ import annotations

import errno
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from polyjob.db.models import Build, BuildStatus, Job, JobStatus
from polyjob.logs.watcher import CHUNK, Place, Subject, Watcher
from polyjob.statuses import Status
from runners.capabilities import LOCAL_RUNNERS

_watcher = Watcher(limit=112)


RECHECK = 5.0
"""Seconds after which whoever watches is asked again whether they may."""


class WatchEnded(BrokenPipeError):
    """The watch is over before the run is: the process shuts down.

    Raised out of a response it breaks the connection off, so that a client can tell a log that has ended from one that
    goes on elsewhere, and comes again for the bytes it has not got.
    """

    def __init__(self, why: str) -> None:
        super().__init__(errno.EPIPE, why)


class RunDeleted(WatchEnded):
    """The run is deleted; its log has no end."""

    def __init__(self) -> None:
        super().__init__("the run is deleted")


class PlaceNeeded(WatchEnded):
    """All places are taken, and another user has fewer of them."""

    def __init__(self) -> None:
        super().__init__("another user needs the place")


class WatchRefused(WatchEnded):
    """Whoever watches may no longer see the run."""

    def __init__(self) -> None:
        super().__init__("the run is no longer shown to whoever watches it")


class _Permit:
    """Asks at most every `RECHECK` seconds whether whoever watches still may."""

    def __init__(self, holds: Callable[[], bool] | None) -> None:
        self._holds = holds
        self._due = time.monotonic() + RECHECK

    def check(self) -> None:
        """Raises WatchRefused."""
        if self._holds is None or time.monotonic() < self._due:
            return
        if not self._holds():
            raise WatchRefused
        self._due = time.monotonic() + RECHECK


def _is_early(run: Job | Build, place: Place) -> bool:
    """Whether what the log has is not to be shown yet: a local job writes from its start on, and `running` is committed
    a moment later. Whoever follows both sees the status first."""
    if isinstance(run, Build) or not run.is_managed or run.runner not in LOCAL_RUNNERS:
        return False
    return (place.row.status or run.status) in (Status.CREATED, Status.SCHEDULED, Status.BUILDING)


class Follow:
    """A log's bytes from `offset` on, as they come; over when the job or build is and every byte was given.

    The first item is empty, on which a server sends its headers. Raises WatchEnded where the process shuts down,
    RunDeleted, WatchRefused where `holds` says no. Holds its place until it is over, closed or forgotten.
    """

    def __init__(self, place: Place, run: Job | Build, offset: int, holds: Callable[[], bool] | None = None) -> None:
        assert place.file is not None
        self.offset = offset
        self._run = run
        self._place = place
        self._permit = _Permit(holds)
        self._file = place.file
        self._is_begun = False
        self._is_at_end = False
        self._is_closed = False

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        if not self._is_begun:
            self._is_begun = True
            return b""
        try:
            chunk = b"" if self._is_closed else self._next_chunk()
        except OSError:
            self.close()
            raise
        if not chunk:
            self.close()
            raise StopIteration
        self.offset += len(chunk)
        return chunk

    def _next_chunk(self) -> bytes:
        """Empty where nothing will follow."""
        place = self._place
        while True:
            if self._is_at_end:
                place.wait(RECHECK)
            if place.is_ended:
                raise PlaceNeeded if place.is_needed else WatchEnded("the server shuts down")
            if place.client_left:
                return b""
            if place.row.is_gone:
                raise RunDeleted
            self._permit.check()
            is_over = place.row.is_over  # asked before the read: a log is complete before its row says so
            chunk = b"" if _is_early(self._run, place) else self._file.read(self.offset)
            self._is_at_end = len(chunk) < CHUNK and not is_over
            if chunk or is_over:
                return chunk

    def close(self) -> None:
        """Idempotent."""
        self._is_closed = True
        _watcher.leave(self._place)

    def __del__(self) -> None:
        if not self._is_closed:
            _watcher.abandon(self._place)


def follow(
    run: Job | Build,
    path: Path,
    start: int,
    client: socket.socket | None = None,
    holds: Callable[[], bool] | None = None,
    owner: int | None = None,
) -> Follow:
    """The log of a run at `path`, from byte `start` to its end; the file may not be there yet.

    A client given is watched, and the follow is over when it hangs up. `holds` tells whether the client still may see
    the run; it is asked every `RECHECK` seconds, by whoever reads. `owner` is the user who takes the place. Raises
    Unavailable past the limit, at once.
    """
    subject = Subject("job" if isinstance(run, Job) else "build", run.id)
    return Follow(_watcher.take(subject, path, client, owner), run, start, holds)


@dataclass(frozen=True)
class Grown:
    """The log has these bytes more; `offset` is the first byte behind them."""

    data: bytes
    offset: int


@dataclass(frozen=True)
class Changed:
    """The run has this status now."""

    status: JobStatus | BuildStatus


class Nothing:
    """Nothing has happened for a while."""


class Story:
    """What becomes of a run from now on: its statuses, the present one first, and its log from `offset` on, as they
    come; `Nothing` after each `patience` seconds without either.

    The last item is the terminal status, behind every byte of the log. Raises and holds its place as a `Follow` does.
    """

    def __init__(
        self, place: Place, run: Job | Build, offset: int, patience: float, holds: Callable[[], bool] | None = None
    ) -> None:
        assert place.file is not None
        self._permit = _Permit(holds)
        self.offset = offset
        self._place = place
        self._file = place.file
        self._run = run
        self._patience = patience
        self._last = 0
        """Id of the last status that was given."""
        self._version: int | None = None
        self._is_closed = False

    def __iter__(self) -> Iterator[Grown | Changed | Nothing]:
        try:
            yield from self._tell()
        finally:
            self.close()

    def _tell(self) -> Iterator[Grown | Changed | Nothing]:
        place, is_quiet = self._place, False
        quiet_since = time.monotonic()
        terminal: list[JobStatus | BuildStatus] = []
        for status in self._new_statuses():
            if status.status.is_done:
                terminal.append(status)
            else:
                yield Changed(status)
        while True:
            if is_quiet:
                place.wait(min(RECHECK, max(0.0, quiet_since + self._patience - time.monotonic())))
            if place.is_ended:
                raise PlaceNeeded if place.is_needed else WatchEnded("the server shuts down")
            if place.client_left:
                return
            if place.row.is_gone:
                raise RunDeleted
            self._permit.check()
            is_over = place.row.is_over  # asked before the read: a log is complete before its row says so
            is_early = _is_early(self._run, place)  # asked before the statuses, or the log could overtake them
            statuses = self._new_statuses() if place.row.version != self._version else []
            self._version = place.row.version
            terminal += [status for status in statuses if status.status.is_done]
            chunk = b"" if is_early else self._file.read(self.offset)
            is_quiet = len(chunk) < CHUNK and not is_over
            for status in statuses:
                if not status.status.is_done:
                    yield Changed(status)
            if chunk:
                self.offset += len(chunk)
                yield Grown(chunk, self.offset)
            elif is_over:
                yield from map(Changed, terminal)
                return
            elif not statuses and time.monotonic() >= quiet_since + self._patience:
                yield Nothing()
            else:
                continue
            quiet_since = time.monotonic()

    def _new_statuses(self) -> list[JobStatus | BuildStatus]:
        """Those behind the last one that was given; at first the present one alone."""
        table: Any = JobStatus if isinstance(self._run, Job) else BuildStatus
        column = JobStatus.job if isinstance(self._run, Job) else BuildStatus.build
        found = list(table.select().where(column == self._run.id, table.id > self._last).order_by(table.id))
        found = found if self._last else found[-1:]
        self._last = found[-1].id if found else self._last
        return found

    def wake(self) -> None:
        """Have the client looked after: that it has gone, say."""
        self._place.client_left = True
        self._place.wake()

    def close(self) -> None:
        """Idempotent."""
        self._is_closed = True
        _watcher.leave(self._place)

    def __del__(self) -> None:
        if not self._is_closed:
            _watcher.abandon(self._place)


def story(
    run: Job | Build,
    path: Path,
    start: int,
    patience: float,
    client: socket.socket | None = None,
    holds: Callable[[], bool] | None = None,
    owner: int | None = None,
) -> Story:
    """As `follow`; also of a run that is done."""
    subject = Subject("job" if isinstance(run, Job) else "build", run.id)
    return Story(_watcher.take(subject, path, client, owner), run, start, patience, holds)


def wait_until_done(job_id: int, seconds: float, client: socket.socket | None = None, owner: int | None = None) -> None:
    """Block until the job is done or deleted, for `seconds` at most; shorter if the process shuts down or the client
    given hangs up. Raises Unavailable past the limit."""
    deadline = time.monotonic() + seconds
    job = Job.select(Job.status).where(Job.id == job_id, Job.deleted_at.is_null()).first()
    if job is None or job.status.is_done:
        return
    place = _watcher.take(Subject("job", job_id), client=client, owner=owner)
    try:
        while not (place.row.is_over or place.is_ended or place.client_left):
            remaining = deadline - time.monotonic()
            if remaining <= 0:
                return
            place.wait(remaining)
    finally:
        _watcher.leave(place)


def wait_until_longer(
    run: Job | Build,
    path: Path,
    length: int,
    seconds: float,
    client: socket.socket | None = None,
    owner: int | None = None,
) -> None:
    """Block until the log at `path` has more than so many bytes, or its run is done or deleted; for `seconds` at most,
    shorter if the process shuts down or the client given hangs up. Raises Unavailable past the limit."""
    subject = Subject("job" if isinstance(run, Job) else "build", run.id)
    deadline = time.monotonic() + seconds
    place = _watcher.take(subject, path, client, owner)
    assert place.file is not None
    try:
        while not (place.row.is_over or place.is_ended or place.client_left or place.file.read(length)):
            remaining = deadline - time.monotonic()
            if remaining <= 0:
                return
            place.wait(remaining)
    finally:
        _watcher.leave(place)


def waiting() -> int:
    """How many follow or wait in this process now."""
    return len(_watcher)


def set_limit(limit: int) -> None:
    """How many may follow or wait in this process at once."""
    _watcher.limit = limit


def end_when(is_ending: Callable[[], bool]) -> None:
    """Send everybody away within a tick of `is_ending()` becoming true, and whoever comes later. It is asked at each
    tick, in another thread."""
    _watcher.is_ending = is_ending


def close_all() -> None:
    """Send everybody who waits now away at once."""
    _watcher.close()
