"""Frames of a container's log: however the Engine splits them, nothing is repeated or lost."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runners.docker.logs import BEGIN_LINE, DROPPED_LINE, Frames, LogCursor

NOON = "2026-11-23T12:00:00"


def frame(stamp, data):
    content = stamp.encode() + b" " + data
    return b"\1\0\0\0" + len(content).to_bytes(4, "big") + content


def log(*parts, begin=True):
    """Return a log stream with one frame for each (seconds, data), after the line with which every log begins."""
    framed = [(f"{NOON}.000000000Z", BEGIN_LINE)] if begin else []
    framed += [(f"{NOON}.{at}Z", data) for at, data in parts]
    return b"".join(frame(*part) for part in framed)


def split(stream, size):
    return [stream[at : at + size] for at in range(0, len(stream), size)]


@given(st.lists(st.binary(min_size=1, max_size=20), max_size=6), st.integers(1, 9), st.integers(1, 30))
def test_frames_are_complete_however_the_stream_is_split(parts, size, limit):
    frames = Frames(split(log(*(("1", part) for part in parts)), size), LogCursor())
    contents = b""
    while data := frames.read(limit):
        contents += data
    assert contents == b"".join(parts)


def test_incomplete_frame_is_left_out():
    assert Frames([log(("1", b"one"), ("2", b"two"))[:-1]], LogCursor()).read(100) == b"one"


PARTS = [("1", b"0"), ("1", b"1"), ("100000001", b"2"), ("2", b"3"), ("2", b"4")]


@pytest.mark.parametrize("count", range(6))
def test_cursor_neither_repeats_nor_skips_frames_of_one_moment(count):
    first = Frames([log(*PARTS)], LogCursor())
    data = b"".join(first.read(1) for _ in range(count))
    cursor = LogCursor.read(first.cursor.text()) if data else LogCursor()
    since = [part for part in PARTS if not data or f"{NOON}.{part[0].ljust(9, '0')}" >= cursor.moment]
    assert data + Frames([log(*since, begin=not data)], cursor).read(100) == b"01234"


def test_dropped_bytes_are_reported_by_a_line():
    assert Frames([log(("3", b"late"), begin=False)], LogCursor()).read(100) == DROPPED_LINE + b"late"
    first = Frames([log(*PARTS)], LogCursor())
    first.read(2)
    later = Frames([log(("3", b"late"), begin=False)], first.cursor)
    assert later.read(100) == DROPPED_LINE + b"late"
    assert Frames([log(("3", b"late"), ("4", b"r"), begin=False)], later.cursor).read(100) == b"r"


def test_message_about_a_missing_shell_is_not_a_gap():
    message = b"[FATAL tini (6)] exec /bin/sh failed: No such file or directory\n"
    assert Frames([log(("1", message), begin=False)], LogCursor()).read(1000) == message


def test_frames_of_each_tenth_of_a_second_have_a_time():
    frames = Frames([log(("0", b"a"), ("05", b"b"), ("1", b"c"), ("19", b"d"), ("2", b"e"))], LogCursor())
    frames.read(4)
    assert frames.moments == [(0, f"{NOON}.000000000"), (2, f"{NOON}.100000000")]
    frames.read(4)
    assert frames.moments == [(0, f"{NOON}.200000000")]


def test_frames_that_were_read_before_have_no_time():
    first = Frames([log(*PARTS)], LogCursor())
    first.read(3)
    later = Frames([log(*PARTS)], first.cursor)
    assert (later.read(100), later.moments) == (b"34", [(0, f"{NOON}.200000000")])
