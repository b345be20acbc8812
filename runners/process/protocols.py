"""Find out which versions of the keeper server run in a data folder, before an upgrade or after going back."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import struct
from pathlib import Path

from runners.process.keeper_server import VERSION

_LOCK = re.compile(r"server-(\d+)\.lock")
_FLOCK_FORMAT = "hhqqi4x"
"""The `struct flock` of 64-bit Linux: type, whence, start, length, pid."""


def running_protocols(data_dir: Path) -> list[int]:
    """Return the versions of the protocol of the keeper servers that run. Takes no lock, and changes nothing."""
    versions = []
    for path in (data_dir / "process").glob("server-*.lock"):
        match = _LOCK.fullmatch(path.name)
        with contextlib.suppress(OSError):
            if match and _is_locked(path):
                versions.append(int(match[1]))
    return sorted(versions)


def newer_protocols(data_dir: Path) -> list[int]:
    """Return those that a newer polyjob has started, whose jobs this one may not understand.

    This one understands those of every older polyjob.
    """
    return [version for version in running_protocols(data_dir) if version > VERSION]


def _is_locked(path: Path) -> bool:
    file = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    try:
        query = struct.pack(_FLOCK_FORMAT, fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
        kind = struct.unpack(_FLOCK_FORMAT, fcntl.fcntl(file, fcntl.F_GETLK, query))[0]
    finally:
        os.close(file)
    return bool(kind != fcntl.F_UNLCK)
