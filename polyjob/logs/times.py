"""Read the times of a log's lines from the index beside it."""

from __future__ import annotations

import contextlib
import datetime
import os
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import TracebackType

from polyjob.formatting import LOG_STAMP_BYTES
from runners.common.log_times import RECORD_BYTES, SUFFIX, read_record, records_before

_MAX_MS = 253_402_300_799_999
"""The end of the year 9999. A job that runs as the server's account can write anything into the index."""
_NO_STAMP = b"-".ljust(LOG_STAMP_BYTES)


class LineTimes:
    """The times at which the bytes of a log were written. The index may be missing, and may grow meanwhile."""

    def __init__(self, log: Path) -> None:
        self._path = log.with_name(log.name + SUFFIX)
        self._file = -1
        self._count = 0
        self._index = -1
        """The record that was found last, -1 for the bytes before the first one."""
        self._from, self._until = 0, 0
        """The bytes that this record is for."""
        self._time: datetime.datetime | None = None

    def at(self, offset: int) -> datetime.datetime | None:
        """Return when the byte at `offset` was written; None if that is not known. The byte must be in the log."""
        if not self._from <= offset < self._until:
            try:
                self._find(offset)
            except OSError:  # such as a folder that a job has put in its place
                return None
        return self._time

    def close(self) -> None:
        """Close the index. Idempotent."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def __enter__(self) -> LineTimes:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def _find(self, offset: int) -> None:
        self._refresh()
        low = self._index if offset >= self._from else -1
        step = 1
        while (high := low + step) < self._count and self._is_for(high, offset):
            low, step = high, 2 * step
        end = records_before(self._file, range(low + 1, min(high, self._count)), offset + 1)
        self._index = end - 1
        self._from, at_ms = read_record(self._file, self._index) if self._index >= 0 else (0, 0)
        self._until = offset + 1
        if end < self._count and (next_record := read_record(self._file, end))[1]:
            self._until = max(next_record[0], self._until)
        self._time = datetime.datetime.fromtimestamp(at_ms / 1000, datetime.UTC) if 0 < at_ms <= _MAX_MS else None

    def _is_for(self, index: int, offset: int) -> bool:
        """Return whether the bytes of this record begin at the offset or before."""
        return records_before(self._file, range(index, index + 1), offset + 1) > index

    def _refresh(self) -> None:
        """Read the number of records; open an index that has appeared."""
        if self._file < 0:
            with contextlib.suppress(FileNotFoundError):
                flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
                self._file = os.open(self._path, flags)
        if self._file >= 0:
            status = os.fstat(self._file)
            self._count = status.st_size // RECORD_BYTES if stat.S_ISREG(status.st_mode) else 0


def stamped(chunks: Iterable[bytes], offset: int, is_line_start: bool, times: LineTimes) -> Iterator[bytes]:
    """Yield the bytes of a log from `offset` on, with its time and a blank before each line.

    Each time has the same length. `is_line_start` tells whether a line begins at `offset`.
    """
    moment, stamp = None, _NO_STAMP
    for data in chunks:
        parts = []
        position = 0
        while position < len(data):
            if is_line_start:
                if (at := times.at(offset + position)) is not moment:
                    moment, stamp = at, _stamp(at)
                parts.append(stamp)
            end = data.find(b"\n", position) + 1
            is_line_start = end > 0
            parts.append(data[position : end or len(data)])
            position = end or len(data)
        offset += len(data)
        yield b"".join(parts)


def _stamp(moment: datetime.datetime | None) -> bytes:
    return _NO_STAMP if moment is None else f"{moment:%Y-%m-%dT%H:%M:%S}.{moment.microsecond // 1000:03}Z ".encode()
