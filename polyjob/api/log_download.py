"""Responses with the bytes of a log: all of it, a range, or as they are written.

A log only grows, so a range always names the same bytes. A response has the length of the log at the time of the
request, and no byte beyond it.
"""

from __future__ import annotations

import io
import json
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
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
from polyjob.formatting import LOG_FRAMES
from polyjob.logs.files import begins_line, log_length, tail_start
from polyjob.logs.follow import LogChunk, RunEvents
from polyjob.logs.times import LineTimes, stamped

LIVE_END = (1 << 53) - 1
"""The last byte of a range without an end in a log that still grows, as RFC 8673 defines it."""
HEARTBEAT_SECONDS = 0.8
"""Time without a frame after which an empty one is sent, so that a client notices a lost server within two seconds."""
_BLOCK_BYTES = 1 << 16


@dataclass(frozen=True)
class LogParams:
    """The query parameters: the start, and whether to follow the log."""

    tail: int | None = None
    """Number of last lines to start with."""
    offset: int | None = None
    """First byte."""
    follow: bool = False
    times: bool = False
    """Whether each line begins with its time."""

    def start(self, path: Path, length: int) -> int:
        """Return the first byte of a log of this length."""
        if self.tail is not None:
            return tail_start(path, self.tail, length)
        return self.offset or 0


def read_log_params(arguments: Mapping[str, str]) -> LogParams:
    """Read the parameters. Raises Invalid with the problems of all of them."""
    reader = ParamReader(arguments)
    query = LogParams(
        tail=reader.optional_number("tail"),
        offset=reader.optional_number("offset"),
        follow=reader.yes_no("follow", allow_bare=True),
        times=reader.yes_no("times", allow_bare=True),
    )
    if "tail" in arguments and "offset" in arguments:
        reader.problems.append(Problem("tail", "Give `tail` or `offset`, not both: each sets the start."))
    reader.check()
    return query


def log_response(
    path: Path,
    query: LogParams,
    *,
    name: str,
    identity: str,
    is_done: bool,
    follow: Callable[[int], RunEvents],
) -> Response:
    """Return the response to a GET or HEAD of the log at `path`, which need not exist yet.

    * `name`: the file name under which a browser saves the log.
    * `identity`: identifies the log in its ETag.
    * `follow`: called with the first byte if the response follows the log.

    Raises RequestedRangeNotSatisfiable, and NotFound if the log is removed in the meantime.
    """
    length = log_length(path)
    try:
        start = query.start(path, length)
        is_live = query.follow and not is_done
        if query.times:
            response = _timed(path, start, length, follow if is_live else None)
        elif is_live:
            response = _live(start, length, follow)
        else:
            response = _fixed(path, min(start, length), length, identity)
    except FileNotFoundError:
        raise NotFound("The log was just removed.") from None
    response.headers["Content-Type"] = "text/plain; charset=utf-8"
    if is_live and response.status_code == 200 and wants_frames():
        response.headers["Content-Type"] = LOG_FRAMES
        response.response = _frames(cast(Iterator[bytes], response.response))
    attach(response, name)
    response.headers["X-Content-Type-Options"] = "nosniff"
    response.headers["Accept-Ranges"] = "none" if query.times else "bytes"
    response.headers["Cache-Control"] = "private, no-cache"
    return response


def _fixed(path: Path, start: int, length: int, identity: str) -> Response:
    """Return the present bytes from `start`, or the requested range of them."""
    etag = f"{identity}-{length}"
    if request.if_none_match.contains(etag):
        response = Response(status=304)
        response.set_etag(etag)
        return response
    first, stop, response = start, length, Response()
    requested = _requested_range() if _is_range_allowed(identity) else None
    if requested is not None:
        span = _within(requested, length - start)
        if span is None:
            raise RequestedRangeNotSatisfiable(length - start)
        first, stop = start + span[0], start + span[1]
        response.status_code = 206
        response.headers["Content-Range"] = f"bytes {span[0]}-{span[1] - 1}/{length - start}"
    if stop > first and request.method != "HEAD":
        response.response = wrap_file(request.environ, cast(IO[bytes], _FilePart(path, first, stop)), _BLOCK_BYTES)
        response.direct_passthrough = True
    response.content_length = stop - first
    response.set_etag(etag)
    return response


