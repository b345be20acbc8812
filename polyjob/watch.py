"""Waiting for jobs, builds and logs: one thread of the process looks at the disk, and all who wait share it.

The thread runs only while somebody waits. At each tick it asks SQLite whether anybody committed, each followed file
how long it is, and the kernel whose client has hung up; then it wakes whom that concerns, and nobody else.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import select
import socket
import sqlite3
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote

from polyjob.database import database
from polyjob.errors import Unavailable
from polyjob.models import Build, Job
from polyjob.statuses import Status

TICK = 0.005
"""Seconds between two looks: what a follower lags behind at most."""
CHUNK = 1 << 16
RETRY_AFTER = 5
_KEEPALIVE = {"TCP_KEEPIDLE": 20, "TCP_KEEPINTVL": 10, "TCP_KEEPCNT": 3}
"""Seconds and probes after which the kernel calls a client gone whose machine vanished without a word."""

logger = logging.getLogger(__name__)


class WatchEnded(BrokenPipeError):
    """The process shuts down. Raised out of a response it breaks the connection off, so that a client can tell a log
    that has ended from one that goes on elsewhere, and resumes at the byte it has got to."""

    def __init__(self) -> None:
        super().__init__(errno.EPIPE, "the server shuts down")


class Subject(NamedTuple):
    """The row that somebody waits for."""

    table: str
    id: int


class Row:
    """What was last seen of a row; `status` is None until the first look."""

    def __init__(self) -> None:
        self.places: set[Place] = set()
        self.version: int | None = None
        self.status: Status | None = None
        self.is_gone = False

    @property
    def is_over(self) -> bool:
        return self.is_gone or (self.status is not None and self.status.is_done)


class File:
    """A followed file, opened once for all its followers; it may come into being later."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.places: set[Place] = set()
        self.length = 0
        self._lock = threading.Lock()
        self._descriptor: int | None = None

    def descriptor(self) -> int | None:
        """None as long as there is no such file."""
        if self._descriptor is None:
            with self._lock, contextlib.suppress(FileNotFoundError):
                self._descriptor = self._descriptor or os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
        return self._descriptor

    def look(self) -> bool:
        """Whether its length has changed since the last look."""
        before, descriptor = self.length, self.descriptor()
        if descriptor is not None:
            self.length = os.lseek(descriptor, 0, os.SEEK_END)  # half the price of fstat; reads name their offset
        return self.length != before

    def read(self, offset: int) -> bytes:
        descriptor = self.descriptor()
        return b"" if descriptor is None else os.pread(descriptor, CHUNK, offset)

    def close(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


class Place:
    """One request's place among those who wait, freed by `close`. For the one thread that took it."""

    def __init__(self, watcher: Watcher, subject: Subject, row: Row, file: File | None) -> None:
        self.subject = subject
        self.row = row
        self.file = file
        self.client: int | None = None
        """Descriptor of the client's connection, while that is watched."""
        self.client_left = False
        self.is_ended = False
        """The watch has ended, and nothing more will be seen."""
        self._watcher = watcher
        self._woken = threading.Event()

    def wait(self, seconds: float | None = None) -> None:
        """Block until something of it may have changed since the last call returned, or `seconds` have passed."""
        self._woken.wait(seconds)
        self._woken.clear()

    def wake(self) -> None:
        self._woken.set()

    def close(self) -> None:
        """Idempotent."""
        self._watcher.leave(self)

    def __enter__(self) -> Place:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Watcher:
    """Those who wait in this process, at most `limit`, and the thread that looks for them."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.is_ending: Callable[[], bool] = bool
        """Asked at each tick; once true, everybody is sent away as by `close`."""
        self._lock = threading.RLock()  # a place that the garbage collector frees comes back in on any line
        self._places: set[Place] = set()
        self._rows: dict[Subject, Row] = {}
        self._files: dict[Path, File] = {}
        self._clients: dict[int, Place] = {}
        self._poll = select.epoll()
        self._thread: threading.Thread | None = None
        self._data_version: int | None = None
        """SQLite's number of the last commit looked at; None = look, whatever it is."""

    def __len__(self) -> int:
        return len(self._places)

    def take(self, subject: Subject, path: Path | None = None, client: socket.socket | None = None) -> Place:
        """A place that is woken when the row changes, the file's length does, or the client hangs up.

        Raises Unavailable past the limit.
        """
        with self._lock:
            if len(self._places) >= self.limit:
                raise Unavailable(f"The server already has {self.limit} followers and waiting requests.", RETRY_AFTER)
            row = self._rows.setdefault(subject, Row())
            file = self._files.setdefault(path, File(path)) if path is not None else None
            place = Place(self, subject, row, file)
            row.places.add(place)
            if file is not None:
                file.places.add(place)
            if client is not None:
                self._watch_client(place, client)
            self._places.add(place)
            self._data_version = None
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="polyjob-watch", daemon=True)
                self._thread.start()
        return place

    def leave(self, place: Place) -> None:
        """Free a place. Idempotent."""
        with self._lock:
            if place not in self._places:
                return
            self._places.remove(place)
            self._forget_client(place)
            place.row.places.remove(place)
            if not place.row.places:
                del self._rows[place.subject]
            if place.file is None:
                return
            place.file.places.remove(place)
            if not place.file.places:
                del self._files[place.file.path]
                place.file.close()

    def close(self) -> None:
        """Send everybody away at once: waiting requests answer, followers break off, also in the middle of a send."""
        with self._lock:
            for place in self._places:
                place.is_ended = True
                if place.file is not None and place.client is not None:
                    _hang_up(place.client)
                place.wake()

    # The thread.

    def _run(self) -> None:
        try:
            with contextlib.closing(_open_read_only()) as connection:
                while self._is_needed():
                    self._look(connection)
        except Exception:
            logger.exception("The watch failed; its followers are sent away and may come again.")
            with self._lock:
                self.close()
                self._thread = None

    def _is_needed(self) -> bool:
        with self._lock:
            if self._places:
                return True
            self._thread = None
            return False

    def _look(self, connection: sqlite3.Connection) -> None:
        events = self._poll.poll(TICK)
        if self.is_ending():
            self.close()
        with self._lock:
            for client, _ in events:
                self._client_left(client)
            for file in self._files.values():
                if file.look():
                    _wake(file.places)
            known, self._data_version = self._data_version, _data_version(connection)
            if known != self._data_version:
                self._look_at_rows(connection)

    def _look_at_rows(self, connection: sqlite3.Connection) -> None:
        seen = _read_rows(connection, self._rows)
        for subject, row in self._rows.items():
            version, status = seen.get(subject, (None, None))
            if status is None:
                row.is_gone = True
                _wake(row.places)
            elif version != row.version:
                row.version, row.status = version, status
                _wake(row.places)

    # Clients.

    def _watch_client(self, place: Place, client: socket.socket) -> None:
        try:
            if client.family in (socket.AF_INET, socket.AF_INET6):
                client.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
                for option, value in _KEEPALIVE.items():
                    client.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)
            self._poll.register(client, select.EPOLLRDHUP)
        except (OSError, ValueError):
            place.client_left = True  # closed already
            return
        place.client = client.fileno()
        self._clients[place.client] = place

    def _client_left(self, client: int) -> None:
        place = self._clients.get(client)
        if place is not None:
            self._forget_client(place)
            place.client_left = True
            place.wake()

    def _forget_client(self, place: Place) -> None:
        if place.client is not None:
            with contextlib.suppress(OSError):
                self._poll.unregister(place.client)
            del self._clients[place.client]
            place.client = None


