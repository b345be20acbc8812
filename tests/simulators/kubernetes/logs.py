"""A container's log as the kubelet tells it: read from the CRI's file, followed across rotation."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import BinaryIO

from tests.simulators.kubernetes.answers import Refused, invalid

PIECE = 1 << 16


@dataclass(frozen=True)
class Wanted:
    """What a request asks of a log."""

    follow: bool = False
    timestamps: bool = False
    since: str | None = None
    """Nothing older; a time as it stands in the log."""
    tail: int | None = None
    limit: int | None = None
    zone: int = 0
    """Minutes by which the node's clock is ahead of UTC; its logs are stamped so."""


def wanted(query: dict[str, str], zone: int = 0) -> Wanted:
    """Raises Refused for values that do not go, alone or together."""
    since = None
    if "sinceTime" in query and "sinceSeconds" in query:
        text = "Forbidden: at most one of `sinceTime` or `sinceSeconds` may be specified"
        raise invalid("PodLogOptions", "", [("", "FieldValueForbidden", text)])
    if "sinceTime" in query:
        since = _whole_seconds(query["sinceTime"])
    if "sinceSeconds" in query:
        since = _text(time.time() - _number(query, "sinceSeconds", 1))
    return Wanted(
        follow=query.get("follow") in ("true", "True", "1"),
        timestamps=query.get("timestamps") in ("true", "True", "1"),
        since=since,
        tail=_number(query, "tailLines", 0) if "tailLines" in query else None,
        limit=_number(query, "limitBytes", 1) if "limitBytes" in query else None,
        zone=zone,
    )


def _number(query: dict[str, str], name: str, least: int) -> int:
    try:
        number = int(query[name])
    except ValueError:
        raise Refused(400, f'strconv.ParseInt: parsing "{query[name]}": invalid syntax') from None
    if number < least:
        text = f"Invalid value: {number}: must be greater than or equal to {least}"
        raise invalid("PodLogOptions", "", [(name, "FieldValueInvalid", text)])
    return number


def _whole_seconds(text: str) -> str:
    """A time has whole seconds on its way from the API server to the kubelet, whatever the client wrote."""
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        moment = None
    if moment is None or moment.tzinfo is None:
        raise Refused(400, f'parsing time "{text}" as "2006-01-02T15:04:05Z07:00": cannot parse "{text}"')
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.000000000Z")


def _zoned(stamp: bytes, minutes: int) -> bytes:
    """A time of the file as the node's zone has it."""
    if not minutes:
        return stamp
    there = datetime.fromisoformat(stamp[:19].decode()) + timedelta(minutes=minutes)
    hours, rest = divmod(abs(minutes), 60)
    return f"{there.isoformat()}{stamp[19:29].decode()}{'-' if minutes < 0 else '+'}{hours:02}:{rest:02}".encode()


def _text(moment: float) -> str:
    return datetime.fromtimestamp(moment, UTC).strftime("%Y-%m-%dT%H:%M:%S.%f") + "000Z"


def read(path: Path, wanted: Wanted, is_over: Callable[[], bool]) -> Iterator[bytes]:
    """The log in pieces. A followed one goes on until `is_over`, through rotation; b"" while nothing comes.

    Of a followed log each line is a piece of its own, as a kubelet sends it."""
    left = wanted.limit
    for piece in _pieces(path, wanted, is_over):
        if left is not None:
            piece = piece[:left]
            left -= len(piece)
        yield piece
        if left == 0:
            return


def _pieces(path: Path, wanted: Wanted, is_over: Callable[[], bool]) -> Iterator[bytes]:
    out: list[bytes] = []
    size = 0
    begins = True
    for line in _lines(path, wanted, is_over):
        if line:
            stamp, _, tag, text = line.split(b" ", 3)
            is_first, begins = begins, tag == b"F"
            if wanted.since and stamp.decode() < wanted.since:
                continue
            if wanted.timestamps and is_first:
                text = _zoned(stamp, wanted.zone) + b" " + text
            out.append(text if begins else text[:-1])
            size += len(text)
        if size >= PIECE or (wanted.follow and out):
            yield b"".join(out)
            out, size = [], 0
        elif not line:
            yield b""
    if out:
        yield b"".join(out)


def _lines(path: Path, wanted: Wanted, is_over: Callable[[], bool]) -> Iterator[bytes]:
    """Whole lines of the file; b"" while a followed one has no more for now."""
    try:
        file = path.open("rb")
    except FileNotFoundError:
        return
    try:
        if wanted.tail is not None:
            _seek_tail(file, wanted.tail)
        rest = b""
        while True:
            over = is_over() if wanted.follow else True
            for line in file:
                rest += line
                if rest.endswith(b"\n"):
                    yield rest
                    rest = b""
            turned = _turned(file, path) if wanted.follow else None
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
    """The file that has taken this one's place, if one has."""
    try:
        fresh = path.open("rb")
    except FileNotFoundError:
        return None
    if os.fstat(fresh.fileno()).st_ino == os.fstat(file.fileno()).st_ino:
        fresh.close()
        return None
    return fresh


def _seek_tail(file: BinaryIO, lines: int) -> None:
    """Stand before the last so many lines."""
    file.seek(0, 2)
    end = file.tell()
    if lines == 0:
        return
    found, position = -1, end
    while position > 0:
        begin = max(0, position - PIECE)
        file.seek(begin)
        block = file.read(position - begin)
        at = len(block)
        while (at := block.rfind(b"\n", 0, at)) >= 0:
            found += 1
            if found == lines:
                file.seek(begin + at + 1)
                return
        position = begin
    file.seek(0)
