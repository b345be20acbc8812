"""Convert a line of terminal output to spans of text with style classes.

* Colours are the sixteen of a terminal, `fg-0` to `fg-15` and `bg-0` to `bg-15`. Others are mapped to the nearest one.
* `fg-paper` and `bg-ink` are the default colours in reverse video.
* The other classes are `bold`, `dim`, `italic`, `underline` and `strike`.
* Other escape sequences are left out.
* If a line is overwritten with carriage returns, such as a progress bar, its last state is shown.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator
from typing import NamedTuple

_TOKENS = re.compile(
    r"\x1b\[(?P<style>[0-9;:]*)m"
    r"|\x1b(?:\[[0-?]*[ -/]*[@-~]|[\]PX^_][^\x07\x1b]*(?:\x07|\x1b\\)|[ -/]*[0-~])"
    r"|(?P<carriage_return>\r)"
)
"""A style, another escape sequence (cursor movement, title, link), or a carriage return."""
ESCAPES = re.compile(rb"\x1b(?:\[[0-?]*[ -/]*[@-~]|[\]PX^_][^\x07\x1b\n]*(?:\x07|\x1b\\)|[ -/]*[0-~])")
"""Escape sequences in bytes. None spans a line feed."""
_CONTROL_PICTURES = {code: 0x2400 + code for code in range(32) if chr(code) not in "\t\n"} | {127: 0x2421}
"""Control characters, mapped to the visible characters that stand for them."""
_ATTRIBUTES = {1: "bold", 2: "dim", 3: "italic", 4: "underline", 7: "reverse", 9: "strike", 21: "underline"}
_ATTRIBUTE_ENDS = {22: ("bold", "dim"), 23: ("italic",), 24: ("underline",), 27: ("reverse",), 29: ("strike",)}
_PALETTE = (
    (0, 0, 0), (205, 0, 0), (0, 205, 0), (205, 205, 0), (0, 0, 238), (205, 0, 205), (0, 205, 205), (229, 229, 229),
    (127, 127, 127), (255, 0, 0), (0, 255, 0), (255, 255, 0), (92, 92, 255), (255, 0, 255), (0, 255, 255),
    (255, 255, 255),
)  # fmt: skip
_CUBE = (0, 95, 135, 175, 215, 255)

Span = tuple[str, str]
"""(style classes separated by blanks, text)"""


class Style(NamedTuple):
    """The colours and attributes of text."""

    foreground: int | None = None
    background: int | None = None
    attributes: frozenset[str] = frozenset()


DEFAULT_STYLE = Style()


def spans(line: str, style: Style = DEFAULT_STYLE) -> tuple[list[Span], Style]:
    """Return the visible spans of a line that begins in `style`, and the style after it."""
    line_spans: list[Span] = []
    position = 0
    line = line.rstrip("\r")
    for token in _TOKENS.finditer(line):
        _add_span(line_spans, style, line[position : token.start()])
        position = token.end()
        if token["carriage_return"]:
            line_spans.clear()
        elif token["style"] is not None:
            style = _apply(style, token["style"])
    _add_span(line_spans, style, line[position:])
    return line_spans, style


def style_after(text: str, style: Style = DEFAULT_STYLE) -> Style:
    """Return the style after this text."""
    for token in _TOKENS.finditer(text):
        if token["style"] is not None:
            style = _apply(style, token["style"])
    return style


def plain_text(line: str) -> str:
    """Return the visible text of a line."""
    return "".join(text for _, text in spans(line)[0])


def _add_span(line_spans: list[Span], style: Style, text: str) -> None:
    """Add text, merged with the last span if that has the same style."""
    if not text:
        return
    classes, text = _classes(style), text.translate(_CONTROL_PICTURES)
    if line_spans and line_spans[-1][0] == classes:
        text = line_spans.pop()[1] + text
    line_spans.append((classes, text))


@functools.lru_cache(1024)
def _classes(style: Style) -> str:
    front, back, attributes = style
    foreground = f"fg-{front}" if front is not None else ""
    background = f"bg-{back}" if back is not None else ""
    if "reverse" in attributes:
        foreground, background = (
            f"fg-{back}" if back is not None else "fg-paper",
            f"bg-{front}" if front is not None else "bg-ink",
        )
    return " ".join(filter(None, [foreground, background, *sorted(attributes - {"reverse"})]))


@functools.lru_cache(1024)
def _apply(style: Style, sequence: str) -> Style:
    """Return the style after one sequence. Unknown codes change nothing."""
    foreground, background, attributes = style
    codes = _codes(sequence)
    for code in codes:
        if code == 0:
            foreground, background, attributes = DEFAULT_STYLE
        elif code in _ATTRIBUTES:
            attributes |= {_ATTRIBUTES[code]}
        elif code in _ATTRIBUTE_ENDS:
            attributes -= {*_ATTRIBUTE_ENDS[code]}
        elif code == 38:
            foreground = _extended(codes, foreground)
        elif code == 48:
            background = _extended(codes, background)
        elif 30 <= code <= 37 or 90 <= code <= 97:
            foreground = code - 30 if code < 90 else code - 82
        elif 40 <= code <= 47 or 100 <= code <= 107:
            background = code - 40 if code < 100 else code - 92
        elif code == 39:
            foreground = None
        elif code == 49:
            background = None
    return Style(foreground, background, attributes)


def _codes(sequence: str) -> Iterator[int]:
    """Yield the codes of a sequence; an empty part is 0.

    Of parts with subparameters, separated by colons, the forms that terminals agree on are supported.
    """
    for part in sequence.split(";"):
        first, *rest = part.split(":")
        if not rest:
            yield _number(first)
        elif first in ("38", "48"):
            colour = rest[-3:] if rest[0] == "2" else rest[1:2]
            yield from map(_number, [first, rest[0], *colour])
        elif rest[0] != "0":
            yield _number(first)
        else:
            yield 24  # `4:0` ends underlining


def _number(text: str) -> int:
    """Return the code; 0 for an empty text, and -1, which means nothing, for a long one."""
    return int(text) if text and len(text) < 6 else 0 if not text else -1


def _extended(codes: Iterator[int], unchanged: int | None) -> int | None:
    """Return the colour given by the codes after `38` or `48`; `unchanged` if they are not valid."""
    kind = next(codes, -1)
    if kind == 5:
        index = next(codes, -1)
        return _of_256(index) if 0 <= index < 256 else unchanged
    if kind == 2:
        red, green, blue = (next(codes, -1) for _ in range(3))
        return _nearest(red, green, blue) if all(0 <= part < 256 for part in (red, green, blue)) else unchanged
    return unchanged


def _of_256(index: int) -> int:
    """Return the nearest of the sixteen colours to one of the 256."""
    if index < 16:
        return index
    if index >= 232:
        grey = 8 + 10 * (index - 232)
        return _nearest(grey, grey, grey)
    index -= 16
    return _nearest(_CUBE[index // 36], _CUBE[index // 6 % 6], _CUBE[index % 6])


@functools.lru_cache(4096)
def _nearest(red: int, green: int, blue: int) -> int:
    """Return the nearest of the sixteen colours, with red, green and blue weighted as eyes perceive them."""

    def distance(index: int) -> int:
        other = _PALETTE[index]
        return 3 * (red - other[0]) ** 2 + 4 * (green - other[1]) ** 2 + 2 * (blue - other[2]) ** 2

    return min(range(16), key=distance)
