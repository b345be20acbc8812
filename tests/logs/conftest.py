"""A watcher on a real database file, threads that read its events, and contents of logs."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from polyjob.clock import now
from polyjob.db.database import database, write
from polyjob.db.models import Job, Project
from polyjob.logs import line_index
from polyjob.logs import lines as lines_module
from polyjob.logs.follow import LogChunk, RunEvent, RunEvents, StatusChange
from polyjob.logs.watcher import Watcher
from polyjob.services.transitions import transition
from polyjob.statuses import Status
from tests.sampling import examples

PATIENCE_SECONDS = 10
"""No event of these tests takes longer, even on a busy machine."""


@pytest.fixture
def watcher(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Watcher]:
    """A watcher whose thread ends with its last subscription, and so with the test."""
    monkeypatch.setattr("polyjob.logs.watcher.LINGER_SECONDS", 0.0)
    watcher = Watcher(limit=112)
    yield watcher
    watcher.close()
    for thread in watch_threads():
        thread.join(PATIENCE_SECONDS)
    assert not watch_threads(), "the thread outlived the subscriptions"


@pytest.fixture
def job(project: Project) -> Job:
    return make_job(project)


def make_job(project: Project) -> Job:
    with write("test"):
        return Job.create(
            uuid=uuid.uuid4().hex,
            project=project,
            user=project.user,
            is_managed=False,
            runner="process",
            created_at=now(),
            updated_at=now(),
        )


def finish_job(job: Job) -> None:
    with write("test"):
        assert transition(job, Status.SUCCEEDED)


def watch_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "polyjob-watch"]


def wait_for_ticks(watcher: Watcher, count: int = 3) -> None:
    """Block until the watcher's thread has checked everything so many times. It must have a subscription."""
    ticks = threading.Semaphore(0)
    should_close = watcher.should_close

    def count_tick() -> bool:
        ticks.release()
        return should_close()

    watcher.should_close = count_tick
    for _ in range(count):
        assert ticks.acquire(timeout=PATIENCE_SECONDS)
    watcher.should_close = should_close


def in_thread(function: Callable[..., object], *args: object) -> threading.Thread:
    """Run this in a thread that closes its own database connection."""

    def run() -> None:
        try:
            function(*args)
        finally:
            database.close()

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    return thread


def wait_for_subscriptions(watcher: Watcher, count: int) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while len(watcher) != count:
        assert time.monotonic() < deadline, f"{len(watcher)} subscriptions"
        time.sleep(0.001)


class Reader(threading.Thread):
    """Reads events to their end in a thread of its own, as a web worker does."""

    def __init__(self, events: RunEvents) -> None:
        super().__init__(daemon=True)
        self.content = b""
        self.received: list[RunEvent] = []
        self._events = events
        self._error: BaseException | None = None
        self._changed = threading.Condition()
        self.start()

    def run(self) -> None:
        try:
            for event in self._events:
                with self._changed:
                    self.received.append(event)
                    self.content += event.data if isinstance(event, LogChunk) else b""
                    self._changed.notify_all()
        except BaseException as error:
            self._error = error
        finally:
            del self._events
            database.close()

    @property
    def kinds(self) -> list[str]:
        """The statuses and, for each chunk of the log, `log`."""
        return [str(event.status.status) if isinstance(event, StatusChange) else "log" for event in self.received]

    def wait_for_content(self, content: bytes) -> None:
        with self._changed:
            assert self._changed.wait_for(lambda: self.content == content, PATIENCE_SECONDS), self.content

    def finish(self) -> bytes:
        """Wait for the end; return the whole content, or raise what ended it."""
        self.join(PATIENCE_SECONDS)
        assert not self.is_alive(), f"still reading after {len(self.content)} bytes"
        if self._error:
            raise self._error
        return self.content


@contextlib.contextmanager
def connected() -> Iterator[tuple[socket.socket, socket.socket]]:
    """A TCP connection: the server's end, as gunicorn has it, and the client's."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        client = socket.create_connection(listener.getsockname())
        server = listener.accept()[0]
    with client, server:
        yield server, client


LOG_CONTENT = st.lists(
    st.sampled_from([b"", b"a", b"bc needle", b"\xff", "é".encode(), b"\r", b"x" * 40, b"\n", b"\n\n"])
).map(b"".join)
MANY_EXAMPLES = hypothesis_settings(
    max_examples=examples(150), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@pytest.fixture
def small_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Limits so small that short texts reach all of them."""
    monkeypatch.setattr(line_index, "BLOCK_BYTES", 8)
    monkeypatch.setattr(line_index, "_READ_BYTES", 32)
    monkeypatch.setattr(lines_module, "_WINDOW_BYTES", 32)
    monkeypatch.setattr(lines_module, "MAX_LINE_BYTES", 16)
    monkeypatch.setattr(lines_module, "_SEARCH_BLOCK_BYTES", 24)


def split_lines(content: bytes) -> list[bytes]:
    """Return the lines of a log, without their line feeds."""
    lines = content.split(b"\n")
    return lines if lines[-1] else lines[:-1]
