"""Waiting for a job to end, and following the log of a job or build until it does."""

from __future__ import annotations

import errno
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from polyjob.models import Build, Job
from polyjob.watcher import CHUNK, Place, Subject, Watcher

_watcher = Watcher(limit=112)


class WatchEnded(BrokenPipeError):
    """The process shuts down. Raised out of a response it breaks the connection off, so that a client can tell a log
    that has ended from one that goes on elsewhere, and comes again for the bytes it has not got."""

    def __init__(self) -> None:
        super().__init__(errno.EPIPE, "the server shuts down")


class Follow:
    """A log's bytes from `offset` on, as they come; over when the job or build is and every byte was given.

    The first item is empty, on which a server sends its headers. Raises WatchEnded where the process shuts down. Holds
    its place until it is over, closed or forgotten.
    """

    def __init__(self, place: Place, offset: int) -> None:
        assert place.file is not None
        self.offset = offset
        self._place = place
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
                place.wait()
            if place.is_ended:
                raise WatchEnded
            if place.client_left:
                return b""
            is_over = place.row.is_over  # asked before the read: a log is complete before its row says so
            chunk = self._file.read(self.offset)
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


def follow(run: Job | Build, path: Path, start: int, client: socket.socket | None = None) -> Follow:
    """The log of a run at `path`, from byte `start` to its end; the file may not be there yet.

    A client given is watched, and the follow is over when it hangs up. Raises Unavailable past the limit, at once.
    """
    subject = Subject("job" if isinstance(run, Job) else "build", run.id)
    return Follow(_watcher.take(subject, path, client), start)


def wait_until_done(job_id: int, seconds: float, client: socket.socket | None = None) -> None:
    """Block until the job is done or deleted, for `seconds` at most; shorter if the process shuts down or the client
    given hangs up. Raises Unavailable past the limit."""
    deadline = time.monotonic() + seconds
    job = Job.select(Job.status).where(Job.id == job_id, Job.deleted_at.is_null()).first()
    if job is None or job.status.is_done:
        return
    place = _watcher.take(Subject("job", job_id), client=client)
    try:
        while not (place.row.is_over or place.is_ended or place.client_left):
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
