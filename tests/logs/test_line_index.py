"""The index of lines, against counting them by hand."""

from __future__ import annotations

import uuid

from hypothesis import given
from hypothesis import strategies as st

from polyjob.logs import line_index
from polyjob.logs.line_index import BLOCK_BYTES, LineCounts, LogLines
from polyjob.logs.lines import read_lines

from .conftest import LOG_CONTENT, MANY_EXAMPLES, split_lines


@MANY_EXAMPLES
@given(pieces=st.lists(LOG_CONTENT, min_size=1, max_size=4))
def test_lines_of_a_growing_file_are_found(tmp_path, small_limits, pieces):
    path, content = tmp_path / uuid.uuid4().hex, b""
    for piece in pieces:
        content += piece
        with path.open("ab") as log:
            log.write(piece)
        with LogLines(path) as lines:
            expected = split_lines(content)
            assert (lines.total, lines.length) == (len(expected), len(content))
            starts = [lines.start(number) for number in range(lines.total + 2)]
        offset = 0
        for number, line in enumerate(expected):
            assert starts[number] == offset
            offset += len(line) + 1
        assert starts[len(expected) :] == [len(content)] * 2


def test_missing_file_has_no_lines(tmp_path):
    with LogLines(tmp_path / "none") as lines:
        assert (lines.total, lines.length, lines.start(0), lines.start(3), lines.read(0, 9)) == (0, 0, 0, 0, b"")
        assert read_lines(lines, 1, 10) == []


def test_replaced_file_is_read_again(tmp_path):
    path = tmp_path / "log"
    for content in (b"a\nb\n", b"c\n", b"long\nlonger\nlongest\n"):
        (tmp_path / "new").write_bytes(content)
        (tmp_path / "new").replace(path)
        with LogLines(path) as lines:
            assert lines.total == len(split_lines(content))


def test_open_lines_do_not_include_later_writes(tmp_path):
    path = tmp_path / "log"
    path.write_bytes(b"one\n")
    with LogLines(path) as before:
        path.write_bytes(b"one\ntwo\n")
        with LogLines(path) as after:
            assert after.total == 2
        assert (before.total, before.read(0, 100), before.start(1)) == (1, b"one\n", 4)


def test_number_of_kept_indexes_is_bounded(tmp_path):
    for number in range(300):
        path = tmp_path / str(number)
        path.write_bytes(b"x\n" * number)
        with LogLines(path) as lines:
            assert lines.total == number
    assert len(line_index._counts) <= 256


def test_reads_consist_of_complete_blocks():
    assert line_index._READ_BYTES % BLOCK_BYTES == 0


def test_index_is_kept_for_every_follower_of_a_process(tmp_path, monkeypatch, settings):
    logs = [tmp_path / str(number) for number in range(settings.followers)]
    for log in logs:
        log.write_bytes(b"a\n")
        with LogLines(log) as lines:
            assert lines.total == 1
    counted = []
    monkeypatch.setattr(LineCounts, "_count", lambda self, data: counted.append(data))
    for log in logs:
        with LogLines(log):
            pass
    assert not counted
