"""A followed log: what the API server sends of it as it comes, kept until it is asked for, up to some size."""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Callable, Iterator
from typing import Any

from runners.base import RunnerUnavailable
from runners.kubernetes_api import hang_up

WAITING = 64
"""Pieces that are kept; then the API server has to wait."""
LOOK = 0.2


class Feed:
    """See the module. Its thread ends with the log, or with `close`."""

    def __init__(self, answer: Any, pieces: Iterator[bytes], close: Callable[[], None]) -> None:
        """`close` is called once, when nothing more is read."""
        self._answer = answer
        self._pieces = pieces
        self._close = close
        self._kept: queue.Queue[bytes | None] = queue.Queue(WAITING)
        self._is_closed = threading.Event()
        self._is_over = False
        threading.Thread(target=self._read, name="kubernetes-log", daemon=True).start()

    def take(self, seconds: float) -> bytes | None:
        """The next piece; empty where none comes for so long, None where none ever will."""
        if self._is_over:
            return None
        try:
            piece = self._kept.get(timeout=seconds) if seconds else self._kept.get_nowait()
        except queue.Empty:
            return b""
        self._is_over = piece is None
        return piece

    def close(self) -> None:
        """Idempotent; returns at once."""
        self._is_closed.set()
        hang_up(self._answer)

    def _read(self) -> None:
        try:
            with contextlib.suppress(RunnerUnavailable):  # it is asked for again, from where it was
                for piece in self._pieces:
                    self._keep(piece)
                    if self._is_closed.is_set():
                        return
            self._keep(None)
        finally:
            self._close()

    def _keep(self, piece: bytes | None) -> None:
        while not self._is_closed.is_set():
            with contextlib.suppress(queue.Full):
                self._kept.put(piece, timeout=LOOK)
                return
