"""Terminal output as spans with style classes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from polyjob.logs import ansi

E = "\x1b"
PIECES = st.sampled_from(
    [E, f"{E}[", f"{E}[31m", f"{E}[0m", f"{E}[38;5;", "9m", f"{E}]0;t\x07", f"{E}[K", "\r", "a", "é", "<b>", ";", "\0"]
)


@pytest.mark.parametrize(
    ("line", "spans"),
    [
        ("", []),
        ("plain", [("", "plain")]),
        (f"a {E}[31mred{E}[0m b", [("", "a "), ("fg-1", "red"), ("", " b")]),
        (f"{E}[1;4;32mall{E}[22mless{E}[m", [("fg-2 bold underline", "all"), ("fg-2 underline", "less")]),
        (f"{E}[91;103mbright{E}[39mback{E}[49mnone", [("fg-9 bg-11", "bright"), ("bg-11", "back"), ("", "none")]),
        (f"{E}[7mreverse", [("fg-paper bg-ink", "reverse")]),
        (f"{E}[7;31;42mboth", [("fg-2 bg-1", "both")]),
        (f"{E}[2;3;9mx{E}[22;23;29my", [("dim italic strike", "x"), ("", "y")]),
        (f"{E}[31ma{E}[31mb", [("fg-1", "ab")]),
        (f"{E}[38;5;9mx{E}[38;5;196my{E}[48;5;244mz", [("fg-9", "xy"), ("fg-9 bg-8", "z")]),
        (f"{E}[38;2;250;5;5mx{E}[48;2;1;2;3my", [("fg-9", "x"), ("fg-9 bg-0", "y")]),
        (f"{E}[38:2::250:5:5mx{E}[4:3my{E}[4:0mz", [("fg-9", "x"), ("fg-9 underline", "y"), ("fg-9", "z")]),
        (f"{E}[38;5;999mx{E}[38;2;1mz{E}[99999999mw", [("", "xzw")]),
        (f"{E}]8;;http://x\x07link{E}]8;;\x07{E}[2K{E}[1A{E}(B!", [("", "link!")]),
        (f"{E}[31m10%\r20%\r{E}[32m30%\r", [("fg-2", "30%")]),
        ("bell\x07tab\tnul\0", [("", "bell\u2407tab\tnul\u2400")]),
        (f"broken {E}", [("", "broken \u241b")]),
    ],
)
def test_line_is_divided_into_styled_spans(line: str, spans: list[ansi.Span]) -> None:
    assert ansi.spans(line)[0] == spans


def test_style_continues_on_the_next_line() -> None:
    _, style = ansi.spans(f"{E}[1;33mbegins")
    assert ansi.spans("goes on", style)[0] == [("fg-3 bold", "goes on")]
    assert ansi.style_after(f"x{E}[1;33mbegins\nand on") == style
    assert ansi.style_after("nothing", style) == style
    assert ansi.style_after(f"{E}[0m", style) == ansi.DEFAULT_STYLE


@pytest.mark.parametrize("index", range(256))
def test_256_colours_are_mapped_to_sixteen(index: int) -> None:
    ((classes, _),) = ansi.spans(f"{E}[38;5;{index}mx")[0]
    assert classes in {f"fg-{number}" for number in range(16)}
    assert index >= 16 or classes == f"fg-{index}"


@given(st.lists(PIECES).map("".join))
def test_spans_contain_no_control_characters(line: str) -> None:
    pieces, _ = ansi.spans(line)
    assert "".join(text for _, text in pieces) == ansi.plain_text(line)
    for classes, text in pieces:
        assert text
        assert not any(character < " " and character != "\t" for character in text)
        assert all(name.replace("-", "").isalnum() for name in classes.split())
