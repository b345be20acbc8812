"""The engine's process: lock, wake-ups, signals, and the loop of passes."""

from __future__ import annotations

import contextlib
import logging
import os
import select
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import runners
from polyjob.clock import Clock
from polyjob.db.database import close_database, database, open_database
from polyjob.db.migrations import migrate
from polyjob.db.models import Meta
from polyjob.engine.call_pools import Calls
from polyjob.engine.context import Context
from polyjob.engine.reconciler import Engine
from polyjob.engine.retries import TICK
from polyjob.engine_link import (
    EngineLock,
    drain_wake_ups,
    open_wake_up_fifo,
    record_orderly_end,
    record_start,
    remove_engine_report,
    write_engine_report,
)
from polyjob.services.specs import runner_settings
from polyjob.services.volumes import missing_folders
from polyjob.services.webhooks import set_server_webhook
from polyjob.settings import Settings
from polyjob.storage import reserve
from polyjob.storage.store import Store
from runners.base import Runner

log = logging.getLogger("polyjob.engine")

CHECK_INTERVAL_SECONDS = 5.0
"""Seconds between two checks of the backends."""
FAILED_PASS_PAUSE_SECONDS = 1.0


def run(settings: Settings) -> int:
    """Run the engine until TERM or INT, and return the exit code. Blocks. Jobs keep running afterwards.

    Raises EngineRunning if another engine works on the same data folder, RuntimeError if a newer polyjob wrote the
    database, and OSError if the data folder cannot be used. Must be called in the main thread.
    """
    store = Store(settings.data_dir)
    store.prepare(shared=bool(settings.job_user))
    lock = EngineLock(settings.data_dir)
    lock.acquire()
    try:
        open_database(settings.data_dir)
        migrate(settings.data_dir)
        return _run_engine(settings, store, lock)
    except BaseException:
        lock.release()
        raise
    finally:
        close_database()


def _run_engine(settings: Settings, store: Store, lock: EngineLock) -> int:
    meta = {row.key: row.value for row in Meta.select()}
    set_server_webhook(settings)
    if settings.volumes:  # in a thread, because a network file system can hang
        threading.Thread(target=_warn_of_missing_folders, args=[settings], name="volumes", daemon=True).start()

    def load(name: str, wake: Callable[[], None]) -> Runner:
        return runners.load(name, runner_settings(settings, meta["installation"], name), wake)

    fifo_fd = open_wake_up_fifo(settings.data_dir)
    with _wake_pipe() as (read_fd, write_fd), _stop_signals(write_fd) as signals:

        def wake() -> None:
            with contextlib.suppress(BlockingIOError, OSError):
                os.write(write_fd, b"!")

        calls = Calls(wake, settings.build_slots)
        context = Context(settings, store, calls, Clock(), meta["installation"], meta["secret"])
        engine = Engine(context, load, wake)
        record_start(settings.data_dir, "engine", context.clock)
        try:
            _loop(engine, settings.data_dir, lock, fifo_fd, read_fd, signals)
            record_orderly_end(settings.data_dir, "engine")
        finally:
            engine.close()
            remove_engine_report(settings.data_dir)
            os.close(fifo_fd)
    return 0


def _warn_of_missing_folders(settings: Settings) -> None:
    for sentence in missing_folders(settings):
        log.warning("%s", sentence)


def _loop(engine: Engine, data_dir: Path, lock: EngineLock, fifo_fd: int, wake_fd: int, signals: list[int]) -> None:
    """Make passes until a signal arrives. Sleep when a pass has found nothing to do, until a wake-up or a tick."""
    poll, clock = select.poll(), engine.context.clock
    poll.register(fifo_fd, select.POLLIN)
    poll.register(wake_fd, select.POLLIN)
    written_report = None
    checked_at = -CHECK_INTERVAL_SECONDS
    while not signals:
        lock.record_pass(clock.mark())
        if drain_wake_ups(fifo_fd):  # before the pass, so that a wake-up during the pass brings another one
            engine.deliveries.look()
        drain_wake_ups(wake_fd)
        pause = 0.0
        try:
            if clock.seconds() - checked_at >= CHECK_INTERVAL_SECONDS:
                checked_at = clock.seconds()
                engine.backends.check()
                reserve.renew(data_dir)
            if not engine.run_pass():
                pause = TICK
        except Exception:
            log.exception("a pass failed; the next one follows")
            pause = FAILED_PASS_PAUSE_SECONDS
            if not database.is_closed():
                database.close()
        report = (engine.backends.report(), engine.jobs.slow_ends())
        if report != written_report:
            with contextlib.suppress(OSError):  # on a full disk, for example; the next change is written again
                write_engine_report(data_dir, *report)
                written_report = report
        if pause:
            poll.poll(pause * 1000)


@contextlib.contextmanager
def _wake_pipe() -> Iterator[tuple[int, int]]:
    read_fd, write_fd = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        yield read_fd, write_fd
    finally:
        os.close(read_fd)
        os.close(write_fd)


@contextlib.contextmanager
def _stop_signals(wake_fd: int) -> Iterator[list[int]]:
    """Yield a list to which TERM and INT are appended when they arrive. A signal also ends the loop's sleep."""
    received: list[int] = []

    def receive(number: int, frame: Any) -> None:
        received.append(number)
        with contextlib.suppress(OSError):
            os.write(wake_fd, b"!")

    previous = {number: signal.signal(number, receive) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield received
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
