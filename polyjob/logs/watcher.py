"""The thread that looks at the disk for all who wait in this process, and the places of those.

At each tick it asks SQLite whether anybody committed, each followed file how long it is, and the kernel whose client
has hung up; then it wakes whom that concerns, and nobody else. It runs only while somebody waits.
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
from polyjob.errors import Unavailable
from polyjob.statuses import Status

TICK = 0.005
SHORT_TICK = 0.001
"""Seconds between two looks for as long as `SOON` after somebody came: most waits are for what happens at once."""
SOON = 0.25
"""Seconds between two looks: what those who wait lag behind at most."""
CHUNK = 1 << 16
RETRY_AFTER = 5
_KEEPALIVE = {socket.TCP_KEEPIDLE: 20, socket.TCP_KEEPINTVL: 10, socket.TCP_KEEPCNT: 3}
"""Seconds, seconds and probes after which the kernel hangs up for a client whose machine vanished without a word."""

logger = logging.getLogger(__name__)


class Subject(NamedTuple):
    """The row that somebody waits for."""

    table: str
    id: int


class Row:
    """What was last seen of a row; version and status are None until the first look."""

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
        self._length = 0
        self._lock = threading.Lock()
        self._descriptor: int | None = None

    def has_changed(self) -> bool:
        """Whether its length is another than at the last look. One that cannot be read counts as changed, so that its
        readers find out."""
        before = self._length
        if self._descriptor is None and not os.access(self.path, os.F_OK):  # a third of what a failing open costs
            return False
        try:
            descriptor = self._open()
            if descriptor is not None:
                self._length = os.lseek(descriptor, 0, os.SEEK_END)  # half an fstat's price; reads name their offset
        except OSError:
            return True
        return self._length != before

    def read(self, offset: int) -> bytes:
        """What is there from `offset` on, at most CHUNK bytes; nothing where there is no file yet."""
        descriptor = self._open()
        return b"" if descriptor is None else os.pread(descriptor, CHUNK, offset)

    def close(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def _open(self) -> int | None:
        if self._descriptor is None:
            with self._lock, contextlib.suppress(FileNotFoundError):
                self._descriptor = self._descriptor or os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
        return self._descriptor


class Place:
    """One request's place among those who wait. Only the thread that took it waits on it and reads."""

    def __init__(self, subject: Subject, row: Row, file: File | None, owner: int | None) -> None:
        self.subject = subject
        self.row = row
        self.file = file
        self.owner = owner
        """The user who takes the place."""
        self.client: int | None = None
        """Descriptor of the client's connection, as long as that is watched."""
        self.client_left = False
        self.is_needed = False
        """Another user gets the place."""
        self.is_ended = False
        """The place was taken away, and nothing more will be seen."""
        self._woken = threading.Event()

    def wait(self, seconds: float | None = None) -> None:
        """Block until something may have changed since this last returned, or `seconds` have passed."""
        self._woken.wait(seconds)
        self._woken.clear()

    def wake(self) -> None:
        self._woken.set()


