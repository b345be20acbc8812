"""Logs that an Engine damages, cuts or stamps with times that go back."""

from __future__ import annotations

import dataclasses

import pytest

from runners.docker.logs import BEGIN_LINE, DAMAGED_LINE, DROPPED_LINE, PART_BYTES, UNKNOWN_TOTAL, Frames, LogCursor

HOUR = "2026-11-23T12"


def frame(content: bytes) -> bytes:
    return b"\1\0\0\0" + len(content).to_bytes(4, "big") + content


def log(*parts: tuple[str, bytes], begin: bool = True) -> bytes:
    """A stream of (minutes and seconds, data), after what every container writes first."""
    framed = [frame(f"{HOUR}:00:00.000000000Z ".encode() + BEGIN_LINE)] if begin else []
    return b"".join([*framed, *(frame(f"{HOUR}:{at}Z ".encode() + data) for at, data in parts)])


def read(stream: bytes, cursor: LogCursor | None = None, limit: int = 1 << 20) -> tuple[bytes, LogCursor]:
    frames = Frames([stream], cursor or LogCursor())
    return frames.read(limit), frames.cursor


# Damage.

ERROR = b"Error grabbing logs: rpc error: code = Unknown desc = invalid wire type\n"


@pytest.mark.parametrize("words", [ERROR, b"Error", b"unexpected EOF", b"2026 is not a time"])
def test_engine_message_becomes_one_line_of_the_log(words: bytes) -> None:
    stream = log(("01:00.5", b"one\n")) + frame(words)
    data, cursor = read(stream)
    assert data == b"one\n" + DAMAGED_LINE % b" ".join(words.split())
    assert cursor.moment == f"{HOUR}:01:00.500000000"
    assert read(stream, LogCursor.read(cursor.text())) == (b"", cursor)


def test_log_continues_after_repaired_damage() -> None:
    _, cursor = read(log(("01:00", b"one\n")) + frame(ERROR))
    data, cursor = read(log(("01:00", b"one\n"), ("02:00", b"two\n")), cursor)
    assert (data, cursor.is_damaged) == (b"two\n", False)


def test_damaged_log_does_not_keep_the_job() -> None:
    data, cursor = read(frame(ERROR))
    assert data.count(b"\n") == 1
    assert read(frame(ERROR), cursor)[0] == b""


@pytest.mark.parametrize("moment", ["Error", "2026", "2026-11-23T12:00:00"])
def test_cursor_without_a_time_is_not_readable(moment: str) -> None:
    assert not LogCursor.read(LogCursor(moment, 1).text()).is_readable


def test_cursor_of_an_older_version_is_understood() -> None:
    cursor = LogCursor.read('{"moment": "2026-11-23T12:01:00.000000000", "count": 1}')
    assert (cursor.count, cursor.total, cursor.is_readable) == (1, UNKNOWN_TOTAL, True)
    assert read(log(("01:00", b"one\n"), ("02:00", b"two\n")), cursor)[0] == b"two\n"


# Long lines.


@pytest.mark.parametrize(
    ("parts", "text"),
    [
        ([PART_BYTES, 3616], b"a" * 20_000),
        ([PART_BYTES, PART_BYTES, 0], b"a" * 2 * PART_BYTES),
        ([PART_BYTES, 1], b"a" * (PART_BYTES + 1)),
    ],
)
@pytest.mark.parametrize("limit", [1, 1 << 20])
def test_missing_line_feed_is_added(parts: list[int], text: bytes, limit: int) -> None:
    stream = log(*(("01:00.5", b"a" * size) for size in parts), ("01:00.6", b"next\n"))
    data, cursor = b"", LogCursor()
    while new := read(stream, cursor, limit):
        if not new[0] and new[1] == cursor:
            break
        data, cursor = data + new[0], new[1]
    assert data == text + b"\nnext\n"


@pytest.mark.parametrize(
    "parts",
    [
        [("01:00.5", b"a" * PART_BYTES), ("01:00.5", b"end")],
        [("01:00.5", b"a" * PART_BYTES), ("01:00.5", b"end\n"), ("01:00.6", b"next\n")],
        [("01:00.5", b"a" * PART_BYTES), ("01:00.6", b"another"), ("01:00.7", b"next\n")],
        [("01:00.5", b"short"), ("01:00.5", b"more"), ("01:00.6", b"next\n")],
    ],
)
def test_no_other_line_feed_is_added(parts: list[tuple[str, bytes]]) -> None:
    assert read(log(*parts))[0] == b"".join(data for _, data in parts)


# Times that go back.

BACK = [("10:00", b"a"), ("10:02", b"b"), ("05:03", b"c"), ("05:04", b"d"), ("10:02", b"e"), ("10:03", b"f")]


@pytest.mark.parametrize("count", range(7))
@pytest.mark.parametrize("step", [1, 100])
def test_lines_are_kept_when_the_clock_is_set_back(count: int, step: int) -> None:
    data, cursor = read(log(*BACK[:count]))
    cursor = dataclasses.replace(cursor, is_unordered=bool(cursor.moment))  # as the Engine's clock says
    while new := read(log(*BACK), cursor, step)[0]:
        _, cursor = read(log(*BACK), cursor, step)
        data += new
    assert data == b"abcdef"


def test_frames_are_counted_once_times_go_back() -> None:
    assert not read(log(*BACK[:2]))[1].is_unordered
    assert read(log(*BACK))[1].is_unordered


def test_cursor_without_total_resumes_at_its_last_frame() -> None:
    cursor = LogCursor(f"{HOUR}:05:03.000000000", 1, UNKNOWN_TOTAL, is_unordered=True)
    assert read(log(*BACK), cursor)[0] == b"def"


def test_dropped_frames_of_an_unordered_log_are_noticed() -> None:
    frames = Frames([log(("06:00", b"x"), begin=False)], LogCursor(f"{HOUR}:05:03.000000000", 1, 4, is_unordered=True))
    assert frames.read(100) == b""
    assert frames.lacks_cursor
    assert read(log(("06:00", b"x"), begin=False))[0] == DROPPED_LINE + b"x"


def test_times_of_other_zones_are_compared_in_utc() -> None:
    stream = frame(b"2026-11-23T13:00:00+01:00 " + BEGIN_LINE) + frame(b"2026-11-23T13:01:00.5+01:00 one\n")
    data, cursor = read(stream)
    assert (data, cursor.moment) == (b"one\n", "2026-11-23T12:01:00.500000000")
