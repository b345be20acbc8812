"""Which bytes of a log a request asks for, and the answer that carries them.

A log only ever grows, so what a range once named stays true: every answer says how long the log was when it was asked,
and gives no byte beyond.
"""

from __future__ import annotations

import io
import json
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, cast

from flask import Response, request
from werkzeug.datastructures import Range
from werkzeug.exceptions import RequestedRangeNotSatisfiable
from werkzeug.wsgi import wrap_file

from polyjob.api.downloads import attach
from polyjob.api.params import ParamReader
from polyjob.api.request_body import FORMS, looks_like_json
from polyjob.errors import Invalid, NotFound, Problem
from polyjob.logs.follow import LogChunk, RunEvents

LIVE_END = (1 << 53) - 1
"""The last byte of a range that goes on as the log grows, by RFC 8673."""
_BLOCK = 1 << 16


@dataclass(frozen=True)
class LogQuery:
    """What the query string asks for: from where, and whether to wait for more."""

    tail: int | None = None
    """Start with the last so many lines."""
    offset: int | None = None
    """Start with this byte."""
    follow: bool = False

    def start(self, path: Path, length: int) -> int:
        if self.tail is not None:
            return tail_start(path, self.tail, length)
        return self.offset or 0


def read_query(arguments: Mapping[str, str]) -> LogQuery:
    """Raises Invalid that names every parameter in question."""
    reader = ParamReader(arguments)
    query = LogQuery(
        reader.optional_number("tail"), reader.optional_number("offset"), reader.yes_no("follow", allow_bare=True)
    )
    if "tail" in arguments and "offset" in arguments:
        reader.problems.append(Problem("tail", "Give `tail` or `offset`, not both: each sets the start."))
    reader.check()
    return query


def log_length(path: Path) -> int:
    """In bytes; 0 where nothing was logged yet."""
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def tail_start(path: Path, lines: int, length: int) -> int:
    """Where the last `lines` lines of the first `length` bytes begin. Reads back from the end, a block at a time."""
    if lines == 0 or length == 0:
        return length
    with path.open("rb") as log:
        end = length - 1  # what the last byte ends is a line, be it a line feed or not
        while end > 0:
            begin = max(0, end - _BLOCK)
            block = os.pread(log.fileno(), end - begin, begin)
            found = block.count(b"\n")
            if found >= lines:
                return begin + _nth_last(block, lines) + 1
            lines -= found
            end = begin
    return 0


def _nth_last(block: bytes, count: int) -> int:
    position = len(block)
    for _ in range(count):
        position = block.rindex(b"\n", 0, position)
    return position


def answer(
    path: Path,
    query: LogQuery,
    *,
    name: str,
    identity: str,
    is_done: bool,
    follow: Callable[[int], RunEvents],
) -> Response:
    """The answer to a GET or HEAD of the log at `path`, which need not be there yet.

    `name` is what a browser saves it as, `identity` what its ETag is made of. `follow` is called with a first byte, and
    only where the answer goes on as the log grows. Raises RequestedRangeNotSatisfiable, and NotFound where the log is
    removed meanwhile.
    """
    length = log_length(path)
    try:
        start = query.start(path, length)
        if query.follow and not is_done:
            response = _live(start, length, follow)
        else:
            response = _fixed(path, min(start, length), length, identity)
    except FileNotFoundError:
        raise NotFound("The log was removed just now.") from None
    response.headers["Content-Type"] = "text/plain; charset=utf-8"
    attach(response, name)
    response.headers["X-Content-Type-Options"] = "nosniff"
    response.headers["Accept-Ranges"] = "bytes"
    response.headers["Cache-Control"] = "private, no-cache"
    return response


def _fixed(path: Path, start: int, length: int, identity: str) -> Response:
    """The bytes from `start` that are there now, or the range of those that is asked for."""
    etag = f"{identity}-{length}"
    if request.if_none_match.contains(etag):
        response = Response(status=304)
        response.set_etag(etag)
        return response
    first, stop, response = start, length, Response()
    asked = _range() if _may_range(identity) else None
    if asked is not None:
        span = _within(asked, length - start)
        if span is None:
            raise RequestedRangeNotSatisfiable(length - start)
        first, stop = start + span[0], start + span[1]
        response.status_code = 206
        response.headers["Content-Range"] = f"bytes {span[0]}-{span[1] - 1}/{length - start}"
    if stop > first and request.method != "HEAD":
        response.response = wrap_file(request.environ, cast(IO[bytes], _Span(path, first, stop)), _BLOCK)
        response.direct_passthrough = True
    response.content_length = stop - first
    response.set_etag(etag)
    return response


