"""A followed log: what the API server sends of it as it comes, kept until it is asked for, up to some size."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from typing import Any

from runners.base import RunnerUnavailable
from runners.kubernetes.api import hang_up

MAX_READ_AHEAD = 2 << 20
"""Bytes that are kept of one log; then the API server has to wait. It sends a line at a time, so lines do not count."""
CHUNK = 1 << 18
"""Bytes that one `take` returns at most."""


class Feed:
    """See the module. Its thread ends with the log, or with `close`."""

    def __init__(self, answer: Any, pieces: Iterator[bytes], close: Callable[[], None]) -> None:
        """`close` is called once, when nothing more is read."""
        self._answer = answer
        self._pieces = pieces
        self._close = close
        self._kept = bytearray()
        self._changed = threading.Condition()
        self._is_over = False
        """Nothing more is read."""
        self._is_closed = False
        threading.Thread(target=self._read, name="kubernetes-log", daemon=True).start()

    def take(self, seconds: float) -> bytes | None:
        """Return what is there, up to `CHUNK` bytes, and wait up to `seconds` for the first of them.

        Empty where none came for so long, None where none ever will."""
        with self._changed:
            self._changed.wait_for(lambda: self._kept or self._is_over, seconds)
            if not self._kept:
                return None if self._is_over else b""
            piece = bytes(self._kept[:CHUNK])
            del self._kept[:CHUNK]
            self._changed.notify_all()
            return piece

    def close(self) -> None:
        """Idempotent; returns at once."""
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()
        hang_up(self._answer)

    def _read(self) -> None:
        try:
            with contextlib.suppress(RunnerUnavailable):  # it is asked for again, from where it was
                for piece in self._pieces:
                    if not self._keep(piece):
                        return
        finally:
            self._close()
            with self._changed:
                self._is_over = True
                self._changed.notify_all()

    def _keep(self, piece: bytes) -> bool:
        """Wait for room, and keep a piece; false where the feed was closed."""
        with self._changed:
            self._changed.wait_for(lambda: len(self._kept) < MAX_READ_AHEAD or self._is_closed)
            if self._is_closed:
                return False
            self._kept += piece
            self._changed.notify_all()
            return True
