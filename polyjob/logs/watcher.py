"""The thread that watches logs, database rows and connections for all followers and waiting requests of a process.

At each tick the thread checks three things: whether anybody committed to the database, how long each followed log is,
and which clients have disconnected. It wakes only the subscriptions that are affected. The thread ends soon after the
last subscription.
"""

from __future__ import annotations

import contextlib
import logging
import os
import select
import socket
import sqlite3
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote

from polyjob.db.database import database
from polyjob.db.models import Build, Job
from polyjob.errors import Unavailable
from polyjob.statuses import Status

TICK_SECONDS = 0.005
"""Time between two checks, and so the longest delay until a subscription is woken."""
FAST_TICK_SECONDS = 0.001
"""The same for `FAST_TICKS_SECONDS` after a subscription begins: most requests wait for something that is about to
happen."""
FAST_TICKS_SECONDS = 0.25
CHUNK_BYTES = 1 << 16
RETRY_AFTER_SECONDS = 5
LINGER_SECONDS = 5.0
"""Time after the last subscription in which the thread waits for another one. A new thread would have to open the
database first."""
_KEEPALIVE = {socket.TCP_KEEPIDLE: 20, socket.TCP_KEEPINTVL: 10, socket.TCP_KEEPCNT: 3}
"""Seconds, seconds and probes after which the kernel drops the connection of a client whose machine has vanished."""

EXTENSION = "polyjob.watcher"
"""Key of an application's watcher in `app.extensions`."""

logger = logging.getLogger(__name__)


class RunKey(NamedTuple):
    """Identifies a job or build."""

    table: str
    id: int


def key_of(run: Job | Build) -> RunKey:
    """Return the key of a job or build."""
    return RunKey("job" if isinstance(run, Job) else "build", run.id)


class RunState:
    """The last state of a run that the thread read. Version and status are None until its first read."""

    def __init__(self) -> None:
        self.subscriptions: set[Subscription] = set()
        self.version: int | None = None
        self.status: Status | None = None
        self.is_deleted = False

    @property
    def is_over(self) -> bool:
        """True if the run is done or deleted."""
        return self.is_deleted or (self.status is not None and self.status.is_done)


class LogFile:
    """A followed log, opened once for all its followers. The file may be created later."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.subscriptions: set[Subscription] = set()
        self._length = 0
        self._lock = threading.Lock()
        self._descriptor: int | None = None

    def has_changed(self) -> bool:
        """Return whether the length has changed since the last call.

        An unreadable file counts as changed, so that its readers see the error.
        """
        before = self._length
        if self._descriptor is None and not os.access(self.path, os.F_OK):  # a third of the cost of a failing open
            return False
        try:
            descriptor = self._open()
            if descriptor is not None:
                self._length = os.lseek(descriptor, 0, os.SEEK_END)  # half the cost of fstat; reads pass their offset
        except OSError:
            return True
        return self._length != before

    def read(self, offset: int) -> bytes:
        """Return at most `CHUNK_BYTES` bytes from `offset`; none while there is no file."""
        descriptor = self._open()
        return b"" if descriptor is None else os.pread(descriptor, CHUNK_BYTES, offset)

    def close(self) -> None:
        """Close the file. Idempotent."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def _open(self) -> int | None:
        if self._descriptor is None:
            with self._lock, contextlib.suppress(FileNotFoundError):
                self._descriptor = self._descriptor or os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
        return self._descriptor


class Subscription:
    """One request that follows a log or waits for a run. Only the thread of that request waits on it and reads."""

    def __init__(self, run: RunKey, state: RunState, file: LogFile | None, owner: int | None) -> None:
        self.run = run
        self.state = state
        self.file = file
        self.owner = owner
        """Id of the user who sent the request."""
        self.client: int | None = None
        """Descriptor of the client's connection while the thread watches it."""
        self.has_client_left = False
        self.is_cancelled = False
        """The watcher ended the subscription and reports nothing more."""
        self.is_reassigned = False
        """The watcher ended it because another user needed its slot."""
        self._woken = threading.Event()

    def wait(self, seconds: float | None = None) -> None:
        """Block until something may have changed since the last `wait`, or for `seconds`."""
        self._woken.wait(seconds)
        self._woken.clear()

    def wake(self) -> None:
        """End the current or the next `wait`."""
        self._woken.set()


