"""The engine's process: its lock, its wake-up line, its signals, and the loop of passes."""

from __future__ import annotations

import contextlib
import logging
import os
import select
import signal
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
from polyjob.settings import Settings
from polyjob.storage import reserve
from polyjob.storage.store import Store
from runners.base import Runner

log = logging.getLogger("polyjob.engine")

REPORT_EVERY = 5.0
FAILED_PASS_PAUSE = 1.0


def run(settings: Settings) -> int:
    """Work until TERM or INT; returns the exit code. Blocks. Jobs go on behind it.

    Raises EngineRunning when another engine works on the same data folder, RuntimeError for a database that a newer
    polyjob wrote, OSError for a data folder that cannot be used. Must be called in the main thread.
    """
    store = Store(settings.data_dir)
    store.prepare(shared=bool(settings.job_user))
    lock = EngineLock(settings.data_dir)
    lock.acquire()
    try:
        open_database(settings.data_dir)
        migrate(settings.data_dir)
        return _work(settings, store, lock)
    except BaseException:
        lock.release()
        raise
    finally:
        close_database()


def _work(settings: Settings, store: Store, lock: EngineLock) -> int:
    meta = {row.key: row.value for row in Meta.select()}
    of_runners = runner_settings(settings, meta["installation"])

    def load(name: str, wake: Callable[[], None]) -> Runner:
        return runners.load(name, of_runners, wake)

    fifo = open_wake_up_fifo(settings.data_dir)
    with _wake_pipe() as (reading, writing), _until_told(writing) as told:

        def wake() -> None:
            with contextlib.suppress(BlockingIOError, OSError):
                os.write(writing, b"!")

        calls = Calls(wake, settings.build_slots)
        context = Context(settings, store, calls, Clock(), meta["installation"], meta["secret"])
        engine = Engine(context, load, wake)
        record_start(settings.data_dir, "engine", context.clock)
        try:
            _loop(engine, settings.data_dir, lock, fifo, reading, told)
            record_orderly_end(settings.data_dir, "engine")
        finally:
            engine.close()
            remove_engine_report(settings.data_dir)
            os.close(fifo)
    return 0


def _loop(engine: Engine, data_dir: Path, lock: EngineLock, fifo: int, reading: int, told: list[int]) -> None:
    poll, clock = select.poll(), engine.context.clock
    poll.register(fifo, select.POLLIN)
    poll.register(reading, select.POLLIN)
    reported = None
    checked_at = -REPORT_EVERY
    while not told:
        lock.record_pass(clock.mark())
        drain_wake_ups(fifo)  # before the pass: a wake-up during the pass starts another one
        drain_wake_ups(reading)
        pause = 0.0
        try:
            if clock.seconds() - checked_at >= REPORT_EVERY:
                checked_at = clock.seconds()
                engine.backends.check()
                reserve.renew(data_dir)
            if not engine.run_pass():
                pause = TICK
        except Exception:
            log.exception("a pass failed; the next one follows")
            pause = FAILED_PASS_PAUSE
            if not database.is_closed():
                database.close()
        report = (engine.backends.report(), engine.jobs.slow_ends())
        if report != reported:
            with contextlib.suppress(OSError):  # a full disk, say; the next change is written again
                write_engine_report(data_dir, *report)
                reported = report
        if pause:
            poll.poll(pause * 1000)


@contextlib.contextmanager
def _wake_pipe() -> Iterator[tuple[int, int]]:
    reading, writing = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        yield reading, writing
    finally:
        os.close(reading)
        os.close(writing)


@contextlib.contextmanager
def _until_told(writing: int) -> Iterator[list[int]]:
    """A list that has something in it once TERM or INT came; the signal also ends a sleep."""
    told: list[int] = []

    def tell(number: int, frame: Any) -> None:
        told.append(number)
        with contextlib.suppress(OSError):
            os.write(writing, b"!")

    before = {number: signal.signal(number, tell) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield told
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
