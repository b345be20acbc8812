"""The reserve: a file in the data folder that gives its room on a full disk to the writes that make room again.

Without it, a full disk could not be cleared: SQLite needs a few pages of disk to open the database after a stop, and to
commit that a job is to be deleted.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from pathlib import Path

NAME = "reserve"
SIZE = 4 << 20
ROOM = 4 * SIZE
"""Free bytes of the disk from which on the reserve is made again."""


def release(data_dir: Path) -> None:
    """Give up the reserve if the disk cannot take as much again. Never raises.

    This is tried and not computed, because a quota may end before the disk does.
    """
    path = data_dir / NAME
    with contextlib.suppress(OSError):
        if path.exists() and not _has_room(data_dir):
            path.unlink()


def renew(data_dir: Path) -> None:
    """Make the reserve if it is missing and there is plenty of room. Never raises."""
    path = data_dir / NAME
    with contextlib.suppress(OSError):
        status = os.statvfs(data_dir)
        if path.exists() or status.f_bavail * status.f_frsize < ROOM:
            return
        part = path.with_name(f"{NAME}.part")
        try:
            with part.open("wb") as file:
                os.posix_fallocate(file.fileno(), 0, SIZE)
            part.rename(path)
        except OSError:
            part.unlink(missing_ok=True)


def _has_room(data_dir: Path) -> bool:
    try:
        with tempfile.TemporaryFile(dir=data_dir) as file:
            os.posix_fallocate(file.fileno(), 0, SIZE)
    except OSError:
        return False
    return True