def _live(start: int, length: int, follow: Callable[[int], RunEvents]) -> Response:
    """Return the bytes from `start` as they are written.

    A range without an end moves the start. Other ranges are ignored, because the log has no end yet.
    """
    response = Response()
    requested = _requested_range()
    if requested is not None and (requested.ranges[0][1] is None or requested.ranges[0][1] > LIVE_END):
        first = _first_byte(requested, length - start)
        start += first
        response.status_code = 206
        response.headers["Content-Range"] = f"bytes {first}-{LIVE_END}/*"
    response.response = iter(())  # an iterator, or the response to a HEAD would have a length of 0
    if request.method != "HEAD":
        events = follow(start)
        response.response = _log_bytes(events)
        response.call_on_close(events.close)
    response.headers["X-Accel-Buffering"] = "no"
    return response


def _timed(path: Path, start: int, length: int, follow: Callable[[int], RunEvents] | None) -> Response:
    """Return the bytes from `start` with the time of each line before it; as they are written if `follow` is given.

    A range cannot be requested, because the times are not part of the log.
    """
    response = Response()
    response.response = iter(())  # an iterator, or the response to a HEAD would have a length of 0
    response.headers["X-Accel-Buffering"] = "no"
    if request.method == "HEAD":
        return response
    times = LineTimes(path)
    response.call_on_close(times.close)
    chunks: Iterator[bytes] = iter(())
    if follow is not None:
        events = follow(start)
        response.call_on_close(events.close)
        chunks = _log_bytes(events)
    elif start < length:
        part = _FilePart(path, start, length)
        response.call_on_close(part.close)
        chunks = iter(partial(part.read, _BLOCK_BYTES), b"")
    response.response = stamped(chunks, start, begins_line(path, start), times)
    return response


def _log_bytes(events: RunEvents) -> Iterator[bytes]:
    """Yield the bytes of the log, and nothing while it is idle.

    The first item is empty, which makes the server send the headers.
    """
    yield b""
    for event in events:
        yield event.data if isinstance(event, LogChunk) else b""


def wants_frames() -> bool:
    """Return whether the client of a followed log asks for frames, whose empty ones show that the server is alive."""
    return LOG_FRAMES in request.accept_mimetypes.values()


def _frames(chunks: Iterator[bytes]) -> Iterator[bytes]:
    for data in chunks:
        yield len(data).to_bytes(4) + data


def _requested_range() -> Range | None:
    """Return the requested range of bytes. Several ranges, other units and malformed ranges count as none."""
    requested = request.range
    return requested if requested is not None and requested.units == "bytes" and len(requested.ranges) == 1 else None


def _first_byte(requested: Range, length: int) -> int:
    """Return the first byte of the range. A suffix longer than the log is the whole log."""
    first = requested.ranges[0][0]
    return first if first >= 0 else max(0, length + first)


def _within(requested: Range, length: int) -> tuple[int, int] | None:
    """Return the first byte and the end of a range within `length` bytes; None if none of them is in it."""
    first, stop = _first_byte(requested, length), requested.ranges[0][1]
    stop = length if stop is None else min(stop, length)
    return (first, stop) if first < stop else None


def _is_range_allowed(identity: str) -> bool:
    """Return whether `If-Range` allows the range. The ETag of a shorter state does: its bytes have not changed."""
    condition = request.if_range
    if condition.etag is None:
        return condition.date is None
    return condition.etag.rpartition("-")[0] == identity


def read_sent_text() -> bytes:
    """Return the bytes that a client sends for a log.

    * A JSON string, or each string of a list, gets a line feed at its end if it has none.
    * JSON that is declared as a form, as curl does by default, is read as JSON.
    * Any other body is not changed.

    Raises Invalid for invalid JSON.
    """
    data = request.get_data()
    if not request.is_json and not (request.mimetype in FORMS and looks_like_json(data, b'"[')):
        return data
    try:
        lines = json.loads(data)
    except (ValueError, RecursionError):
        raise Invalid([Problem("", "The body is not valid JSON.")]) from None
    lines = [lines] if isinstance(lines, str) else lines
    if not isinstance(lines, list) or not all(isinstance(line, str) for line in lines):
        raise Invalid([Problem("", "The body must be a JSON string or a list of strings.")])
    return "".join(line if line.endswith("\n") else f"{line}\n" for line in lines).encode(errors="replace")


class _FilePart(io.RawIOBase):
    """A part of a file, to be read once. Its descriptor is at the first byte, so that a server can use `sendfile`."""

    def __init__(self, path: Path, first: int, stop: int) -> None:
        self._file = path.open("rb", buffering=0)
        self._file.seek(first)
        self._remaining = stop - first

    def fileno(self) -> int:
        return self._file.fileno()

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Move the descriptor. `socket.sendfile` sets the position that it reached; nothing is read after that."""
        return self._file.seek(offset, whence)

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        data = self._file.read(min(size, self._remaining) if size >= 0 else self._remaining)
        self._remaining -= len(data)
        return data

    def close(self) -> None:
        self._file.close()
        super().close()
