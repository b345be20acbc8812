"""Write files so that they are complete after a crash or a power cut.

A file gets its final name only by renaming a temporary file that has been fsynced. So whoever finds the name finds the
complete content.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

from polyjob.atomic_files import atomic_file
from polyjob.crash_points import crash_point


def write_durably(path: Path, name: str, write: Callable[[BinaryIO], None]) -> None:
    """Create or replace `path` with what `write` writes, as `durable_file` does."""
    with durable_file(path, name) as file:
        write(file)


@contextlib.contextmanager
def durable_file(path: Path, name: str) -> Iterator[BinaryIO]:
    """Open a file that replaces `path`, synced, when the block ends. If the block raises, `path` does not change.

    Only its owner can read the file. `name` names the crash points before and after the rename.
    """
    with atomic_file(path, 0o600) as file:
        yield file
        file.flush()
        os.fsync(file.fileno())
        crash_point(f"{name}:before")
    crash_point(f"{name}:after")
    fsync_path(path.parent)


def rename_durably(part: Path, path: Path, name: str) -> None:
    """Rename a file that has been fsynced, and sync its folder. `name` names the crash points around the rename."""
    crash_point(f"{name}:before")
    part.rename(path)
    crash_point(f"{name}:after")
    fsync_path(path.parent)


def create_private(path: Path) -> None:
    """Create an empty file that only its owner can read, for SQLite to fill. Raises FileExistsError."""
    os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))


def fsync_path(path: Path) -> None:
    """fsync a file or a folder. Raises FileNotFoundError."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
