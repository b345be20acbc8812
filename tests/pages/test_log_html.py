"""Logs as rows of HTML."""

from __future__ import annotations

import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from polyjob.logs import ansi
from polyjob.pages import log_html
from polyjob.pages.log_html import LogRows
from tests.pages.helpers import log_rows


class TestRows:
    def shown(self, *pieces: bytes, flush: bool = True) -> list[tuple[str, str]]:
        rows = LogRows(1)
        html = "".join(rows.add(piece) + (rows.flush() if flush else "") for piece in pieces) + rows.end()
        return log_rows(html)

    def test_line_in_chunks_is_one_row(self) -> None:
        assert self.shown(b"a", b"b", b"\nc") == [("L1", "ab"), ("L2", "c")]

    def test_character_in_chunks_is_decoded(self) -> None:
        first, second = "é".encode()[:1], "é".encode()[1:]
        assert self.shown(first, second + b"\n") == [("L1", "é")]
        assert self.shown(b"x", first) == [("L1", "x\ufffd")]

    def test_escape_sequence_in_chunks_is_dropped(self) -> None:
        assert self.shown(b"a\x1b", b"[3", b"1mred\x1b]0;ti", b"tle\x07\n") == [("L1", "ared")]

    def test_each_shown_state_of_a_progress_bar_has_a_row(self) -> None:
        assert self.shown(b"10%\r", b"20%\r", b"30%\ndone\n") == [
            ("L1", "10%"),
            ("", "20%"),
            ("", "30%"),
            ("L2", "done"),
        ]
        assert self.shown(b"10%\r", b"20%\r", b"30%\n", flush=False) == [("L1", "30%")]

    def test_long_unfinished_line_is_not_held_back(self) -> None:
        rows = LogRows(1)
        assert rows.add(b"x" * (log_html.MAX_PENDING_CHARACTERS + 1)).count("x") == log_html.MAX_PENDING_CHARACTERS + 1

    @pytest.mark.parametrize("piece", [b"\r", b"\x1b[" + b"1;" * 500, b"\x1b]0;"])
    def test_line_without_visible_text_takes_bounded_time_and_memory(self, piece: bytes) -> None:
        rows, begin = LogRows(1), time.process_time()
        for _ in range(16):
            rows.add(piece * (log_html.MAX_PENDING_CHARACTERS // len(piece)))
        rows.add(b"x" + piece * (log_html.MAX_PENDING_CHARACTERS // len(piece)) + b"x")
        assert time.process_time() - begin < 5
        assert len(rows._pending) <= log_html.MAX_PENDING_CHARACTERS

    def test_colours_continue_in_the_next_row(self) -> None:
        html = LogRows(7, ansi.Style(1)).add(b"<red>\n\x1b[0mplain\n")
        assert html == (
            '<div class="row" id="L7"><a href="#L7">7</a><span class="fg-1">&lt;red&gt;</span>\n</div>'
            '<div class="row" id="L8"><a href="#L8">8</a>plain\n</div>'
        )

    @given(
        st.lists(st.sampled_from([b"a", b"<", b"\n", b"\xc3", b"\xa9", b"\x1b", b"[31m", b"]8;;", b"\x07", b"m"])),
        st.data(),
    )
    def test_chunk_boundaries_make_no_difference(self, parts: list[bytes], data: Any) -> None:
        flushed = [data.draw(st.booleans()) for _ in parts]
        rows = LogRows(1)
        html = "".join(
            rows.add(part) + (rows.flush() if flush else "") for part, flush in zip(parts, flushed, strict=True)
        )
        assert log_rows(html + rows.end()) == self.shown(b"".join(parts), flush=False)
