"""A log's bytes as rows of HTML, one after the other as they come; everything in them is text."""

from __future__ import annotations

import codecs
import re

from markupsafe import escape

from polyjob.logs import ansi

LONGEST = 1 << 16
"""Characters of a line that are held back until it is ended."""
_HELD_BACK = re.compile(r"(?:(?<!\r)\r+|\x1b(?:\[[0-?]{0,256}[ -/]{0,256}|[\]PX^_][^\x07\x1b]{0,4096})?)$")
"""What says nothing until more is there: what a carriage return makes room for, a sequence that is not whole."""


class Rows:
    """Takes a log in pieces, from the begin of the line with this number on, which begins in this style."""

    def __init__(self, number: int, style: ansi.Style = ansi.PLAIN) -> None:
        self._number = number
        self._style = style
        self._text = codecs.getincrementaldecoder("utf-8")("replace")
        self._line = ""
        """What is there of the line that is not ended, and not shown."""
        self._is_open = False
        """Some of it is shown already."""

    def add(self, data: bytes) -> str:
        """The rows of the lines that these bytes end."""
        *lines, self._line = (self._line + self._text.decode(data)).split("\n")
        html = "".join(map(self._ended, lines))
        return html + self.so_far() if len(self._line) > LONGEST else html

    def so_far(self) -> str:
        """What is there of the line that is not ended; empty where that was shown already."""
        held = _HELD_BACK.search(self._line)
        end = held.start() if held else len(self._line)
        shown, self._line = self._line[:end], self._line[end:]
        if self._line.startswith("\r"):
            self._line = "\r"  # more of them say no more, and there may be any number
        return self._begun(shown) if shown else ""

    def end(self) -> str:
        """The last row, where there is one; nothing may follow."""
        self._line += self._text.decode(b"", final=True)
        return self._ended(self._line) if self._line or self._is_open else ""

    def _ended(self, line: str) -> str:
        html = self._begun(line) + "\n</div>"
        self._is_open = False
        self._number += 1
        return html

    def _begun(self, text: str) -> str:
        """The text at the end of an open row. One that is written over what stands there gets a row of its own."""
        html = ""
        if not self._is_open:
            html = f'<div class="row" id="L{self._number}"><a href="#L{self._number}">{self._number}</a>'
        elif "\r" in text.rstrip("\r"):
            html = '\n</div><div class="row"><a></a>'
        self._is_open = True
        spans, self._style = ansi.spans(text, self._style)
        return html + "".join(
            f'<span class="{classes}">{escape(said)}</span>' if classes else str(escape(said))
            for classes, said in spans
        )
