"""What slows down whoever tries passwords."""

from __future__ import annotations

import threading
import time
from collections import deque

from polyjob.errors import PolyjobError

FREE_TRIES = 5
WINDOW = 300.0
"""Seconds in which failures are counted."""
MOST_KEYS = 10_000


class Throttled(PolyjobError):
    """Too many tries; the next may come in `retry_after` seconds."""

    def __init__(self, retry_after: int) -> None:
        super().__init__(f"Request was throttled. Expected available in {retry_after} seconds.")
        self.retry_after = retry_after


class FailureLimit:
    """Counts failures by key, in this process: after the free ones, each further try waits twice as long."""

    def __init__(self, free: int = FREE_TRIES, window: float = WINDOW) -> None:
        self._free = free
        self._window = window
        self._failures: dict[str, deque[float]] = {}
        self._lock = threading.Lock()

    def check(self, *keys: str) -> None:
        """Raises Throttled where a key has failed too often of late."""
        moment = time.monotonic()
        with self._lock:
            wait = max(self._wait(key, moment) for key in keys)
        if wait > 0:
            raise Throttled(int(wait) + 1)

    def failed(self, *keys: str) -> None:
        with self._lock:
            for key in keys:
                if len(self._failures) >= MOST_KEYS and key not in self._failures:
                    del self._failures[next(iter(self._failures))]
                self._failures.setdefault(key, deque(maxlen=self._free + 20)).append(time.monotonic())

    def succeeded(self, key: str) -> None:
        with self._lock:
            self._failures.pop(key, None)

    def _wait(self, key: str, moment: float) -> float:
        failures = self._failures.get(key)
        while failures and moment - failures[0] > self._window:
            failures.popleft()
        if not failures or len(failures) < self._free:
            return 0.0
        delay = min(self._window, 2.0 ** (len(failures) - self._free))
        return failures[-1] + delay - moment