def _live(start: int, length: int, follow: Callable[[int], RunEvents]) -> Response:
    """The bytes from `start`, as they come. A range without an end moves the start; any other is not for live logs."""
    response = Response()
    asked = _range()
    if asked is not None and (asked.ranges[0][1] is None or asked.ranges[0][1] > LIVE_END):
        first = _first(asked, length - start)
        start += first
        response.status_code = 206
        response.headers["Content-Range"] = f"bytes {first}-{LIVE_END}/*"
    response.response = iter(())  # an iterator, or a HEAD would be answered with a length of 0
    if request.method != "HEAD":
        events = follow(start)
        response.response = _log_bytes(events)
        response.call_on_close(events.close)
    response.headers["X-Accel-Buffering"] = "no"
    return response


def _log_bytes(events: RunEvents) -> Iterator[bytes]:
    """The first item is empty, on which a server sends its headers."""
    yield b""
    for event in events:
        if isinstance(event, LogChunk):
            yield event.data


def _range() -> Range | None:
    """The one range of bytes that is asked for. Several, another unit and nonsense count as none."""
    asked = request.range
    return asked if asked is not None and asked.units == "bytes" and len(asked.ranges) == 1 else None


def _first(asked: Range, length: int) -> int:
    """A suffix longer than the whole is the whole."""
    first = asked.ranges[0][0]
    return first if first >= 0 else max(0, length + first)


def _within(asked: Range, length: int) -> tuple[int, int] | None:
    """First byte and the one behind the last; None where the range has none of `length` bytes."""
    first, stop = _first(asked, length), asked.ranges[0][1]
    stop = length if stop is None else min(stop, length)
    return (first, stop) if first < stop else None


def _may_range(identity: str) -> bool:
    """Whether If-Range lets the range through: the ETag of a shorter state does, as those bytes are still the same."""
    condition = request.if_range
    if condition.etag is None:
        return condition.date is None
    return condition.etag.rpartition("-")[0] == identity


def read_posted() -> bytes:
    """The bytes that a client sends for a log: a JSON string or list of them, each made whole lines, or any other body
    as it is. JSON that comes as a form, as curl has it, is JSON. Raises Invalid."""
    data = request.get_data()
    if not request.is_json and not (request.mimetype in FORMS and looks_like_json(data, b'"[')):
        return data
    try:
        lines = json.loads(data)
    except (ValueError, RecursionError):
        raise Invalid([Problem("", "The body is not JSON.")]) from None
    lines = [lines] if isinstance(lines, str) else lines
    if not isinstance(lines, list) or not all(isinstance(line, str) for line in lines):
        raise Invalid([Problem("", "The body takes a JSON string, or a list of them.")])
    return "".join(line if line.endswith("\n") else f"{line}\n" for line in lines).encode(errors="replace")


def append(path: Path, data: bytes, limit: int) -> None:
    """Add to a log that may not be there yet, to `limit` bytes in all; what is beyond is dropped."""
    kept = data[: max(0, limit - log_length(path))]
    if kept:
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
        with open(os.open(path, flags, 0o600), "wb", buffering=0) as log:
            log.write(kept)


class _Span(io.RawIOBase):
    """A part of a file, to be read once. `fileno` stands at its first byte: servers may let the kernel send it."""

    def __init__(self, path: Path, first: int, stop: int) -> None:
        self._file = path.open("rb", buffering=0)
        self._file.seek(first)
        self._left = stop - first

    def fileno(self) -> int:
        return self._file.fileno()

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """For `socket.sendfile`, which says where it ended; nobody reads after that."""
        return self._file.seek(offset, whence)

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        data = self._file.read(min(size, self._left) if size >= 0 else self._left)
        self._left -= len(data)
        return data

    def close(self) -> None:
        self._file.close()
        super().close()
