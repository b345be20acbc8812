"""Limits that slow down whoever tries passwords."""

from __future__ import annotations

import threading
import time
from collections import deque

from polyjob.errors import PolyjobError

MAX_FAILURES = 5
"""Failed tries that are free; each further one waits twice as long."""
WINDOW = 300.0
"""Seconds in which failures are counted."""
MAX_COUNTED = 10_000
"""Keys that one limit counts at once; the one that failed least recently is forgotten first."""

_lock = threading.Lock()


class Throttled(PolyjobError):
    """Too many tries; the next may come in `retry_after` seconds."""

    def __init__(self, retry_after: int) -> None:
        super().__init__(f"Request was throttled. Expected available in {retry_after} seconds.")
        self.retry_after = retry_after


class FailureLimit:
    """Counts failures by key, in this process. After the free ones, each further try waits twice as long, up to
    `longest` seconds."""

    def __init__(self, free: int = MAX_FAILURES, longest: float = WINDOW) -> None:
        self.free = free
        self.longest = longest
        self._failures: dict[str, deque[float]] = {}

    def forget(self, key: str) -> None:
        """Count from zero again."""
        with _lock:
            self._failures.pop(key, None)

    def _wait(self, key: str, moment: float) -> float:
        failures = self._failures.get(key)
        while failures and moment - failures[0] > WINDOW:
            failures.popleft()
        if not failures or len(failures) < self.free:
            return 0.0
        delay = min(self.longest, 2.0 ** (len(failures) - self.free))
        return failures[-1] + delay - moment

    def _count(self, key: str, moment: float) -> None:
        failures = self._failures.pop(key, None) or deque(maxlen=self.free + 20)
        if len(self._failures) >= MAX_COUNTED:
            del self._failures[next(iter(self._failures))]
        self._failures[key] = failures
        failures.append(moment)

    def _take_back(self, key: str, moment: float) -> None:
        failures = self._failures.get(key)
        if failures and moment in failures:
            failures.remove(moment)


class Attempt:
    """A try that counts as failed from its beginning on, so that tries at the same time cannot pass a limit."""

    def __init__(self, *counted: tuple[FailureLimit, str]) -> None:
        """Count the try in each limit, by its key. Raises Throttled, and counts nothing, where one refuses it."""
        self._counted = counted
        self._moment = time.monotonic()
        with _lock:
            wait = max(limit._wait(key, self._moment) for limit, key in counted)
            if wait <= 0:
                for limit, key in counted:
                    limit._count(key, self._moment)
        if wait > 0:
            raise Throttled(int(wait) + 1)

    def take_back(self) -> None:
        """Count the try no longer: it did not fail."""
        with _lock:
            for limit, key in self._counted:
                limit._take_back(key, self._moment)

    def fail(self) -> None:
        """Have the wait for the next try begin now."""
        self.take_back()
        with _lock:
            for limit, key in self._counted:
                limit._count(key, time.monotonic())
