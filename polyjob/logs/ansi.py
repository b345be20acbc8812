"""What a terminal would show of a line: its text in spans, each with the classes of its style. Pure.

Colours are the sixteen of a terminal, `fg-0` to `fg-15` and `bg-0` to `bg-15`; of 256 and of millions the nearest one
of them. `fg-paper` and `bg-ink` are the default colours reversed. The rest is `bold`, `dim`, `italic`, `underline` and
`strike`. Other sequences are left out, and of a line that was written over again and again the last state is shown.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator
from typing import NamedTuple

_TOKENS = re.compile(
    r"\x1b\[(?P<style>[0-9;:]*)m"
    r"|\x1b(?:\[[0-?]*[ -/]*[@-~]|[\]PX^_][^\x07\x1b]*(?:\x07|\x1b\\)|[ -/]*[0-~])"
    r"|(?P<back>\r)"
)
"""A style; what else terminals take as cursor movement, title or link; a carriage return."""
ESCAPES = re.compile(rb"\x1b(?:\[[0-?]*[ -/]*[@-~]|[\]PX^_][^\x07\x1b\n]*(?:\x07|\x1b\\)|[ -/]*[0-~])")
"""The same of bytes, without the carriage return; none spans a line feed."""
_PICTURES = {code: 0x2400 + code for code in range(32) if chr(code) not in "\t\n"} | {127: 0x2421}
"""Control characters → the characters that picture them."""
_ATTRIBUTES = {1: "bold", 2: "dim", 3: "italic", 4: "underline", 7: "reverse", 9: "strike", 21: "underline"}
_ENDS = {22: ("bold", "dim"), 23: ("italic",), 24: ("underline",), 27: ("reverse",), 29: ("strike",)}
_PALETTE = (
    (0, 0, 0), (205, 0, 0), (0, 205, 0), (205, 205, 0), (0, 0, 238), (205, 0, 205), (0, 205, 205), (229, 229, 229),
    (127, 127, 127), (255, 0, 0), (0, 255, 0), (255, 255, 0), (92, 92, 255), (255, 0, 255), (0, 255, 255),
    (255, 255, 255),
)  # fmt: skip
_CUBE = (0, 95, 135, 175, 215, 255)

Span = tuple[str, str]
"""(the classes of its style, in one string; its text)"""


class Style(NamedTuple):
    """How a terminal writes on."""

    foreground: int | None = None
    background: int | None = None
    attributes: frozenset[str] = frozenset()


PLAIN = Style()


def spans(line: str, style: Style = PLAIN) -> tuple[list[Span], Style]:
    """What is seen of a line that begins in this style, and the style behind it."""
    found: list[Span] = []
    position = 0
    line = line.rstrip("\r")
    for token in _TOKENS.finditer(line):
        _add(found, style, line[position : token.start()])
        position = token.end()
        if token["back"]:
            found.clear()
        elif token["style"] is not None:
            style = _changed(style, token["style"])
    _add(found, style, line[position:])
    return found, style


def carried(text: str, style: Style = PLAIN) -> Style:
    """The style behind this text."""
    for token in _TOKENS.finditer(text):
        if token["style"] is not None:
            style = _changed(style, token["style"])
    return style


def plain(line: str) -> str:
    """The text alone."""
    return "".join(text for _, text in spans(line)[0])


def _add(found: list[Span], style: Style, text: str) -> None:
    if not text:
        return
    classes, text = _classes(style), text.translate(_PICTURES)
    if found and found[-1][0] == classes:
        text = found.pop()[1] + text
    found.append((classes, text))


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
def _changed(style: Style, sequence: str) -> Style:
    """The style after one sequence. What is not understood changes nothing."""
    foreground, background, attributes = style
    codes = _codes(sequence)
    for code in codes:
        if code == 0:
            foreground, background, attributes = PLAIN
        elif code in _ATTRIBUTES:
            attributes |= {_ATTRIBUTES[code]}
        elif code in _ENDS:
            attributes -= {*_ENDS[code]}
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
    """The numbers of a sequence; an empty one is 0. Of parts in one, by colons, the forms that terminals agree on."""
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
            yield 24  # of `4:0`: no underline


def _number(text: str) -> int:
    return int(text) if text and len(text) < 6 else 0 if not text else -1


def _extended(codes: Iterator[int], unchanged: int | None) -> int | None:
    """The colour that `38` or `48` goes on with; `unchanged` where that is none."""
    kind = next(codes, -1)
    if kind == 5:
        index = next(codes, -1)
        return _of_256(index) if 0 <= index < 256 else unchanged
    if kind == 2:
        red, green, blue = (next(codes, -1) for _ in range(3))
        return _nearest(red, green, blue) if all(0 <= part < 256 for part in (red, green, blue)) else unchanged
    return unchanged


def _of_256(index: int) -> int:
    if index < 16:
        return index
    if index >= 232:
        grey = 8 + 10 * (index - 232)
        return _nearest(grey, grey, grey)
    index -= 16
    return _nearest(_CUBE[index // 36], _CUBE[index // 6 % 6], _CUBE[index % 6])


@functools.lru_cache(4096)
def _nearest(red: int, green: int, blue: int) -> int:
    """By distance, with the weight that eyes give each part."""

    def distance(number: int) -> int:
        other = _PALETTE[number]
        return 3 * (red - other[0]) ** 2 + 4 * (green - other[1]) ** 2 + 2 * (blue - other[2]) ** 2

    return min(range(16), key=distance)
