"""Read some lines of a log, as a terminal would show them, and search for a text."""

from __future__ import annotations

import codecs
import time
from collections.abc import Iterator
from dataclasses import dataclass

from polyjob.logs import ansi
from polyjob.logs.line_index import LogLines

MAX_LINE_BYTES = 16 << 10
"""Bytes of one line that are returned."""
MAX_RESPONSE_BYTES = 512 << 10
"""Bytes of lines in one response, exceeded by at most one line."""
_STYLE_LOOKBACK_BYTES = 16 << 10
"""Bytes before a window that are read to find the style in which it begins."""
_WINDOW_BYTES = 256 << 10
_SEARCH_BLOCK_BYTES = 1 << 20
"""Bytes that are searched in one step."""
MAX_SEARCHED_LINE_BYTES = 8 << 20
"""Bytes of one line that are searched."""


@dataclass(frozen=True)
class Line:
    """A line as a terminal would show it."""

    number: int
    """Counted from 1."""
    offset: int
    bytes: int
    """Length without the line feed."""
    is_cut: bool
    spans: list[ansi.Span]

    @property
    def text(self) -> str:
        return "".join(text for _, text in self.spans)


def read_lines(log: LogLines, first: int, count: int) -> list[Line]:
    """Return at most `count` lines from line `first` on, up to `MAX_RESPONSE_BYTES`.

    Lines count from 1; a negative number counts from the end.
    """
    number = max(0, log.total + first) if first < 0 else first - 1
    offset = log.start(number)
    style = style_at(log, offset)
    lines: list[Line] = []
    used_bytes = 0
    for start, length, data, is_cut in _raw_lines(log, number, offset):
        if len(lines) >= count or used_bytes >= MAX_RESPONSE_BYTES:
            break
        spans, style = ansi.spans(_decode(data, is_cut), style)
        lines.append(Line(number + 1, start, length, is_cut, spans))
        used_bytes += len(data)
        number += 1
    return lines


def _raw_lines(log: LogLines, number: int, offset: int) -> Iterator[tuple[int, int, bytes, bool]]:
    """Yield (offset, length, shown bytes, whether there are more) of each line from this one on."""
    while offset < log.length:
        window = log.read(offset, _WINDOW_BYTES)
        *lines, rest = window.split(b"\n")
        if offset + len(window) >= log.length and rest:
            lines.append(rest)
        elif not lines:
            stop = log.start(number + 1)
            length = stop - offset - (log.read(stop - 1, 1) == b"\n")
            yield offset, length, *_shown_part(log, offset, length)
            offset, number = stop, number + 1
            continue
        for line in lines:
            is_long = len(line) > MAX_LINE_BYTES
            yield offset, len(line), *(_shown_part(log, offset, len(line)) if is_long else (line, False))
            offset, number = offset + len(line) + 1, number + 1


def _shown_part(log: LogLines, offset: int, length: int) -> tuple[bytes, bool]:
    """Return the shown bytes of a long line, and whether there are more.

    Of a line that was overwritten, its last state is shown, else its beginning.
    """
    end = log.read(offset + length - MAX_LINE_BYTES, MAX_LINE_BYTES).rstrip(b"\r")
    _, carriage_return, last = end.rpartition(b"\r")
    return (last, False) if carriage_return else (log.read(offset, MAX_LINE_BYTES), True)


def _decode(data: bytes, is_cut: bool) -> str:
    """Decode UTF-8. Invalid bytes are replaced, and a character at the cut is left out if it is incomplete."""
    return codecs.getincrementaldecoder("utf-8")("replace").decode(data, final=not is_cut)


def style_at(log: LogLines, offset: int) -> ansi.Style:
    """Return the style in which the text at this offset begins, as set shortly before."""
    begin = max(0, offset - _STYLE_LOOKBACK_BYTES)
    before = log.read(begin, offset - begin)
    return ansi.style_after(before.decode(errors="replace")) if b"\x1b" in before else ansi.DEFAULT_STYLE


@dataclass(frozen=True)
class SearchResult:
    """The lines that contain a text."""

    lines: list[int]
    """Counted from 1."""
    searched_to: int
    """The last line that was searched."""
    is_cut: bool
    """True if lines after it were not searched."""
    total: int


def find_lines(log: LogLines, text: str, after: int, count: int, seconds: float) -> SearchResult:
    """Return the first `count` lines after line `after` that show this text.

    The case of ASCII letters is ignored. The search ends after `seconds`, with the lines found so far. Of each line,
    `MAX_SEARCHED_LINE_BYTES` are searched.
    """
    pattern = text.encode(errors="replace").lower()
    deadline = time.monotonic() + seconds
    matches: list[int] = []
    searched_to = min(after, log.total)
    for data in _line_blocks(log, searched_to):
        for line in _matching_lines(pattern, data):
            matches.append(searched_to + line + 1)
            if len(matches) >= count:
                return SearchResult(matches, matches[-1], matches[-1] < log.total, log.total)
        searched_to += data.count(b"\n") + (not data.endswith(b"\n"))
        if time.monotonic() > deadline:
            break
    return SearchResult(matches, searched_to, searched_to < log.total, log.total)


def _line_blocks(log: LogLines, number: int) -> Iterator[bytes]:
    """Yield the log from this line on in blocks of complete lines. A line that is too long is cut."""
    offset = log.start(number)
    while offset < log.length:
        data = log.read(offset, _SEARCH_BLOCK_BYTES)
        stop = data.rfind(b"\n") + 1
        if offset + len(data) < log.length and not stop:
            data = log.read(offset, MAX_SEARCHED_LINE_BYTES)
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


def _matching_lines(pattern: bytes, data: bytes) -> Iterator[int]:
    """Yield the numbers of the lines of this block that show the pattern, counted from 0."""
    data = (ansi.ESCAPES.sub(b"", data) if b"\x1b" in data else data).lower()
    line = counted_to = 0
    position = data.find(pattern)
    while position >= 0:
        line += data.count(b"\n", counted_to, position)
        start, stop = data.rfind(b"\n", 0, position) + 1, data.find(b"\n", position)
        stop = len(data) if stop < 0 else stop
        counted_to = stop
        if b"\r" not in data[start:stop] or pattern in data[start:stop].rstrip(b"\r").rpartition(b"\r")[2]:
            yield line
        position = data.find(pattern, stop)
