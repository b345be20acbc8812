"""The times of a log: an index beside it that says when its bytes were written. Standard library only.

A record is two little-endian numbers of 8 bytes: an offset in the log, and the time in milliseconds since 1970 at which
the bytes from there on were written, up to the offset of the next record.

The index is only an aid. It can lack the latest records, and after a crash or a power cut it can end with records of
bytes that the log lacks, with zeros, or with a part of a record. It is never synced.
"""

from __future__ import annotations

import os
import time
from bisect import bisect_left
from collections.abc import Sequence

SUFFIX = ".times"
RECORD_BYTES = 16
FIRST_PAUSE_MS = 100
"""Bytes that are written within this time of a record get no record of their own."""
RECORDS_PER_PAUSE = 1 << 17
"""Each so many records, the pause doubles: an index of 25 years has 32 MiB."""
_NEVER = 1 << 63

Times = Sequence[tuple[int, int]]
"""Offsets in a piece of a log, and the times, in milliseconds since 1970, of the bytes from there on."""


class LogTimes:
    """Appends to the index of a log, which is created with its first record. Nothing here raises OSError."""

    def __init__(self, log: str) -> None:
        self._path = log + SUFFIX
        self._file = -1
        self._count = 0
        self._last_ms = self._due_ms = 0
        """The time of the last record, and from which time on the next one is written."""

    def record(self, offset: int, at_ms: int) -> None:
        """Record when the bytes from `offset` on are written. Call this before they are.

        Nothing is recorded if another record is younger than the pause. The first call drops all records of bytes from
        `offset` on, which a process wrote that died before it wrote these bytes.
        """
        if self._last_ms <= at_ms < self._due_ms:
            return
        try:
            if self._file < 0:
                self._open(offset)
                if self._last_ms <= at_ms < self._due_ms:
                    return
            record = offset.to_bytes(8, "little") + at_ms.to_bytes(8, "little")
            if os.write(self._file, record) == RECORD_BYTES:
                self._note(at_ms)
                return
        except (OSError, OverflowError):
            pass
        self.close()
        self._last_ms, self._due_ms = 0, _NEVER  # after a part of a record, no further one could be read

    def _open(self, offset: int) -> None:
        flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        self._file = os.open(self._path, flags, 0o600)
        size = os.fstat(self._file).st_size
        if not size:
            return
        self._count = records_before(self._file, range(size // RECORD_BYTES), offset)
        if self._count * RECORD_BYTES < size:
            os.ftruncate(self._file, self._count * RECORD_BYTES)
        if self._count:
            self._count -= 1
            self._note(read_record(self._file, self._count)[1])

    def _note(self, at_ms: int) -> None:
        self._count += 1
        self._last_ms = at_ms
        self._due_ms = at_ms + (FIRST_PAUSE_MS << self._count // RECORDS_PER_PAUSE)

    def close(self) -> None:
        """Close the file. Idempotent."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1


def now_ms() -> int:
    return time.time_ns() // 1_000_000


def append_times(log: str, offset: int, times: Times) -> None:
    """Record the times of a piece of a log that is about to be written at `offset`."""
    writer = LogTimes(log)
    for start, at_ms in times:
        writer.record(offset + start, at_ms)
    writer.close()


def read_record(file: int, index: int) -> tuple[int, int]:
    """Return a record of an open index; zeros for one that is missing. Raises OSError."""
    data = os.pread(file, RECORD_BYTES, index * RECORD_BYTES)
    return int.from_bytes(data[:8], "little"), int.from_bytes(data[8:], "little")


def records_before(file: int, indexes: range, offset: int) -> int:
    """Return the first of these indexes whose record does not belong to bytes before `offset`, or else their end."""

    def is_beyond(index: int) -> bool:
        start, at_ms = read_record(file, index)
        return start >= offset or not at_ms

    return indexes.start + bisect_left(indexes, True, key=is_beyond)