class Follow:
    """A log's bytes from `offset` on, as they come; over when its job or build is and every byte was given.

    The first item is empty, on which a server sends its headers. Raises WatchEnded where the process shuts down. Holds a
    place until it is over, closed or forgotten.
    """

    def __init__(self, place: Place, offset: int) -> None:
        self.offset = offset
        self._place = place
        self._is_begun = False
        self._is_at_end = False

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        if not self._is_begun:
            self._is_begun = True
            return b""
        chunk = self._next_chunk()
        if not chunk:
            self.close()
            raise StopIteration
        self.offset += len(chunk)
        return chunk

    def _next_chunk(self) -> bytes:
        place = self._place
        assert place.file is not None
        while True:
            if self._is_at_end:
                place.wait()
            if place.is_ended:
                self.close()
                raise WatchEnded
            if place.client_left:
                return b""
            is_over = place.row.is_over  # asked before the read: a log is complete before its row says so
            chunk = place.file.read(self.offset)
            self._is_at_end = len(chunk) < CHUNK and not is_over
            if chunk or is_over:
                return chunk

    def close(self) -> None:
        """Idempotent."""
        self._place.close()

    __del__ = close


_watcher = Watcher(limit=112)


def set_limit(limit: int) -> None:
    """How many followers and waiters this process takes at once."""
    _watcher.limit = limit


