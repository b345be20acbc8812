"""The buffer of a followed log."""

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
    """Chunks of a log, with the number of bytes that were taken."""

    def __init__(self, chunk: bytes, count: int | None = None) -> None:
        self.chunk, self.count = chunk, count
        self.taken = 0
        self.closed = threading.Event()

    def __iter__(self) -> Iterator[bytes]:
        for _ in itertools.repeat(None) if self.count is None else range(self.count):
            self.taken += len(self.chunk)
            yield self.chunk


def feed_of(source: Source) -> Feed:
    return Feed(None, iter(source), source.closed.set)


@pytest.mark.parametrize("size", [16, 128, 1 << 16])
def test_feed_is_limited_in_bytes(size: int) -> None:
    source = Source(b"x" * size)
    feed = feed_of(source)
    wait_for(lambda: source.taken >= MAX_READ_AHEAD)
    assert MAX_READ_AHEAD <= source.taken <= MAX_READ_AHEAD + 2 * size
    feed.close()
    assert source.closed.wait(SECONDS)


@pytest.mark.parametrize("size", [7, 128, 70_000])
def test_feed_returns_every_byte_and_then_its_end(size: int) -> None:
    source = Source(b"y" * size, 100)
    feed = feed_of(source)
    chunks = list(iter(lambda: feed.take(SECONDS), None))
    assert sum(map(len, chunks)) == 100 * size
    assert b"" not in chunks
    assert source.closed.wait(SECONDS)


def test_feed_without_new_data_is_empty() -> None:
    more = threading.Event()

    def chunks() -> Iterator[bytes]:
        yield b"a"
        more.wait(SECONDS)
        raise RunnerUnavailable("cut")

    feed = Feed(None, chunks(), lambda: None)
    assert feed.take(SECONDS) == b"a"
    assert feed.take(0.0) == b""
    more.set()
    assert feed.take(SECONDS) is None
