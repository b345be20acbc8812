"""An index of a growing file: it counts the line feeds in each block, so that one read finds any line."""

from __future__ import annotations

import os
import threading
from array import array
from bisect import bisect_left
from collections import OrderedDict
from pathlib import Path
from types import TracebackType

BLOCK_BYTES = 1 << 16
_READ_BYTES = 16 * BLOCK_BYTES
_INDEXED_FILES = 256
"""Files whose index is kept. More than the default number of followers of a process, or each read of a follower would
count its whole log again."""


class LineCounts:
    """The index of one file, as far as the file was read. Several threads may use it at once."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.feeds_before = array("Q", [0])
        """Number of line feeds before each block."""
        self.feeds = 0
        self.length = 0
        self.has_open_line = False
        """True if the last byte is not a line feed."""
        self.file: tuple[int, int] | None = None

    def grow(self, descriptor: int) -> tuple[int, int]:
        """Read on to the end of the file; return its bytes and lines. A replaced or truncated file is read again."""
        state = os.fstat(descriptor)
        with self.lock:
            if self.file != (state.st_dev, state.st_ino) or state.st_size < self.length:
                self.feeds_before, self.feeds, self.length, self.has_open_line = array("Q", [0]), 0, 0, False
                self.file = state.st_dev, state.st_ino
            while self.length < state.st_size:
                size = min(_READ_BYTES - self.length % BLOCK_BYTES, state.st_size - self.length)
                data = os.pread(descriptor, size, self.length)
                if not data:
                    break
                self._count(data)
            return self.length, self.feeds + self.has_open_line

    def _count(self, data: bytes) -> None:
        position = 0
        while position < len(data):
            stop = min(position + BLOCK_BYTES - self.length % BLOCK_BYTES, len(data))
            self.feeds += data.count(b"\n", position, stop)
            self.length += stop - position
            position = stop
            if self.length % BLOCK_BYTES == 0:
                self.feeds_before.append(self.feeds)
        self.has_open_line = not data.endswith(b"\n")


class LogLines:
    """The lines of a file at the time this is opened, numbered from 0. A missing file has none."""

    def __init__(self, path: Path) -> None:
        self.length = self.total = 0
        self._descriptor: int | None = None
        try:
            self._descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return
        counts = _counts_of(path)
        self.length, self.total = counts.grow(self._descriptor)
        self._feeds_before = counts.feeds_before

    def start(self, number: int) -> int:
        """Return the offset of a line; the file's length if it has no such line."""
        if number <= 0:
            return 0
        if number >= self.total:
            return self.length
        block = bisect_left(self._feeds_before, number) - 1
        data = self.read(block * BLOCK_BYTES, BLOCK_BYTES)
        feeds = number - self._feeds_before[block]
        return block * BLOCK_BYTES + len(data) - len(data.split(b"\n", feeds)[feeds])

    def line_at(self, offset: int) -> int:
        """Return the number of the line that contains this byte."""
        block = offset // BLOCK_BYTES
        return self._feeds_before[block] + self.read(block * BLOCK_BYTES, offset - block * BLOCK_BYTES).count(b"\n")

    def read(self, offset: int, size: int) -> bytes:
        """Return at most `size` bytes, none beyond the length at the time of opening."""
        size = min(size, self.length - offset)
        return os.pread(self._descriptor, size, offset) if self._descriptor is not None and size > 0 else b""

    def close(self) -> None:
        """Close the file. Idempotent."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def __enter__(self) -> LogLines:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()


_counts: OrderedDict[Path, LineCounts] = OrderedDict()
_lock = threading.Lock()


def _counts_of(path: Path) -> LineCounts:
    """Return the index of a file. Those that were used last are kept."""
    with _lock:
        counts = _counts.setdefault(path, LineCounts())
        _counts.move_to_end(path)
        if len(_counts) > _INDEXED_FILES:
            _counts.popitem(last=False)
        return counts
