"""The link between the engine's process and the others: files of the data folder.

| file | written by | read by |
|---|---|---|
| `engine.lock` | the engine: its lock, which prevents a second engine, and the time of its last pass | everyone |
| `engine.hint` | everyone: a wake-up, one byte into a FIFO | the engine |
| `engine.json` | the engine: whether its runner works, jobs that are slow to end | `/readyz`, the status page |
| `held.json` | the engine: disk usage of the builds | the status page |
| `engine.starts`, `web.starts` | engine and web server: their starts since the last orderly end | `/readyz` |
"""

from __future__ import annotations

import contextlib
import datetime
import fcntl
import json
import os
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from polyjob.atomic_files import atomic_file
from polyjob.clock import Clock, now

LOCK_FILE = "engine.lock"
WAKE_UP_FIFO = "engine.hint"
ENGINE_REPORT_FILE = "engine.json"
DISK_USAGE_FILE = "held.json"

LAST_PASS_LENGTH = 64
"""Bytes of the lock file that hold the time of the last pass, padded with blanks."""
STARTS_TO_KEEP = 20
RESTART_WINDOW_SECONDS = 3600.0
"""Age up to which a restart is reported."""

_FLOCK_FORMAT = "hhqqi4x"
"""The `struct flock` of 64-bit Linux: type, whence, start, length, pid."""


# The engine's lock.


class EngineRunning(Exception):
    """Another engine already works on this data folder."""

    def __init__(self, data_dir: Path, pid: int | None) -> None:
        process = f"process {pid}" if pid else "another process"
        super().__init__(f"an engine already works on {data_dir}: {process}")
        self.pid = pid


