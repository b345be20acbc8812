"""The kubelet's log API: reads the CRI's log file, and follows it across rotation."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import BinaryIO

from tests.simulators.kubernetes.answers import RequestRefused, invalid

CHUNK_BYTES = 1 << 16


@dataclass(frozen=True)
class LogQuery:
    """The parameters of a log request."""

    follow: bool = False
    timestamps: bool = False
    since: str | None = None
    """Entries before this time are left out. Written like a time in the log."""
    tail: int | None = None
    limit: int | None = None
    zone: int = 0
    """Time zone of the node, in minutes ahead of UTC. The timestamps of its logs have it."""


def parse_query(query: dict[str, str], zone: int = 0) -> LogQuery:
    """Parse the parameters. Raises RequestRefused for invalid values or combinations."""
    since = None
    if "sinceTime" in query and "sinceSeconds" in query:
        text = "Forbidden: at most one of `sinceTime` or `sinceSeconds` may be specified"
        raise invalid("PodLogOptions", "", [("", "FieldValueForbidden", text)])
    if "sinceTime" in query:
        since = _whole_seconds(query["sinceTime"])
    if "sinceSeconds" in query:
        since = _text(time.time() - _parse_number(query, "sinceSeconds", 1))
    return LogQuery(
        follow=query.get("follow") in ("true", "True", "1"),
        timestamps=query.get("timestamps") in ("true", "True", "1"),
        since=since,
        tail=_parse_number(query, "tailLines", 0) if "tailLines" in query else None,
        limit=_parse_number(query, "limitBytes", 1) if "limitBytes" in query else None,
        zone=zone,
    )


def _parse_number(query: dict[str, str], name: str, least: int) -> int:
    try:
        number = int(query[name])
    except ValueError:
        raise RequestRefused(400, f'strconv.ParseInt: parsing "{query[name]}": invalid syntax') from None
    if number < least:
        text = f"Invalid value: {number}: must be greater than or equal to {least}"
        raise invalid("PodLogOptions", "", [(name, "FieldValueInvalid", text)])
    return number


def _whole_seconds(text: str) -> str:
    """Truncate a time to whole seconds, as the API server does on its way to the kubelet."""
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        moment = None
    if moment is None or moment.tzinfo is None:
        raise RequestRefused(400, f'parsing time "{text}" as "2006-01-02T15:04:05Z07:00": cannot parse "{text}"')
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.000000000Z")


def _zoned(stamp: bytes, minutes: int) -> bytes:
    """Return a timestamp of the file in the node's time zone."""
    if not minutes:
        return stamp
    local = datetime.fromisoformat(stamp[:19].decode()) + timedelta(minutes=minutes)
    hours, rest = divmod(abs(minutes), 60)
    return f"{local.isoformat()}{stamp[19:29].decode()}{'-' if minutes < 0 else '+'}{hours:02}:{rest:02}".encode()


def _text(moment: float) -> str:
    return datetime.fromtimestamp(moment, UTC).strftime("%Y-%m-%dT%H:%M:%S.%f") + "000Z"


def read(path: Path, query: LogQuery, is_over: Callable[[], bool]) -> Iterator[bytes]:
    """Yield the log in chunks. A followed log goes on until `is_over`, across rotation; b"" = no data for now.

    Each line of a followed log is a chunk of its own, as from a kubelet."""
    remaining = query.limit
    for chunk in _chunks(path, query, is_over):
        if remaining is not None:
            chunk = chunk[:remaining]
            remaining -= len(chunk)
        yield chunk
        if remaining == 0:
            return


def _chunks(path: Path, query: LogQuery, is_over: Callable[[], bool]) -> Iterator[bytes]:
    out: list[bytes] = []
    size = 0
    begins = True
    for line in _lines(path, query, is_over):
        if line:
            stamp, _, tag, text = line.split(b" ", 3)
            is_first, begins = begins, tag == b"F"
            if query.since and stamp.decode() < query.since:
                continue
            if query.timestamps and is_first:
                text = _zoned(stamp, query.zone) + b" " + text
            out.append(text if begins else text[:-1])
            size += len(text)
        if size >= CHUNK_BYTES or (query.follow and out):
            yield b"".join(out)
            out, size = [], 0
        elif not line:
            yield b""
    if out:
        yield b"".join(out)


def _lines(path: Path, query: LogQuery, is_over: Callable[[], bool]) -> Iterator[bytes]:
    """Yield complete lines of the file; b"" = a followed file has no more for now."""
    try:
        file = path.open("rb")
    except FileNotFoundError:
        return
    try:
        if query.tail is not None:
            _seek_tail(file, query.tail)
        rest = b""
        while True:
            over = is_over() if query.follow else True
            for line in file:
                rest += line
                if rest.endswith(b"\n"):
                    yield rest
                    rest = b""
            turned = _turned(file, path) if query.follow else None
            if turned is not None:
                for line in file:
                    yield line
                file.close()
                file, rest = turned, b""
                continue
            if over:
                return
            yield b""
            time.sleep(0.03)
    finally:
        file.close()


def _turned(file: BinaryIO, path: Path) -> BinaryIO | None:
    """Return the file that replaced this one by rotation, if any."""
    try:
        fresh = path.open("rb")
    except FileNotFoundError:
        return None
    if os.fstat(fresh.fileno()).st_ino == os.fstat(file.fileno()).st_ino:
        fresh.close()
        return None
    return fresh


def _seek_tail(file: BinaryIO, lines: int) -> None:
    """Move to the last lines of the file."""
    file.seek(0, 2)
    end = file.tell()
    if lines == 0:
        return
    line_count, position = -1, end
    while position > 0:
        begin = max(0, position - CHUNK_BYTES)
        file.seek(begin)
        block = file.read(position - begin)
        at = len(block)
        while (at := block.rfind(b"\n", 0, at)) >= 0:
            line_count += 1
            if line_count == lines:
                file.seek(begin + at + 1)
                return
        position = begin
    file.seek(0)
