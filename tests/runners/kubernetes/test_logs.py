"""A container's log as the kubelet gives it, read from a cursor."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest

from runners.base import HandleNotFound
from runners.kubernetes.logs import DROPPED, Lines, LogCursor
from runners.kubernetes.manifests import BEGIN

T = "2026-01-01T00:00:0"


def stamped(*lines: tuple[str, bytes]) -> bytes:
    return b"".join(moment.encode() + b"Z " + data for moment, data in lines)


def pieces(data: bytes, size: int) -> Iterator[bytes]:
    return (data[start : start + size] for start in range(0, len(data), size))


def read(data: bytes, cursor: LogCursor | None = None, size: int = 7) -> tuple[bytes, LogCursor]:
    lines = Lines(pieces(data, size), cursor or LogCursor())
    return lines.read(1 << 20), lines.cursor


FIRST = (f"{T}1.000000001", BEGIN)
LOG = [
    FIRST,
    (f"{T}1.000000001", b"a\n"),
    (f"{T}1.500000000", b"b\n"),
    (f"{T}1.500000000", b"b\n"),
    (f"{T}2.000000000", b"c\n"),
    (f"{T}3.000000000", b"d"),
]


@pytest.mark.parametrize("size", [1, 7, 1000])
def test_times_and_the_beginning_are_left_out(size: int) -> None:
    assert read(stamped(*LOG), size=size)[0] == b"a\nb\nb\nc\nd"


@pytest.mark.parametrize("limit", range(1, 12))
def test_from_any_place_it_goes_on_without_a_repetition_or_a_gap(limit: int) -> None:
    """Each piece is read from a snapshot of its own, which begins with the second of the cursor."""
    whole, cursor = b"", LogCursor()
    for _ in range(20):
        second = cursor.moment[:19]
        since = stamped(*[line for line in LOG if line[0][:19] >= second])
        lines = Lines(pieces(since, 11), LogCursor.parse(cursor.text()))
        whole += lines.read(limit)
        cursor = lines.cursor
    assert whole == b"a\nb\nb\nc\nd"


def test_a_line_that_had_not_ended_goes_on() -> None:
    for first, second in itertools.combinations([b"", b"a", b"ab", b"abc\n"], 2):
        data, cursor = read(stamped(FIRST, (f"{T}2.000000000", first)))
        more, cursor = read(stamped((f"{T}2.000000000", second)), cursor)
        assert data + more == second
    rest, _ = read(stamped((f"{T}2.000000000", b"abc\n"), (f"{T}2.100000000", b"x\n")), cursor)
    assert rest == b"x\n"


def test_the_end_of_an_earlier_line_is_not_read_again() -> None:
    _, cursor = read(stamped(FIRST, (f"{T}2.000000000", b"x\n")))
    assert (
        read(b"rest of a long line\n" + stamped((f"{T}2.000000000", b"x\n"), (f"{T}2.5", b"y\n")), cursor)[0] == b"y\n"
    )


def test_times_with_fewer_digits_and_of_other_zones_are_compared() -> None:
    _, cursor = read(b"2026-01-01T02:00:01.5+02:00 " + BEGIN)
    assert (cursor.moment, cursor.count, cursor.size) == ("2026-01-01T00:00:01.500000000", 1, len(BEGIN))
    data = b"2026-01-01T02:00:01.5+02:00 " + BEGIN + b"2026-01-01T02:00:01.500000001+02:00 a\n"
    assert read(data, cursor)[0] == b"a\n"


def test_a_file_that_was_turned_over_is_said() -> None:
    _, cursor = read(stamped(*LOG))
    assert read(stamped((f"{T}3.500000000", b"e\n")), cursor)[0] == DROPPED + b"e\n"
    assert read(stamped(LOG[1], LOG[2]))[0] == DROPPED + b"a\nb\n"


def test_a_file_that_was_turned_over_within_a_second_is_said() -> None:
    _, cursor = read(stamped(FIRST, (f"{T}1.100000000", b"a\n")))
    later = stamped((f"{T}1.200000000", b"b\n"), (f"{T}1.300000000", b"c\n"))
    assert read(later, cursor)[0] == DROPPED + b"b\nc\n"


def test_nothing_new_leaves_the_cursor() -> None:
    _, cursor = read(stamped(*LOG))
    assert read(stamped(LOG[-1]), cursor) == (b"", cursor)
    assert read(b"", cursor) == (b"", cursor)


@pytest.mark.parametrize("cursor", [LogCursor(), LogCursor("2026-01-01T00:00:01.000000000", 1, 2)])
def test_log_that_the_machine_has_removed_is_gone(cursor: LogCursor) -> None:
    with pytest.raises(HandleNotFound, match="removed the log"):
        read(b"unable to retrieve container logs for containerd://1", cursor, 100)


def test_bytes_are_kept_as_they_are() -> None:
    data = b"\xff\x00\r\n\n 2026-01-01T00:00:01Z x\n"
    lines = data.splitlines(keepends=True)
    made = stamped(FIRST, *[(f"{T}2.00000000{number}", line) for number, line in enumerate(lines)])
    assert read(made)[0] == data


@pytest.mark.parametrize("size", [1, 5, 30, 100])
def test_of_a_log_that_goes_on_no_time_is_cut(size: int) -> None:
    """Between any two pieces nothing may be there for now."""
    data = stamped(*LOG)
    calm = itertools.chain.from_iterable((piece, b"") for piece in pieces(data, size))
    lines, whole = Lines(calm, read(stamped(FIRST))[1]), b""
    for _ in range(2 * len(data)):
        whole += lines.read(1 << 20)
    assert whole == b"a\nb\nb\nc\nd"
