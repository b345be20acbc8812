"""Where the lines of a growing file begin: line feeds counted for each block, so that any line is found by one read."""

from __future__ import annotations

import os
import threading
from array import array
from bisect import bisect_left
from collections import OrderedDict
from pathlib import Path
from types import TracebackType

BLOCK = 1 << 16
_READ = 16 * BLOCK
_KEPT = 256
"""Files. More than a process has followers by default, or each of those has its log counted anew at each step."""


class Counts:
    """Of one file, as far as it was read. It grows with the file; several threads may use it at once."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.before = array("Q", [0])
        """Line feeds in front of each block."""
        self.feeds = 0
        self.length = 0
        self.ends_open = False
        """The last byte is no line feed."""
        self.file: tuple[int, int] | None = None

    def grow(self, descriptor: int) -> tuple[int, int]:
        """Read on to the end; (bytes, lines). A file that is another or shorter now is read from its start."""
        state = os.fstat(descriptor)
        with self.lock:
            if self.file != (state.st_dev, state.st_ino) or state.st_size < self.length:
                self.before, self.feeds, self.length, self.ends_open = array("Q", [0]), 0, 0, False
                self.file = state.st_dev, state.st_ino
            while self.length < state.st_size:
                size = min(_READ - self.length % BLOCK, state.st_size - self.length)
                data = os.pread(descriptor, size, self.length)
                if not data:
                    break
                self._count(data)
            return self.length, self.feeds + self.ends_open

    def _count(self, data: bytes) -> None:
        position = 0
        while position < len(data):
            stop = min(position + BLOCK - self.length % BLOCK, len(data))
            self.feeds += data.count(b"\n", position, stop)
            self.length += stop - position
            position = stop
            if self.length % BLOCK == 0:
                self.before.append(self.feeds)
        self.ends_open = not data.endswith(b"\n")


class Lines:
    """The lines that a file has now, numbered from 0; empty where there is no file. Used as a context."""

    def __init__(self, path: Path) -> None:
        self.length = self.total = 0
        self._descriptor: int | None = None
        try:
            self._descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return
        counts = _counts_of(path)
        self.length, self.total = counts.grow(self._descriptor)
        self._before = counts.before

    def start(self, number: int) -> int:
        """The first byte of this line; the file's length where there is no such line."""
        if number <= 0:
            return 0
        if number >= self.total:
            return self.length
        block = bisect_left(self._before, number) - 1
        data = self.read(block * BLOCK, BLOCK)
        feeds = number - self._before[block]
        return block * BLOCK + len(data) - len(data.split(b"\n", feeds)[feeds])

    def line_at(self, offset: int) -> int:
        """The line that this byte of the file belongs to."""
        block = offset // BLOCK
        return self._before[block] + self.read(block * BLOCK, offset - block * BLOCK).count(b"\n")

    def read(self, offset: int, size: int) -> bytes:
        """Nothing behind what was there when this was opened."""
        size = min(size, self.length - offset)
        return os.pread(self._descriptor, size, offset) if self._descriptor is not None and size > 0 else b""

    def close(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def __enter__(self) -> Lines:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()


_counts: OrderedDict[Path, Counts] = OrderedDict()
_lock = threading.Lock()


def _counts_of(path: Path) -> Counts:
    """Those of the files that were asked for last are kept."""
    with _lock:
        counts = _counts.setdefault(path, Counts())
        _counts.move_to_end(path)
        if len(_counts) > _KEPT:
            _counts.popitem(last=False)
        return counts
