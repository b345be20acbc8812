"""The log file of a run: its length, the start of its last lines, and appending to it."""

from __future__ import annotations

import os
from pathlib import Path

from runners.common.log_times import append_times, now_ms

_BLOCK_BYTES = 1 << 16


def log_length(path: Path) -> int:
    """Return the log's length in bytes; 0 if it does not exist yet."""
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def begins_line(path: Path, offset: int) -> bool:
    """Return whether a line of the log begins at this offset."""
    if offset == 0:
        return True
    try:
        with path.open("rb") as log:
            return os.pread(log.fileno(), 1, offset - 1) == b"\n"
    except FileNotFoundError:
        return False


def tail_start(path: Path, lines: int, length: int) -> int:
    """Return the offset of the last `lines` lines of the first `length` bytes.

    Reads backwards from the end, block by block.
    """
    if lines == 0 or length == 0:
        return length
    with path.open("rb") as log:
        end = length - 1  # the last byte ends a line, whether or not it is a line feed
        while end > 0:
            begin = max(0, end - _BLOCK_BYTES)
            block = os.pread(log.fileno(), end - begin, begin)
            line_feeds = block.count(b"\n")
            if line_feeds >= lines:
                return begin + _nth_last_line_feed(block, lines) + 1
            lines -= line_feeds
            end = begin
    return 0


def _nth_last_line_feed(block: bytes, count: int) -> int:
    position = len(block)
    for _ in range(count):
        position = block.rindex(b"\n", 0, position)
    return position


def append_to_log(path: Path, data: bytes, limit: int) -> None:
    """Append to a log, which is created if necessary. Bytes beyond a length of `limit` are dropped."""
    length = log_length(path)
    accepted = data[: max(0, limit - length)]
    if accepted:
        append_times(str(path), length, [(0, now_ms())])
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
        with open(os.open(path, flags, 0o600), "wb", buffering=0) as log:
            log.write(accepted)
