"""Follow the log and the statuses of a job or build, and wait for its end."""

from __future__ import annotations

import errno
import socket
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from polyjob.db.models import Build, BuildStatus, Job, JobStatus
from polyjob.logs.watcher import CHUNK_BYTES, RunKey, Subscription, Watcher, key_of
from polyjob.statuses import Status
from runners.registry import runner_facts

ACCESS_CHECK_SECONDS = 5.0
"""Time between two checks that a follower may still read the run."""


class FollowInterrupted(BrokenPipeError):
    """The server ends a follow before the run is over. The base class itself means that the process shuts down.

    Raised from within a response it breaks the connection off. A client can so tell an interrupted log from a complete
    one, and request the rest.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(errno.EPIPE, reason)


class RunDeleted(FollowInterrupted):
    """The run was deleted; its log has no end."""

    def __init__(self) -> None:
        super().__init__("the run was deleted")


class SlotReassigned(FollowInterrupted):
    """All slots are taken, and another user has fewer of them."""

    def __init__(self) -> None:
        super().__init__("another user needs the slot")


class AccessRevoked(FollowInterrupted):
    """The follower may no longer read the run."""

    def __init__(self) -> None:
        super().__init__("the client may no longer read the run")


@dataclass(frozen=True)
class LogChunk:
    """More bytes of the log. `offset` is the position right after them."""

    data: bytes
    offset: int


@dataclass(frozen=True)
class StatusChange:
    """A status of the run: its present one, then each new one."""

    status: JobStatus | BuildStatus


class Idle:
    """Nothing has happened for a while."""


RunEvent = LogChunk | StatusChange | Idle


class RunEvents(Iterator[RunEvent]):
    """The events of a run as they happen: its present status, its log from `offset` on, and its further statuses.

    * The terminal status is the last event, after every byte of the log.
    * `Idle` comes after each `idle_after` seconds without another event; never if that is None.
    * The iteration also ends when the client disconnects or `stop` is called.
    * `next` raises FollowInterrupted, or a subclass, if the server ends the follow.

    It occupies one slot of the watcher until it ends, or is closed or garbage-collected.
    """

    def __init__(
        self,
        watcher: Watcher,
        subscription: Subscription,
        run: Job | Build,
        offset: int,
        idle_after: float | None,
        may_read: Callable[[], bool] | None,
    ) -> None:
        assert subscription.file is not None
        self.offset = offset
        self._watcher = watcher
        self._subscription = subscription
        self._file = subscription.file
        self._run = run
        self._idle_after = idle_after
        self._may_read = may_read
        self._next_access_check = watcher.clock() + ACCESS_CHECK_SECONDS
        self._pending: deque[RunEvent] = deque()
        self._terminal: list[StatusChange] = []
        self._last_status_id = 0
        self._version: int | None = -1
        """The row's version when the statuses were read last; no row has this first one."""
        self._is_caught_up = False
        self._is_over = False
        self._is_closed = False

    def __next__(self) -> RunEvent:
        try:
            self._fill()
        except BaseException:
            self.close()
            raise
        if self._pending:
            return self._pending.popleft()
        self.close()
        raise StopIteration

    def stop(self) -> None:
        """End the iteration as if the client had disconnected. Another thread may call this."""
        self._subscription.has_client_left = True
        self._subscription.wake()

    def close(self) -> None:
        """End the iteration and free the slot. Idempotent."""
        self._is_over = self._is_closed = True
        self._pending.clear()
        self._watcher.unsubscribe(self._subscription)

    def __del__(self) -> None:
        if not self._is_closed:
            self._watcher.drop(self._subscription)

    def _fill(self) -> None:
        """Block until an event is pending or there will be none."""
        idle_since = self._watcher.clock()
        while not (self._pending or self._is_over):
            if self._is_caught_up:
                self._subscription.wait(self._seconds_to_wait(idle_since))
            if self._subscription.is_cancelled:
                raise SlotReassigned if self._subscription.is_reassigned else FollowInterrupted("the server shuts down")
            if self._subscription.has_client_left:
                self._is_over = True
                return
            if self._subscription.state.is_deleted:
                raise RunDeleted
            self._check_access()
            self._collect()
            if not (self._pending or self._is_over) and self._is_idle(idle_since):
                self._pending.append(Idle())

    def _is_idle(self, idle_since: float) -> bool:
        return self._idle_after is not None and self._watcher.clock() >= idle_since + self._idle_after

    def _seconds_to_wait(self, idle_since: float) -> float:
        if self._idle_after is None:
            return ACCESS_CHECK_SECONDS
        return min(ACCESS_CHECK_SECONDS, max(0.0, idle_since + self._idle_after - self._watcher.clock()))

    def _check_access(self) -> None:
        if self._may_read is None or self._watcher.clock() < self._next_access_check:
            return
        if not self._may_read():
            raise AccessRevoked
        self._next_access_check = self._watcher.clock() + ACCESS_CHECK_SECONDS

    def _collect(self) -> None:
        """Add what is new to the pending events. The order of the reads matters:

        * The state is read before the log: a log is complete before its row is done.
        * Whether the log is early is decided before the statuses are read, or the log could overtake `running`.
        """
        state = self._subscription.state
        is_done, is_early, version = state.is_over, self._is_log_early(), state.version
        if version != self._version:
            self._version = version
            self._collect_statuses()
        data = b"" if is_early else self._file.read(self.offset)
        self._is_caught_up = len(data) < CHUNK_BYTES and not is_done
        if data:
            self.offset += len(data)
            self._pending.append(LogChunk(data, self.offset))
        elif is_done:
            self._pending.extend(self._terminal)
            self._is_over = True

    def _collect_statuses(self) -> None:
        """Add the statuses after the last one that was read; at first the present one alone."""
        table: Any = JobStatus if isinstance(self._run, Job) else BuildStatus
        column = JobStatus.job if isinstance(self._run, Job) else BuildStatus.build
        query = table.select().where(column == self._run.id, table.id > self._last_status_id)
        statuses = list(query.order_by(table.id))
        for status in statuses if self._last_status_id else statuses[-1:]:
            events = self._terminal if status.status.is_done else self._pending
            events.append(StatusChange(status))
            self._last_status_id = status.id

    def _is_log_early(self) -> bool:
        """Return whether the log must wait for the status `running`.

        A local job writes from its start on, a moment before `running` is committed. A follower sees the status first.
        """
        run = self._run
        if isinstance(run, Build) or not run.is_managed or not runner_facts(run.runner).is_local:
            return False
        status = self._subscription.state.status or run.status
        return status in (Status.CREATED, Status.SCHEDULED, Status.BUILDING)