class Watcher:
    """Those who wait in this process, at most `limit`, and the thread that looks for them."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.is_ending: Callable[[], bool] = bool
        """Asked at each tick; once true, everybody is sent away as by `close`."""
        self._lock = threading.Lock()
        self._places: dict[Place, None] = {}
        """In the order in which they were taken. One that is ended goes as soon as its thread has noticed."""
        self._counts: Counter[int | None] = Counter()
        """Places that are not ended, by owner."""
        self._rows: dict[Subject, Row] = {}
        self._files: dict[Path, File] = {}
        self._clients: dict[int, Place] = {}
        self._abandoned: deque[Place] = deque()
        self._poll: select.epoll | None = None
        """There as long as the thread is; never carried over a fork."""
        self._soon_until = 0.0
        self._last_commit: int | None = None
        """What SQLite numbered the last commit that was looked at; None = look in any case."""

    def __len__(self) -> int:
        return len(self._places)

    def take(
        self,
        subject: Subject,
        path: Path | None = None,
        client: socket.socket | None = None,
        owner: int | None = None,
    ) -> Place:
        """A place that is woken when the row or the file's length changes, or the client hangs up.

        Past the limit it is the latest place of the owner who has the most, where that is at least two more than this
        owner has; else raises Unavailable. To be given back with `leave` or `abandon`.
        """
        with self._lock:
            if self._counts.total() >= self.limit:
                self._make_room(owner)
            poll = self._poll or self._start()
            row = self._rows.setdefault(subject, Row())
            file = self._files.setdefault(path, File(path)) if path is not None else None
            place = Place(subject, row, file, owner)
            row.places.add(place)
            if file is not None:
                file.places.add(place)
            self._places[place] = None
            self._counts[owner] += 1
            self._last_commit = None
            self._soon_until = time.monotonic() + SOON
            if client is not None:
                self._watch_client(poll, place, client)
        return place

    def _make_room(self, owner: int | None) -> None:
        """Places are shared fairly: nobody waits for a place because others have more than they."""
        most = max(self._counts.values(), default=0)
        if most < self._counts[owner] + 2:
            raise Unavailable(f"The server already has {self.limit} followers and waiting requests.", RETRY_AFTER)
        latest = next(
            place for place in reversed(self._places) if not place.is_ended and self._counts[place.owner] == most
        )
        latest.is_needed = True
        self._end_place(latest)

    def _uncount(self, place: Place) -> None:
        self._counts[place.owner] -= 1
        if not self._counts[place.owner]:
            del self._counts[place.owner]

    def leave(self, place: Place) -> None:
        """Free a place. Idempotent."""
        with self._lock:
            if place not in self._places:
                return
            del self._places[place]
            if not place.is_ended:
                self._uncount(place)
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

    def abandon(self, place: Place) -> None:
        """Have a place freed within a tick. Takes no lock, so that it may be called by the garbage collector."""
        self._abandoned.append(place)

    def close(self) -> None:
        """Send everybody away at once: waiting requests answer, followers break off, also in the middle of a send."""
        with self._lock:
            self._send_away()

    def _send_away(self) -> None:
        for place in self._places:
            self._end_place(place)

    def _end_place(self, place: Place) -> None:
        if not place.is_ended:
            self._uncount(place)
        place.is_ended = True
        if place.file is not None and place.client is not None:
            _hang_up(place.client)
        place.wake()

    # The thread.

    def _start(self) -> select.epoll:
        poll = select.epoll()
        threading.Thread(target=self._run, args=(poll,), name="polyjob-watch", daemon=True).start()
        self._poll = poll
        return poll

    def _run(self, poll: select.epoll) -> None:
        try:
            with contextlib.closing(_open_read_only()) as connection:
                while self._is_needed():
                    self._look(poll, connection)
        except Exception:
            logger.exception("The watch failed; its followers are sent away and may come again.")
            with self._lock:
                self._send_away()
                self._end()

    def _is_needed(self) -> bool:
        while self._abandoned:
            self.leave(self._abandoned.popleft())
        with self._lock:
            if not self._places:
                self._end()
            return bool(self._places)

    def _end(self) -> None:
        if self._poll is not None:
            self._poll.close()
            self._poll = None

    def _look(self, poll: select.epoll, connection: sqlite3.Connection) -> None:
        poll.poll(SHORT_TICK if time.monotonic() < self._soon_until else TICK)
        if self.is_ending():
            self.close()
        with self._lock:
            for client, _ in poll.poll(0):  # asked again: before the lock was held, a descriptor may have changed hands
                self._client_left(client)
            for file in self._files.values():
                if file.has_changed():
                    _wake(file.places)
            commit = connection.execute("PRAGMA data_version").fetchone()[0]
            if commit != self._last_commit:
                self._last_commit = commit
                self._look_at_rows(connection)

    def _look_at_rows(self, connection: sqlite3.Connection) -> None:
        seen = _read_rows(connection, self._rows)
        for subject, row in self._rows.items():
            if subject not in seen:
                row.is_gone = True
                _wake(row.places)
            elif seen[subject] != (row.version, row.status):
                row.version, row.status = seen[subject]
                _wake(row.places)

    # Clients.

    def _watch_client(self, poll: select.epoll, place: Place, client: socket.socket) -> None:
        if client.fileno() in self._clients:
            return  # another stream of one connection; the first to ask is told
        try:
            if client.family in (socket.AF_INET, socket.AF_INET6):
                client.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
                for option, value in _KEEPALIVE.items():
                    client.setsockopt(socket.IPPROTO_TCP, option, value)
            poll.register(client, select.EPOLLRDHUP)
        except (OSError, ValueError):
            place.client_left = True  # closed already
            return
        place.client = client.fileno()
        self._clients[place.client] = place

    def _client_left(self, client: int) -> None:
        place = self._clients[client]
        self._forget_client(place)
        place.client_left = True
        place.wake()

    def _forget_client(self, place: Place) -> None:
        if place.client is None:
            return
        del self._clients[place.client]
        if self._poll is not None:
            with contextlib.suppress(OSError):
                self._poll.unregister(place.client)
        place.client = None


def _open_read_only() -> sqlite3.Connection:
    path = quote(str(database.database))
    return sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=30, isolation_level=None)


_QUERIES = {
    "job": "SELECT id, version, status FROM job WHERE deleted_at IS NULL AND id IN ({})",
    "build": "SELECT id, version, status FROM build WHERE id IN ({})",
}


def _read_rows(connection: sqlite3.Connection, subjects: Iterable[Subject]) -> dict[Subject, tuple[int, Status]]:
    """Version and status of those that are still there, with one query per table."""
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
    """End the connection for both sides, waking whoever sends on it. What was sent before still arrives."""
    with contextlib.suppress(OSError), socket.socket(fileno=os.dup(client)) as connection:
        connection.shutdown(socket.SHUT_RDWR)