class EngineLock:
    """The lock of the one engine of a data folder, held from `acquire` until `release` or the end of the process.

    This is a POSIX lock: it ends with its process in any case, a fork does not inherit it, and others can test it
    without taking it.
    """

    def __init__(self, data_dir: Path) -> None:
        self._data_dir = data_dir
        self._file: int | None = None

    def acquire(self) -> None:
        """Take the lock without waiting. Raises EngineRunning."""
        file = os.open(self._data_dir / LOCK_FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(file)
            raise EngineRunning(self._data_dir, engine_pid(self._data_dir)) from None
        self._file = file

    def record_pass(self, mark: str) -> None:
        """Record a pass of the engine at this instant of the boot clock, for `last_pass`.

        The file never needs a second block, so this also works on a full disk.
        """
        if self._file is not None:
            with contextlib.suppress(OSError):
                os.pwrite(self._file, f"{mark:<{LAST_PASS_LENGTH}}".encode(), 0)

    def release(self) -> None:
        """Release the lock. Idempotent."""
        if self._file is not None:
            os.close(self._file)
            self._file = None


def last_pass(data_dir: Path) -> str | None:
    """Return the instant of the engine's last pass, or None if it has not made one.

    Do not call this in the engine's process: closing the file releases the lock.
    """
    try:
        return (data_dir / LOCK_FILE).read_text()[:LAST_PASS_LENGTH].strip() or None
    except (OSError, ValueError):
        return None


def engine_pid(data_dir: Path) -> int | None:
    """Return the process id of the engine of this data folder, or None if none runs. Does not take the lock.

    Do not call this in the engine's process: closing the file releases the lock.
    """
    try:
        file = os.open(data_dir / LOCK_FILE, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        query = struct.pack(_FLOCK_FORMAT, fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
        kind, _, _, _, pid = struct.unpack(_FLOCK_FORMAT, fcntl.fcntl(file, fcntl.F_GETLK, query))
    finally:
        os.close(file)
    return None if kind == fcntl.F_UNLCK else pid


# Wake-ups. A wake-up only means that something has changed. A lost one delays the engine by one second, its tick.


def wake_engine(data_dir: Path) -> None:
    """Wake the engine, if one runs. Never blocks; a missing engine or a full FIFO is not an error."""
    with contextlib.suppress(OSError):
        fifo = os.open(data_dir / WAKE_UP_FIFO, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            os.write(fifo, b"!")
        finally:
            os.close(fifo)


def open_wake_up_fifo(data_dir: Path) -> int:
    """Return a descriptor that is readable after a wake-up; non-blocking. For the engine only. Creates the FIFO."""
    path = data_dir / WAKE_UP_FIFO
    with contextlib.suppress(FileExistsError):
        os.mkfifo(path, 0o600)
    # Also open for writing: without a writer, the FIFO would report its end again and again.
    return os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)


def drain_wake_ups(descriptor: int) -> bool:
    """Read all waiting wake-ups from a FIFO or pipe. Return whether there was one."""
    was_woken = False
    with contextlib.suppress(BlockingIOError):
        while os.read(descriptor, 4096):
            was_woken = True
    return was_woken


# The engine's reports.


@dataclass(frozen=True)
class RunnerReport:
    """The state of the engine's runner as of the last check."""

    name: str
    is_ok: bool
    message: str | None


@dataclass(frozen=True)
class EngineReport:
    """The last report of the engine."""

    runner: RunnerReport | None
    """None before the first check."""
    slow_ends: Sequence[int]
    """Ids of jobs whose end takes minutes."""


def write_engine_report(data_dir: Path, runner: Mapping[str, Any], slow_ends: Sequence[int]) -> None:
    """Write the engine's report. `runner` has `name`, `ok` and `message`. Raises OSError."""
    report = {"pid": os.getpid(), "at": now().isoformat(), "runner": runner, "slow": slow_ends}
    _write_json(data_dir / ENGINE_REPORT_FILE, report)


def remove_engine_report(data_dir: Path) -> None:
    """Remove the report of an engine that ends. Idempotent."""
    (data_dir / ENGINE_REPORT_FILE).unlink(missing_ok=True)


def read_engine_report(data_dir: Path) -> EngineReport:
    """Return the engine's last report; an empty one if there is none, or if the file is damaged."""
    report = _read_json(data_dir / ENGINE_REPORT_FILE)
    try:
        fields = report["runner"]
        runner = RunnerReport(fields["name"], fields["ok"], fields["message"])
    except (KeyError, TypeError):
        runner = None
    return EngineReport(runner, report.get("slow") or [])


@dataclass(frozen=True)
class DiskUsage:
    """Disk usage of the builds, in bytes."""

    measured_at: datetime.datetime
    total: int
    builds: Mapping[int, int]
    """Build id → bytes. Layers that several builds share count for the newest one."""


def write_disk_usage(data_dir: Path, usage: DiskUsage) -> None:
    """Write the disk usage of the builds. Raises OSError."""
    report = {"at": usage.measured_at.isoformat(), "total": usage.total, "builds": usage.builds}
    _write_json(data_dir / DISK_USAGE_FILE, report)


def read_disk_usage(data_dir: Path) -> DiskUsage | None:
    """Return the disk usage of the builds, or None if it was not measured yet, or if the file is damaged."""
    report = _read_json(data_dir / DISK_USAGE_FILE)
    try:
        builds = {int(build): int(size) for build, size in report["builds"].items()}
        return DiskUsage(datetime.datetime.fromisoformat(report["at"]), int(report["total"]), builds)
    except (ValueError, KeyError, TypeError, AttributeError):
        return None


def _write_json(path: Path, document: Mapping[str, Any]) -> None:
    with atomic_file(path) as file:
        file.write(json.dumps(document).encode())


def _read_json(path: Path) -> dict[str, Any]:
    """Return the object in a file, an empty one if it cannot be read."""
    try:
        document = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return document if isinstance(document, dict) else {}


# Starts. An orderly end removes the file, so every line after the first stands for a restart after a crash.


def record_start(data_dir: Path, process: str, clock: Clock) -> None:
    """Record a start of `process`, "engine" or "web". A full disk is ignored."""
    lines = [*_recorded_starts(data_dir, process), clock.mark()][-STARTS_TO_KEEP:]
    with contextlib.suppress(OSError):
        _starts_file(data_dir, process).write_text("\n".join(lines) + "\n")


def record_orderly_end(data_dir: Path, process: str) -> None:
    """Record that the process ends because it was asked to: its next start is not a restart. Idempotent."""
    with contextlib.suppress(OSError):
        _starts_file(data_dir, process).unlink(missing_ok=True)


def count_restarts(data_dir: Path, process: str, clock: Clock) -> int:
    """Return how often the process was restarted after a crash within the last hour."""
    ages = [clock.since(mark) for mark in _recorded_starts(data_dir, process)[1:]]
    return sum(age is not None and age < RESTART_WINDOW_SECONDS for age in ages)


def _recorded_starts(data_dir: Path, process: str) -> list[str]:
    try:
        return [line for line in _starts_file(data_dir, process).read_text().splitlines() if ":" in line]
    except (OSError, ValueError):
        return []


def _starts_file(data_dir: Path, process: str) -> Path:
    return data_dir / f"{process}.starts"
