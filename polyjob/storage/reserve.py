"""The reserve: a file in the data folder that is deleted when the disk is full, so that jobs can still be deleted.

Without it, polyjob could not free space on a full disk. SQLite needs a few pages of disk to open the database after a
stop, and to commit the deletion of a job.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from pathlib import Path

from polyjob.atomic_files import atomic_file

RESERVE_FILE = "reserve"
RESERVE_BYTES = 4 << 20
MIN_FREE_BYTES = 4 * RESERVE_BYTES
"""Free bytes of the disk that are needed to create the reserve again."""


def release(data_dir: Path) -> None:
    """Delete the reserve if the disk does not have that much free space besides it. Never raises.

    The function tries to allocate the space, because a quota can be used up before the disk is.
    """
    path = data_dir / RESERVE_FILE
    with contextlib.suppress(OSError):
        if path.exists() and not _has_space(data_dir):
            path.unlink()


def renew(data_dir: Path) -> None:
    """Create the reserve if it is missing and the disk has enough space. Never raises."""
    path = data_dir / RESERVE_FILE
    with contextlib.suppress(OSError):
        status = os.statvfs(data_dir)
        if path.exists() or status.f_bavail * status.f_frsize < MIN_FREE_BYTES:
            return
        with atomic_file(path) as file:
            os.posix_fallocate(file.fileno(), 0, RESERVE_BYTES)


def _has_space(data_dir: Path) -> bool:
    try:
        with tempfile.TemporaryFile(dir=data_dir) as file:
            os.posix_fallocate(file.fileno(), 0, RESERVE_BYTES)
    except OSError:
        return False
    return True