class Watcher:
    """The subscriptions of this process, at most `limit`, and the thread that watches for them.

    `clock` returns seconds and never goes back.
    """

    def __init__(self, limit: int, clock: Callable[[], float] = time.monotonic) -> None:
        self.limit = limit
        self.clock = clock
        self.should_close: Callable[[], bool] = bool
        """Called at each tick, in the thread. While it returns true, every subscription is cancelled, as by `close`."""
        self._lock = threading.Lock()
        self._subscriptions: dict[Subscription, None] = {}
        """In the order of their beginning. A cancelled one stays here until its request has noticed."""
        self._counts: Counter[int | None] = Counter()
        """Number of subscriptions that are not cancelled, by owner."""
        self._states: dict[RunKey, RunState] = {}
        self._files: dict[Path, LogFile] = {}
        self._clients: dict[int, Subscription] = {}
        self._dropped: deque[Subscription] = deque()
        self._poll: select.epoll | None = None
        """Exists as long as the thread does. It is never shared across a fork."""
        self._begun = threading.Event()
        """Set while there may be subscriptions."""
        self._fast_until = 0.0
        self._last_commit: int | None = None
        """SQLite's number of the last commit that the thread has seen; None makes it read the rows in any case."""

    def __len__(self) -> int:
        """Return the number of requests that follow or wait now."""
        return len(self._subscriptions)

    def subscribe(
        self,
        run: RunKey,
        path: Path | None = None,
        client: socket.socket | None = None,
        owner: int | None = None,
    ) -> Subscription:
        """Return a subscription that is woken when the run or the log's length changes or the client disconnects.

        At the limit, the newest subscription of the user with the most is cancelled, provided that this user has at
        least two more than `owner`; otherwise raises Unavailable. End it with `unsubscribe` or `drop`.
        """
        with self._lock:
            if self._counts.total() >= self.limit:
                self._free_slot(owner)
            poll = self._poll or self._start()
            state = self._states.setdefault(run, RunState())
            file = self._files.setdefault(path, LogFile(path)) if path is not None else None
            subscription = Subscription(run, state, file, owner)
            state.subscriptions.add(subscription)
            if file is not None:
                file.subscriptions.add(subscription)
            self._subscriptions[subscription] = None
            self._counts[owner] += 1
            self._begun.set()
            self._last_commit = None
            self._fast_until = self.clock() + FAST_TICKS_SECONDS
            if client is not None:
                self._watch_client(poll, subscription, client)
        return subscription

    def unsubscribe(self, subscription: Subscription) -> None:
        """End a subscription and free its slot. Idempotent."""
        with self._lock:
            if subscription not in self._subscriptions:
                return
            del self._subscriptions[subscription]
            if not subscription.is_cancelled:
                self._uncount(subscription)
            self._forget_client(subscription)
            subscription.state.subscriptions.remove(subscription)
            if not subscription.state.subscriptions:
                del self._states[subscription.run]
            if subscription.file is None:
                return
            subscription.file.subscriptions.remove(subscription)
            if not subscription.file.subscriptions:
                del self._files[subscription.file.path]
                subscription.file.close()

    def drop(self, subscription: Subscription) -> None:
        """Have the thread end a subscription at its next tick. Takes no lock: the garbage collector may call this."""
        self._dropped.append(subscription)

    def close(self) -> None:
        """Cancel all subscriptions at once.

        Waiting requests answer. Followers break off their response, even one that is blocked in a send.
        """
        with self._lock:
            self._cancel_all()

    def _free_slot(self, owner: int | None) -> None:
        """Share the slots fairly: no user has to wait for a slot because others have more of them."""
        most = max(self._counts.values(), default=0)
        if most < self._counts[owner] + 2:
            raise Unavailable(
                f"The server already has {self.limit} followers and waiting requests.", RETRY_AFTER_SECONDS
            )
        newest = next(
            subscription
            for subscription in reversed(self._subscriptions)
            if not subscription.is_cancelled and self._counts[subscription.owner] == most
        )
        newest.is_reassigned = True
        self._cancel(newest)

    def _cancel_all(self) -> None:
        for subscription in self._subscriptions:
            self._cancel(subscription)

    def _cancel(self, subscription: Subscription) -> None:
        if not subscription.is_cancelled:
            self._uncount(subscription)
        subscription.is_cancelled = True
        if subscription.file is not None and subscription.client is not None:
            _shut_down(subscription.client)
        subscription.wake()

    def _uncount(self, subscription: Subscription) -> None:
        self._counts[subscription.owner] -= 1
        if not self._counts[subscription.owner]:
            del self._counts[subscription.owner]

    # The thread.

    def _start(self) -> select.epoll:
        poll = select.epoll()
        threading.Thread(target=self._run, args=(poll,), name="polyjob-watch", daemon=True).start()
        self._poll = poll
        return poll

    def _run(self, poll: select.epoll) -> None:
        try:
            with contextlib.closing(_open_read_only()) as connection:
                while self._has_subscriptions():
                    self._check(poll, connection)
        except Exception:
            logger.exception("The log watcher failed. Its followers are disconnected and can connect again.")
            with self._lock:
                self._cancel_all()
                self._stop()

    def _has_subscriptions(self) -> bool:
        """Return whether there are subscriptions, or whether one begins in time.

        If not, note that the thread ends, under the lock of `subscribe`.
        """
        while self._dropped:
            self.unsubscribe(self._dropped.popleft())
        with self._lock:
            if self._subscriptions:
                return True
            self._begun.clear()
        self._begun.wait(LINGER_SECONDS)
        with self._lock:
            if not self._subscriptions:
                self._stop()
            return bool(self._subscriptions)

    def _stop(self) -> None:
        if self._poll is not None:
            self._poll.close()
            self._poll = None

    def _check(self, poll: select.epoll, connection: sqlite3.Connection) -> None:
        poll.poll(FAST_TICK_SECONDS if self.clock() < self._fast_until else TICK_SECONDS)
        if self.should_close():
            self.close()
        with self._lock:
            # Poll again under the lock: until it was taken, a descriptor may have passed to another connection.
            for client, _ in poll.poll(0):
                self._client_left(client)
            for file in self._files.values():
                if file.has_changed():
                    _wake(file.subscriptions)
            commit = connection.execute("PRAGMA data_version").fetchone()[0]
            if commit != self._last_commit:
                self._last_commit = commit
                self._check_runs(connection)

    def _check_runs(self, connection: sqlite3.Connection) -> None:
        rows = _read_rows(connection, self._states)
        for run, state in self._states.items():
            if run not in rows:
                state.is_deleted = True
                _wake(state.subscriptions)
            elif rows[run] != (state.version, state.status):
                state.version, state.status = rows[run]
                _wake(state.subscriptions)

    # Clients.

    def _watch_client(self, poll: select.epoll, subscription: Subscription, client: socket.socket) -> None:
        if client.fileno() in self._clients:
            return  # another stream of the same connection; the first one is woken
        try:
            if client.family in (socket.AF_INET, socket.AF_INET6):
                client.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
                for option, value in _KEEPALIVE.items():
                    client.setsockopt(socket.IPPROTO_TCP, option, value)
            poll.register(client, select.EPOLLRDHUP)
        except (OSError, ValueError):
            subscription.has_client_left = True  # the socket is closed already
            return
        subscription.client = client.fileno()
        self._clients[subscription.client] = subscription

    def _client_left(self, client: int) -> None:
        subscription = self._clients[client]
        self._forget_client(subscription)
        subscription.has_client_left = True
        subscription.wake()

    def _forget_client(self, subscription: Subscription) -> None:
        if subscription.client is None:
            return
        del self._clients[subscription.client]
        if self._poll is not None:
            with contextlib.suppress(OSError):
                self._poll.unregister(subscription.client)
        subscription.client = None


def _open_read_only() -> sqlite3.Connection:
    path = quote(str(database.database))
    return sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=30, isolation_level=None)


_QUERIES = {
    "job": "SELECT id, version, status FROM job WHERE deleted_at IS NULL AND id IN ({})",
    "build": "SELECT id, version, status FROM build WHERE id IN ({})",
}


def _read_rows(connection: sqlite3.Connection, runs: Iterable[RunKey]) -> dict[RunKey, tuple[int, Status]]:
    """Return version and status of the runs that still exist, with one query for each table."""
    rows = {}
    for table, query in _QUERIES.items():
        ids = [run.id for run in runs if run.table == table]
        if not ids:
            continue
        for id, version, status in connection.execute(query.format(",".join("?" * len(ids))), ids):
            rows[RunKey(table, id)] = version, Status(status)
    return rows


def _wake(subscriptions: Iterable[Subscription]) -> None:
    for subscription in subscriptions:
        subscription.wake()


def _shut_down(client: int) -> None:
    """Shut the connection down in both directions, which ends a blocked send. Data already sent still arrives."""
    with contextlib.suppress(OSError), socket.socket(fileno=os.dup(client)) as connection:
        connection.shutdown(socket.SHUT_RDWR)
