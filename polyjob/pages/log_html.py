"""Convert a log to rows of HTML while it is being read."""

from __future__ import annotations

import codecs
import re

from markupsafe import escape

from polyjob.logs import ansi
from polyjob.logs.times import LineTimes

MAX_PENDING_CHARACTERS = 1 << 16
"""Characters of an unfinished line that wait for its end; a longer line is output in parts."""
_LINE_FEED = re.compile(rb"\n")
_INCOMPLETE_END = re.compile(r"(?:(?<!\r)\r+|\x1b(?:\[[0-?]{0,256}[ -/]{0,256}|[\]PX^_][^\x07\x1b]{0,4096})?)$")
"""A carriage return or the start of an escape sequence, whose effect depends on what follows."""


class LogRows:
    """Converts the chunks of a log to HTML, starting at the start of the line `number`, in the style that it has."""

    def __init__(
        self, number: int, style: ansi.Style = ansi.DEFAULT_STYLE, offset: int = 0, times: LineTimes | None = None
    ) -> None:
        """`offset` is the position of that line in the log. With `times`, each row shows when its line was written."""
        self._number = number
        self._offset = self._line_start = offset
        self._times = times
        self._style = style
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._pending = ""
        """The part of the unfinished line that was not output yet."""
        self._is_row_open = False
        """True if a part of the unfinished line was output already."""

    def add(self, data: bytes) -> str:
        """Return the rows of all lines that end within the data."""
        *lines, self._pending = (self._pending + self._decoder.decode(data)).split("\n")
        html = ""
        for line, line_feed in zip(lines, _LINE_FEED.finditer(data), strict=True):
            html += self._finish_row(line)
            self._line_start = self._offset + line_feed.end()
        self._offset += len(data)
        return html + self.flush() if len(self._pending) > MAX_PENDING_CHARACTERS else html

    def flush(self) -> str:
        """Return the pending part of the unfinished line, as an open row.

        An incomplete sequence at its end stays pending.
        """
        incomplete = _INCOMPLETE_END.search(self._pending)
        end = incomplete.start() if incomplete else len(self._pending)
        text, self._pending = self._pending[:end], self._pending[end:]
        if self._pending.startswith("\r"):
            self._pending = "\r"  # several in a row have the effect of one, and their number is not bounded
        return self._extend_row(text) if text else ""

    def end(self) -> str:
        """Return the last row, if there is one. Nothing can be added afterwards."""
        self._pending += self._decoder.decode(b"", final=True)
        return self._finish_row(self._pending) if self._pending or self._is_row_open else ""

    def _finish_row(self, line: str) -> str:
        html = self._extend_row(line) + "\n</div>"
        self._is_row_open = False
        self._number += 1
        return html

    def _extend_row(self, text: str) -> str:
        """Return the text at the end of the open row; open one if needed.

        Text that overwrites the row gets a new one, because earlier output cannot be changed.
        """
        html = ""
        if not self._is_row_open:
            html = f'<div class="row" id="L{self._number}"><a href="#L{self._number}">{self._number}</a>{self._time()}'
        elif "\r" in text.rstrip("\r"):
            html = '\n</div><div class="row"><a></a>'
        self._is_row_open = True
        spans, self._style = ansi.spans(text, self._style)
        return html + "".join(
            f'<span class="{classes}">{escape(part)}</span>' if classes else str(escape(part))
            for classes, part in spans
        )

    def _time(self) -> str:
        """Return the time of the line as HTML; it has the same width if it is not known."""
        if self._times is None:
            return ""
        moment = self._times.at(self._line_start)
        return f'<i class="time">{moment:%Y-%m-%d %H:%M:%S}</i>' if moment else '<i class="time">-</i>'
