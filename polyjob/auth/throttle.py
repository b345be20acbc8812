"""Delays after failed attempts, to slow down guessing of passwords and tokens."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable

from polyjob.errors import PolyjobError

MAX_FAILURES = 5
"""Failures without a delay; each further one doubles the delay."""
WINDOW_SECONDS = 300.0
"""Time for which a failure counts."""
MAX_COUNTED_KEYS = 10_000
"""Keys that one limit counts at once. The one that failed least recently is forgotten first."""

clock: Callable[[], float] = time.monotonic
"""Returns seconds and never goes back. Tests replace it."""

_lock = threading.Lock()


class Throttled(PolyjobError):
    """Too many failures; the next attempt is allowed in `retry_after` seconds."""

    def __init__(self, retry_after: int) -> None:
        super().__init__(f"Request was throttled. Expected available in {retry_after} seconds.")
        self.retry_after = retry_after


class FailureLimit:
    """Counts failures by key, in this process. A key stands for an account, an address or a username.

    After `max_failures`, each further failure doubles the delay until the next attempt, up to `max_delay_seconds`.
    """

    def __init__(self, max_failures: int = MAX_FAILURES, max_delay_seconds: float = WINDOW_SECONDS) -> None:
        self.max_failures = max_failures
        self.max_delay_seconds = max_delay_seconds
        self._failures: dict[str, deque[float]] = {}

    def forget(self, key: str) -> None:
        """Reset the count of a key."""
        with _lock:
            self._failures.pop(key, None)

    def _delay(self, key: str, moment: float) -> float:
        failures = self._failures.get(key)
        while failures and moment - failures[0] > WINDOW_SECONDS:
            failures.popleft()
        if not failures or len(failures) < self.max_failures:
            return 0.0
        delay = min(self.max_delay_seconds, 2.0 ** (len(failures) - self.max_failures))
        return failures[-1] + delay - moment

    def _count(self, key: str, moment: float) -> None:
        failures = self._failures.pop(key, None) or deque(maxlen=self.max_failures + 20)
        if len(self._failures) >= MAX_COUNTED_KEYS:
            del self._failures[next(iter(self._failures))]
        self._failures[key] = failures
        failures.append(moment)

    def _cancel(self, key: str, moment: float) -> None:
        failures = self._failures.get(key)
        if failures and moment in failures:
            failures.remove(moment)


class Attempt:
    """An attempt to sign in. It counts as failed from its start, so that parallel attempts cannot pass a limit."""

    def __init__(self, *counted: tuple[FailureLimit, str]) -> None:
        """Count the attempt in each limit, by its key. Raises Throttled, and counts nothing, if one refuses it."""
        self._counted = counted
        self._moment = clock()
        with _lock:
            delay = max(limit._delay(key, self._moment) for limit, key in counted)
            if delay <= 0:
                for limit, key in counted:
                    limit._count(key, self._moment)
        if delay > 0:
            raise Throttled(int(delay) + 1)

    def cancel(self) -> None:
        """Stop counting the attempt, because it did not fail."""
        with _lock:
            for limit, key in self._counted:
                limit._cancel(key, self._moment)

    def fail(self) -> None:
        """Restart the delay before the next attempt at this moment."""
        self.cancel()
        with _lock:
            for limit, key in self._counted:
                limit._count(key, clock())
