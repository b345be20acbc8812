"""The lock that makes the engine one: held by it for life, and there for anybody to ask about.

A POSIX lock, because it ends with its process whatever happens, is not inherited by a fork, and can be asked about
without being taken.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import struct
from pathlib import Path

NAME = "engine.lock"
BEAT_LENGTH = 64
_FLOCK = "hhqqi4x"
"""struct flock on 64-bit Linux: type, whence, start, length, pid."""


class EngineRunning(Exception):
    """Another engine works on this data folder."""

    def __init__(self, data_dir: Path, pid: int | None) -> None:
        who = f"process {pid}" if pid else "another process"
        super().__init__(f"an engine already works on {data_dir}: {who}")
        self.pid = pid


class EngineLock:
    """Held from `acquire` until the process ends or `release`."""

    def __init__(self, data_dir: Path) -> None:
        self._data_dir = data_dir
        self._file: int | None = None

    def acquire(self) -> None:
        """Does not wait. Raises EngineRunning."""
        file = os.open(self._data_dir / NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(file)
            raise EngineRunning(self._data_dir, engine_running(self._data_dir)) from None
        self._file = file

    def beat(self, mark: str) -> None:
        """Write down that the engine made a pass at this instant of the boot clock, where `last_beat` reads it.

        The file keeps its one block, so that a full disk does not silence the engine.
        """
        if self._file is not None:
            with contextlib.suppress(OSError):
                os.pwrite(self._file, f"{mark:<{BEAT_LENGTH}}".encode(), 0)

    def release(self) -> None:
        """Idempotent."""
        if self._file is not None:
            os.close(self._file)
            self._file = None


def last_beat(data_dir: Path) -> str | None:
    """Return the instant of the engine's last pass; None where it has not told any. Not for the engine itself."""
    try:
        return (data_dir / NAME).read_text()[:BEAT_LENGTH].strip() or None
    except (OSError, ValueError):
        return None


def engine_running(data_dir: Path) -> int | None:
    """The process id of the engine of this data folder; None if there is none. Asks without taking the lock.

    Not for the engine itself: closing the file here would give up a lock that the same process holds.
    """
    try:
        file = os.open(data_dir / NAME, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        asked = struct.pack(_FLOCK, fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
        kind, _, _, _, pid = struct.unpack(_FLOCK, fcntl.fcntl(file, fcntl.F_GETLK, asked))
    finally:
        os.close(file)
    return None if kind == fcntl.F_UNLCK else pid
