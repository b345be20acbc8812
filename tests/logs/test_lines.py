"""Reading and searching lines, against doing so by hand."""

from __future__ import annotations

import time
import uuid

from hypothesis import given
from hypothesis import strategies as st

from polyjob.logs import ansi
from polyjob.logs import lines as loglines
from polyjob.logs.line_index import LogLines
from polyjob.logs.lines import MAX_LINE_BYTES, MAX_RESPONSE_BYTES, find_lines, read_lines

from .conftest import LOG_CONTENT, MANY_EXAMPLES, split_lines

# Reading.


@MANY_EXAMPLES
@given(content=LOG_CONTENT, first=st.integers(-12, 12).filter(bool), count=st.integers(0, 12))
def test_read_lines_agree_with_splitting_the_file(tmp_path, small_limits, content, first, count):
    path = tmp_path / uuid.uuid4().hex
    path.write_bytes(content)
    with LogLines(path) as lines:
        results = read_lines(lines, first, count)
    expected = list(enumerate(split_lines(content), 1))
    begin = max(0, len(expected) + first) if first < 0 else first - 1
    expected = expected[begin : begin + count]
    assert [line.number for line in results] == [number for number, _ in expected]
    for line, (_, data) in zip(results, expected, strict=True):
        assert content[line.offset : line.offset + line.bytes] == data
        if not line.is_cut:
            assert line.text == ansi.plain_text(data.decode(errors="replace"))
        else:
            assert len(data) > 16


def test_huge_line_is_cut_and_the_next_one_found(tmp_path):
    path = tmp_path / "log"
    path.write_bytes(b"one\n" + "é".encode() * (1 << 20) + b"\nthree\n")
    with LogLines(path) as lines:
        one, two, three = read_lines(lines, 1, 10)
    assert (one.text, three.text, three.number, three.offset) == ("one", "three", 3, 4 + (2 << 20) + 1)
    assert (two.is_cut, two.bytes, set(two.text)) == (True, 2 << 20, {"é"})
    assert len(two.text) == MAX_LINE_BYTES // 2


def test_huge_progress_bar_shows_its_last_state(tmp_path):
    path = tmp_path / "log"
    path.write_bytes(b"".join(b"\r%7d of 400000" % number for number in range(400_001)) + b"\ndone\n")
    with LogLines(path) as lines:
        bar, done = read_lines(lines, 1, 10)
    assert (bar.text.strip(), bar.is_cut, done.text) == ("400000 of 400000", False, "done")


def test_size_of_returned_lines_is_bounded(tmp_path):
    path = tmp_path / "log"
    path.write_bytes((b"x" * 20_000 + b"\n") * 1000)
    with LogLines(path) as lines:
        results = read_lines(lines, 1, 1000)
    assert MAX_RESPONSE_BYTES <= sum(len(line.text) for line in results) < MAX_RESPONSE_BYTES + MAX_LINE_BYTES


def test_lines_begin_in_the_style_set_before(tmp_path):
    path = tmp_path / "log"
    path.write_bytes(b"\x1b[31mred\nstill\nstill\x1b[0m\nplain\n")
    with LogLines(path) as lines:
        assert [line.spans for line in read_lines(lines, 2, 3)] == [
            [("fg-1", "still")],
            [("fg-1", "still")],
            [("", "plain")],
        ]


def test_million_lines_are_read_and_searched_quickly(tmp_path):
    path = tmp_path / "log"
    path.write_bytes(b"".join(b"%07d %s\n" % (number, b"x" * 92) for number in range(1_000_000)))
    begun = time.perf_counter()
    with LogLines(path) as lines:
        first = time.perf_counter() - begun
        assert lines.total == 1_000_000
    begun = time.perf_counter()
    for number in (1, 500_000, 999_900):
        with LogLines(path) as lines:
            assert read_lines(lines, number, 100)[99].text.startswith(f"{number + 98:07}")
    each = (time.perf_counter() - begun) / 3
    begun = time.perf_counter()
    with LogLines(path) as lines:
        assert find_lines(lines, "0777777", 0, 10, 60).lines == [777_778]
    assert (first < 3, each < 0.3, time.perf_counter() - begun < 10) == (True, True, True)
    assert each < first


# Searching.


@MANY_EXAMPLES
@given(content=LOG_CONTENT, after=st.integers(0, 8), count=st.integers(1, 5))
def test_matches_agree_with_searching_the_file(tmp_path, small_limits, content, after, count):
    path = tmp_path / uuid.uuid4().hex
    path.write_bytes(content)
    with LogLines(path) as lines:
        results = find_lines(lines, "Needle", after, count, 60)
    expected = [
        number
        for number, line in enumerate(split_lines(content), 1)
        if number > after and b"needle" in line.rstrip(b"\r").rpartition(b"\r")[2]
    ]
    assert results.lines == expected[:count]
    assert results.is_cut == (results.searched_to < results.total)
    assert results.is_cut or len(expected) <= count


def test_colours_within_a_word_do_not_prevent_a_match(tmp_path):
    path = tmp_path / "log"
    path.write_bytes(b"one\n\x1b[31mEr\x1b[1mr\x1b[0mor here\n31m\n")
    with LogLines(path) as lines:
        assert find_lines(lines, "error HERE", 0, 10, 60).lines == [2]
        assert find_lines(lines, "31m", 0, 10, 60).lines == [3]


def test_beginning_of_a_huge_line_is_searched(tmp_path, monkeypatch):
    monkeypatch.setattr(loglines, "MAX_SEARCHED_LINE_BYTES", 3 << 20)
    path = tmp_path / "log"
    path.write_bytes(b"x" * (2 << 20) + b"here\n" + b"x" * (4 << 20) + b"here\nhere\n")
    with LogLines(path) as lines:
        assert find_lines(lines, "here", 0, 10, 60).lines == [1, 3]
        assert find_lines(lines, "here", 1, 10, 60).lines == [3]


def test_search_that_ran_out_of_time_can_be_continued(tmp_path):
    path = tmp_path / "log"
    path.write_bytes(b"x\n" * (3 << 20))
    with LogLines(path) as lines:
        results = find_lines(lines, "y", 0, 10, 0)
        assert (results.lines, results.is_cut) == ([], True)
        assert 0 < results.searched_to < lines.total
        searched = 0
        while results.is_cut:
            assert results.searched_to > searched
            searched = results.searched_to
            results = find_lines(lines, "y", searched, 10, 0)
        assert results.searched_to == lines.total