def end_when(is_ending: Callable[[], bool]) -> None:
    """Send everybody away within a tick of `is_ending()` becoming true, and whoever comes later. It is asked often, in
    another thread."""
    _watcher.is_ending = is_ending


def close_all() -> None:
    """Send everybody who waits now away at once."""
    _watcher.close()


def waiting() -> int:
    """How many follow or wait in this process."""
    return len(_watcher)


def follow(run: Job | Build, path: Path, start: int, client: socket.socket | None = None) -> Follow:
    """The log of a run at `path`, from byte `start` to its end; the file may not be there yet.

    A client given is watched, and the follow is over when it hangs up. Raises Unavailable past the limit, at once.
    """
    return Follow(_watcher.take(_subject(run), path, client), start)


def wait_until_done(job_id: int, seconds: float, client: socket.socket | None = None) -> None:
    """Block until the job is done or deleted, at most `seconds`; shorter if the process shuts down or the client given
    hangs up. Raises Unavailable past the limit."""
    deadline = time.monotonic() + seconds
    job = Job.get_or_none(Job.id == job_id, Job.deleted_at.is_null())
    if job is None or job.status.is_done:
        return
    with _watcher.take(Subject("job", job_id), client=client) as place:
        while not (place.row.is_over or place.is_ended or place.client_left):
            remaining = deadline - time.monotonic()
            if remaining <= 0:
                return
            place.wait(remaining)


def _subject(run: Job | Build) -> Subject:
    return Subject("job" if isinstance(run, Job) else "build", run.id)


def _open_read_only() -> sqlite3.Connection:
    return sqlite3.connect(f"file:{quote(str(database.database))}?mode=ro", uri=True, timeout=30, isolation_level=None)


def _data_version(connection: sqlite3.Connection) -> int:
    """A number that another connection's commit changes."""
    return int(connection.execute("PRAGMA data_version").fetchone()[0])


_QUERIES = {
    "job": "SELECT id, version, status FROM job WHERE deleted_at IS NULL AND id IN ({})",
    "build": "SELECT id, version, status FROM build WHERE id IN ({})",
}


def _read_rows(connection: sqlite3.Connection, subjects: Iterable[Subject]) -> dict[Subject, tuple[int, Status]]:
    """Version and status of those that are still there; one query per table."""
    seen = {}
    for table, query in _QUERIES.items():
        ids = [subject.id for subject in subjects if subject.table == table]
        if not ids:
            continue
        for id, version, status in connection.execute(query.format(",".join("?" * len(ids))), ids):
            seen[Subject(table, id)] = version, Status(status)
    return seen


def _wake(places: Iterable[Place]) -> None:
    for place in places:
        place.wake()


def _hang_up(client: int) -> None:
    """End the connection for both sides; wakes whoever sends on it."""
    with contextlib.suppress(OSError), socket.socket(fileno=os.dup(client)) as connection:
        connection.shutdown(socket.SHUT_RDWR)
