"""Times of lines, against reading the complete index by hand."""

from __future__ import annotations

import datetime
import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from polyjob.formatting import LOG_STAMP_BYTES
from polyjob.logs.times import LineTimes, stamped
from runners.common.log_times import append_times

NOON = 1_795_435_200_000
"""2026-11-23T12:00:00Z."""


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "log"


def moment(at_ms: int) -> datetime.datetime:
    return datetime.datetime.fromtimestamp(at_ms / 1000, datetime.UTC)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    gaps=st.lists(st.integers(1, 5), max_size=20),
    first=st.integers(0, 3),
    offsets=st.lists(st.integers(0, 120), max_size=20),
    end=st.sampled_from([b"", b"x" * 7, b"\0" * 40]),
)
def test_times_agree_with_a_linear_search(
    log: Path, gaps: list[int], first: int, offsets: list[int], end: bytes
) -> None:
    Path(f"{log}.times").unlink(missing_ok=True)
    starts = [first + sum(gaps[:count]) for count in range(len(gaps))]
    append_times(str(log), 0, [(start, NOON + number * 1000) for number, start in enumerate(starts)])
    with open(f"{log}.times", "ab") as file:
        file.write(end)
    with LineTimes(log) as times:
        for offset in offsets:
            before = [number for number, start in enumerate(starts) if start <= offset]
            assert times.at(offset) == (moment(NOON + before[-1] * 1000) if before else None)


def test_growing_index_is_read_on(log: Path) -> None:
    with LineTimes(log) as times:
        assert times.at(0) is None
        append_times(str(log), 0, [(0, NOON)])
        assert times.at(4) == moment(NOON)
        append_times(str(log), 5, [(0, NOON + 1000)])
        assert (times.at(4), times.at(5)) == (moment(NOON), moment(NOON + 1000))


def test_time_after_all_calendars_is_unknown(log: Path) -> None:
    append_times(str(log), 0, [(0, (1 << 63) - 1)])
    with LineTimes(log) as times:
        assert times.at(0) is None


@pytest.mark.parametrize("kind", ["folder", "link", "pipe"])
def test_index_that_a_job_has_replaced_has_no_times(log: Path, tmp_path: Path, kind: str) -> None:
    index = Path(f"{log}.times")
    append_times(str(tmp_path / "other"), 0, [(0, NOON)])
    if kind == "folder":
        index.mkdir()
    elif kind == "link":
        index.symlink_to(tmp_path / "other.times")
    else:
        os.mkfifo(index)
    with LineTimes(log) as times:
        assert times.at(0) is None


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(lines=st.lists(st.sampled_from([b"", b"a", b"long line"])), size=st.integers(1, 7), cut=st.integers(0, 9))
def test_each_line_begins_with_its_time(log: Path, lines: list[bytes], size: int, cut: int) -> None:
    content = b"\n".join(lines)
    append_times(str(log), 0, [(0, NOON), (3, NOON + 1000)])
    start = min(cut, len(content))
    chunks = [content[at : at + size] for at in range(start, len(content), size)]
    begins = start == 0 or content[start - 1 : start] == b"\n"
    with LineTimes(log) as times:
        text = b"".join(stamped(chunks, start, begins, times))
    expected, offset = b"", 0
    for line in content.splitlines(keepends=True):
        stamp = b"2026-11-23T12:00:00.000Z " if offset < 3 else b"2026-11-23T12:00:01.000Z "
        if offset >= start:
            expected += stamp + line
        else:
            expected += line[start - offset :]
        offset += len(line)
    assert text == expected


def test_lines_without_a_time_keep_the_columns(log: Path) -> None:
    with LineTimes(log) as times:
        assert b"".join(stamped([b"one\ntwo\n"], 0, True, times)).splitlines() == [
            b"-".ljust(LOG_STAMP_BYTES) + b"one",
            b"-".ljust(LOG_STAMP_BYTES) + b"two",
        ]