def follow(
    watcher: Watcher,
    run: Job | Build,
    log: Path,
    offset: int = 0,
    *,
    idle_after: float | None = None,
    client: socket.socket | None = None,
    owner: int | None = None,
    may_read: Callable[[], bool] | None = None,
) -> RunEvents:
    """Follow a run and its log from byte `offset`. The file need not exist yet, and the run may be done.

    * `client`: the connection to watch; the follow ends when the client disconnects.
    * `owner`: id of the user whose slot this takes.
    * `may_read`: called every `ACCESS_CHECK_SECONDS` in the reading thread; returns whether the client may still read
      the run.

    Raises Unavailable if no slot is free.
    """
    subscription = watcher.subscribe(key_of(run), log, client, owner)
    return RunEvents(watcher, subscription, run, offset, idle_after, may_read)


def wait_until_done(
    watcher: Watcher,
    job_id: int,
    seconds: float,
    client: socket.socket | None = None,
    owner: int | None = None,
) -> None:
    """Block until the job is done or deleted, at most for `seconds`.

    Returns early if the process shuts down or the client disconnects. Takes no slot if the job is done or missing
    already; otherwise raises Unavailable if no slot is free.
    """
    job = Job.select(Job.status).where(Job.id == job_id, Job.deleted_at.is_null()).first()
    if job is None or job.status.is_done:
        return
    _wait(watcher, watcher.subscribe(RunKey("job", job_id), None, client, owner), seconds, lambda: False)


def wait_for_log(
    watcher: Watcher,
    run: Job | Build,
    log: Path,
    length: int,
    seconds: float,
    client: socket.socket | None = None,
    owner: int | None = None,
) -> None:
    """Block until the log has more than `length` bytes or its run is done or deleted, at most for `seconds`.

    Returns early if the process shuts down or the client disconnects. Raises Unavailable if no slot is free.
    """
    subscription = watcher.subscribe(key_of(run), log, client, owner)
    file = subscription.file
    assert file is not None
    _wait(watcher, subscription, seconds, lambda: bool(file.read(length)))


def _wait(watcher: Watcher, subscription: Subscription, seconds: float, is_met: Callable[[], bool]) -> None:
    """Block until the condition is met or the subscription is over, at most for `seconds`; then unsubscribe."""
    deadline = watcher.clock() + seconds
    try:
        while not (subscription.state.is_over or subscription.is_cancelled or subscription.has_client_left or is_met()):
            remaining = deadline - watcher.clock()
            if remaining <= 0:
                return
            subscription.wait(remaining)
    finally:
        watcher.unsubscribe(subscription)
