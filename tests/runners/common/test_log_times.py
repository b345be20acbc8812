"""The index of a log's times: what is recorded, and how it goes on after a crash."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from runners.common import log_times
from runners.common.log_moments import times_of_moments
from runners.common.log_times import FIRST_PAUSE_MS, LogTimes, append_times

NOON = 1_795_435_200_000
"""2026-11-23T12:00:00Z."""


def records(log: Path) -> list[tuple[int, int]]:
    data = (log.parent / f"{log.name}.times").read_bytes()
    numbers = [int.from_bytes(data[at : at + 8], "little") for at in range(0, len(data), 8)]
    return list(zip(numbers[::2], numbers[1::2], strict=True))


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "log"


def test_writes_within_the_pause_share_a_time(log: Path) -> None:
    times = LogTimes(str(log))
    for offset, at_ms in [(0, NOON), (10, NOON + FIRST_PAUSE_MS - 1), (20, NOON + FIRST_PAUSE_MS), (30, NOON + 150)]:
        times.record(offset, at_ms)
    assert records(log) == [(0, NOON), (20, NOON + FIRST_PAUSE_MS)]


def test_time_that_goes_back_is_recorded(log: Path) -> None:
    append_times(str(log), 0, [(0, NOON), (5, NOON - 1)])
    assert records(log) == [(0, NOON), (5, NOON - 1)]


def test_pauses_of_long_logs_double(log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_times, "RECORDS_PER_PAUSE", 10)
    append_times(str(log), 0, [(step, NOON + step * FIRST_PAUSE_MS) for step in range(100)])
    offsets = [offset for offset, _ in records(log)]
    assert offsets == [*range(10), *range(11, 31, 2), *range(33, 73, 4), *range(77, 100, 8)]


def test_index_is_continued_with_its_pause(log: Path) -> None:
    append_times(str(log), 0, [(0, NOON)])
    append_times(str(log), 10, [(0, NOON + 1), (1, NOON + FIRST_PAUSE_MS)])
    assert records(log) == [(0, NOON), (11, NOON + FIRST_PAUSE_MS)]


@pytest.mark.parametrize("end", [b"x", b"\0" * 40, (20).to_bytes(8, "little") + NOON.to_bytes(8, "little")])
def test_end_that_a_crash_has_left_is_dropped(log: Path, end: bytes) -> None:
    append_times(str(log), 0, [(0, NOON), (10, NOON + 1000)])
    with open(f"{log}.times", "ab") as file:
        file.write(end)
    append_times(str(log), 20, [(0, NOON + 2000)])
    assert records(log) == [(0, NOON), (10, NOON + 1000), (20, NOON + 2000)]


def test_index_is_private(log: Path) -> None:
    append_times(str(log), 0, [(0, NOON)])
    assert os.stat(f"{log}.times").st_mode & 0o777 == 0o600


@pytest.mark.parametrize("kind", ["folder", "link"])
def test_index_that_a_job_has_replaced_is_not_followed(log: Path, tmp_path: Path, kind: str) -> None:
    other = tmp_path / "other"
    other.write_bytes(b"other")
    Path(f"{log}.times").mkdir() if kind == "folder" else Path(f"{log}.times").symlink_to(other)
    append_times(str(log), 0, [(0, NOON)])
    assert other.read_bytes() == b"other"


def test_full_disk_ends_the_index(log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write, times = os.write, LogTimes(str(log))
    times.record(0, NOON)
    monkeypatch.setattr(os, "write", lambda file, data: write(file, data[:7]))
    times.record(10, NOON + 1000)
    monkeypatch.setattr(os, "write", write)
    times.record(20, NOON + 2000)
    assert os.stat(f"{log}.times").st_size == 16 + 7


def test_invalid_moments_have_no_time() -> None:
    moments = [(0, "2026-11-23T12:00:00.123456789"), (1, "2026-13-23T12:00:00.0"), (2, "0001-01-01T00:00:00.000000000")]
    assert times_of_moments(moments) == [(0, NOON + 123)]
