"""A window on a log: some of its lines, as a terminal would show them, and the lines that have a text."""

from __future__ import annotations

import codecs
import time
from collections.abc import Iterator
from dataclasses import dataclass

from polyjob.logs import ansi
from polyjob.logs.line_index import Lines

LINE_LIMIT = 16 << 10
"""Bytes of one line that are shown."""
ANSWER_LIMIT = 512 << 10
"""Bytes of lines in one answer, or one line more."""
_LOOK_BACK = 16 << 10
"""Bytes in front of a window that are looked at for the style it begins in."""
_WINDOW = 256 << 10
_SEARCHED = 1 << 20
"""Bytes that are searched at once."""
SEARCHED_OF_A_LINE = 8 << 20


@dataclass(frozen=True)
class Line:
    number: int
    """Counted from 1."""
    offset: int
    bytes: int
    """Without its line feed."""
    is_cut: bool
    spans: list[ansi.Span]

    @property
    def text(self) -> str:
        return "".join(text for _, text in self.spans)


def read_lines(log: Lines, first: int, count: int) -> list[Line]:
    """At most `count` lines from line `first` on, counted from 1, within ANSWER_LIMIT; negative from the end."""
    number = max(0, log.total + first) if first < 0 else first - 1
    offset = log.start(number)
    style = style_at(log, offset)
    found: list[Line] = []
    used = 0
    for start, length, data, is_cut in _pieces(log, number, offset):
        if len(found) >= count or used >= ANSWER_LIMIT:
            break
        spans, style = ansi.spans(_decoded(data, is_cut), style)
        found.append(Line(number + 1, start, length, is_cut, spans))
        used += len(data)
        number += 1
    return found


def _pieces(log: Lines, number: int, offset: int) -> Iterator[tuple[int, int, bytes, bool]]:
    """(first byte, length, what is shown of it, whether there is more) of each line from this one on."""
    while offset < log.length:
        window = log.read(offset, _WINDOW)
        *lines, rest = window.split(b"\n")
        if offset + len(window) >= log.length and rest:
            lines.append(rest)
        elif not lines:
            stop = log.start(number + 1)
            length = stop - offset - (log.read(stop - 1, 1) == b"\n")
            yield offset, length, *_shown_of_long(log, offset, length)
            offset, number = stop, number + 1
            continue
        for line in lines:
            is_long = len(line) > LINE_LIMIT
            yield offset, len(line), *(_shown_of_long(log, offset, len(line)) if is_long else (line, False))
            offset, number = offset + len(line) + 1, number + 1


def _shown_of_long(log: Lines, offset: int, length: int) -> tuple[bytes, bool]:
    """Its beginning; of one that was written over again and again, its last state, whole."""
    end = log.read(offset + length - LINE_LIMIT, LINE_LIMIT).rstrip(b"\r")
    _, back, last = end.rpartition(b"\r")
    return (last, False) if back else (log.read(offset, LINE_LIMIT), True)


def _decoded(data: bytes, is_cut: bool) -> str:
    """What is not UTF-8 is replaced; a character that the cut went through is left out."""
    return codecs.getincrementaldecoder("utf-8")("replace").decode(data, final=not is_cut)


def style_at(log: Lines, offset: int) -> ansi.Style:
    """The style that was set shortly before."""
    begin = max(0, offset - _LOOK_BACK)
    before = log.read(begin, offset - begin)
    return ansi.carried(before.decode(errors="replace")) if b"\x1b" in before else ansi.PLAIN


@dataclass(frozen=True)
class Found:
    lines: list[int]
    """Counted from 1."""
    searched_to: int
    """The last line that was looked at."""
    is_cut: bool
    """There are lines behind it."""
    total: int


def find_lines(log: Lines, text: str, after: int, count: int, seconds: float) -> Found:
    """The first `count` lines behind line `after` that show this text, the case of ASCII letters aside; as many as
    are found in so many seconds. Of a line, SEARCHED_OF_A_LINE bytes are looked at."""
    wanted = text.encode(errors="replace").lower()
    deadline = time.monotonic() + seconds
    found: list[int] = []
    searched = min(after, log.total)
    for data in _whole_lines(log, searched):
        for line in _lines_with(wanted, data):
            found.append(searched + line + 1)
            if len(found) >= count:
                return Found(found, found[-1], found[-1] < log.total, log.total)
        searched += data.count(b"\n") + (not data.endswith(b"\n"))
        if time.monotonic() > deadline:
            break
    return Found(found, searched, searched < log.total, log.total)


def _whole_lines(log: Lines, number: int) -> Iterator[bytes]:
    """The log from this line on, in pieces of whole lines; a line that is too long is cut."""
    offset = log.start(number)
    while offset < log.length:
        data = log.read(offset, _SEARCHED)
        stop = data.rfind(b"\n") + 1
        if offset + len(data) < log.length and not stop:
            data = log.read(offset, SEARCHED_OF_A_LINE)
            stop = data.find(b"\n") + 1
            if not stop and offset + len(data) < log.length:
                yield data
                number += 1
                offset = log.start(number)
                continue
        data = data[:stop] if stop else data
        yield data
        number += data.count(b"\n")
        offset += len(data)


def _lines_with(wanted: bytes, data: bytes) -> Iterator[int]:
    """Which lines of this piece show it, counted from 0."""
    data = (ansi.ESCAPES.sub(b"", data) if b"\x1b" in data else data).lower()
    line = counted_to = 0
    position = data.find(wanted)
    while position >= 0:
        line += data.count(b"\n", counted_to, position)
        start, stop = data.rfind(b"\n", 0, position) + 1, data.find(b"\n", position)
        stop = len(data) if stop < 0 else stop
        counted_to = stop
        if b"\r" not in data[start:stop] or wanted in data[start:stop].rstrip(b"\r").rpartition(b"\r")[2]:
            yield line
        position = data.find(wanted, stop)
