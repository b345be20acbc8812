"""A followed log is kept up to some bytes, whatever the size of the pieces that it comes in."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterator

import pytest

pytest.importorskip("kubernetes")

from runners.base import RunnerUnavailable
from runners.kubernetes.log_feed import MAX_READ_AHEAD, Feed
from tests.runners.harness import wait_for

SECONDS = 10.0


class Source:
    """Pieces that count what was taken of them."""

    def __init__(self, piece: bytes, number: int | None = None) -> None:
        self.piece, self.number = piece, number
        self.taken = 0
        self.closed = threading.Event()

    def __iter__(self) -> Iterator[bytes]:
        for _ in itertools.repeat(None) if self.number is None else range(self.number):
            self.taken += len(self.piece)
            yield self.piece


def feed_of(source: Source) -> Feed:
    return Feed(None, iter(source), source.closed.set)


@pytest.mark.parametrize("size", [1, 128, 1 << 16])
def test_feed_keeps_bytes_not_pieces(size: int) -> None:
    source = Source(b"x" * size)
    feed = feed_of(source)
    wait_for(lambda: source.taken >= MAX_READ_AHEAD)
    assert MAX_READ_AHEAD <= source.taken <= MAX_READ_AHEAD + 2 * size
    feed.close()
    assert source.closed.wait(SECONDS)


@pytest.mark.parametrize("size", [7, 128, 70_000])
def test_feed_gives_every_byte_and_then_its_end(size: int) -> None:
    source = Source(b"y" * size, 100)
    feed = feed_of(source)
    pieces = list(iter(lambda: feed.take(SECONDS), None))
    assert sum(map(len, pieces)) == 100 * size
    assert b"" not in pieces
    assert source.closed.wait(SECONDS)


def test_feed_without_news_is_empty() -> None:
    more = threading.Event()

    def pieces() -> Iterator[bytes]:
        yield b"a"
        more.wait(SECONDS)
        raise RunnerUnavailable("cut")

    feed = Feed(None, pieces(), lambda: None)
    assert feed.take(SECONDS) == b"a"
    assert feed.take(0.0) == b""
    more.set()
    assert feed.take(SECONDS) is None
