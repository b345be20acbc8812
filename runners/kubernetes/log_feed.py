"""Followed logs: a thread reads what the API server sends, and keeps it, up to some size, until it is taken."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from typing import Any

from runners.base import RunnerUnavailable
from runners.kubernetes.api import hang_up

MAX_READ_AHEAD = 2 << 20
"""Maximum number of bytes of one log that wait to be taken; then the API server has to wait.

The limit is not in lines, because the API server sends one line at a time.
"""
CHUNK_BYTES = 1 << 18
"""Maximum number of bytes that one `take` returns."""


class Feed:
    """One followed log. Its thread ends with the log, or with `close`."""

    def __init__(self, response: Any, chunks: Iterator[bytes], close: Callable[[], None]) -> None:
        """`close` is called once, when the thread ends."""
        self._response = response
        self._chunks = chunks
        self._close = close
        self._buffer = bytearray()
        self._changed = threading.Condition()
        self._is_over = False
        """The thread has ended."""
        self._is_closed = False
        threading.Thread(target=self._read, name="kubernetes-log", daemon=True).start()

    def take(self, seconds: float) -> bytes | None:
        """Return up to `CHUNK_BYTES` bytes; wait up to `seconds` for the first of them.

        Returns empty bytes if none arrived in that time, None if the log has ended.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._buffer or self._is_over, seconds)
            if not self._buffer:
                return None if self._is_over else b""
            data = bytes(self._buffer[:CHUNK_BYTES])
            del self._buffer[:CHUNK_BYTES]
            self._changed.notify_all()
            return data

    def close(self) -> None:
        """Stop following the log. Idempotent; returns at once."""
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()
        hang_up(self._response)

    def _read(self) -> None:
        try:
            with contextlib.suppress(RunnerUnavailable):  # the reader follows the log again, from its cursor on
                for chunk in self._chunks:
                    if not self._keep(chunk):
                        return
        finally:
            self._close()
            with self._changed:
                self._is_over = True
                self._changed.notify_all()

    def _keep(self, chunk: bytes) -> bool:
        """Wait for room, and keep a chunk. Return False if the feed was closed."""
        with self._changed:
            self._changed.wait_for(lambda: len(self._buffer) < MAX_READ_AHEAD or self._is_closed)
            if self._is_closed:
                return False
            self._buffer += chunk
            self._changed.notify_all()
            return True
