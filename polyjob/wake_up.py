"""The wake-up line to the engine: one byte into the FIFO `<data>/engine.hint`.

A hint says only «look». One that is lost costs the engine's tick, a second.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

NAME = "engine.hint"


def send_hint(data_dir: Path) -> None:
    """Wake the engine, if there is one. Never blocks, never raises for a missing engine or a full line."""
    with contextlib.suppress(OSError):
        line = os.open(data_dir / NAME, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            os.write(line, b"!")
        finally:
            os.close(line)


def open_line(data_dir: Path) -> int:
    """The reading end, made if it is not there; non-blocking. For the engine alone."""
    path = data_dir / NAME
    with contextlib.suppress(FileExistsError):
        os.mkfifo(path, 0o600)
    return os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)  # also for writing, or it would read «end» for ever


def drain_line(line: int) -> None:
    """Take all waiting hints."""
    with contextlib.suppress(BlockingIOError):
        while os.read(line, 4096):
            pass
