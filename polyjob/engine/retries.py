"""Failed runner calls: when each is tried again, and when trying ends.

A fault of the machine (`RunnerUnavailable`, or what `is_machine_fault` recognizes) is retried for as long as it lasts.
A refusal (`RunnerRefused`) and a defect of the runner (any other exception) may last for ever, so they are retried only
for a bounded time, the patience.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field

from runners.base import RunnerError, RunnerUnavailable
from runners.machine_faults import is_machine_fault

log = logging.getLogger("polyjob.engine")

TICK = 1.0
"""Seconds between two polls of a backend that sends no wake-up."""
LONGEST_DELAY_SECONDS = 30.0
"""Seconds between two tries of a backend that is unavailable."""
START_PATIENCE = 20.0
"""Seconds for which a start or a build that is refused is tried again."""
FETCH_PATIENCE = 120.0
"""Seconds for which the log or outputs of an ended job are requested again after a refusal."""


def next_delay(delay: float) -> float:
    """Return the seconds to wait after one more failure: doubling, from one tick to `LONGEST_DELAY_SECONDS`."""
    return min(LONGEST_DELAY_SECONDS, max(TICK, delay * 2))


def is_refusal(error: Exception) -> bool:
    """Return whether a failure blames the call itself, so that its retries have to end."""
    return not isinstance(error, RunnerUnavailable) and not is_machine_fault(error)


def error_text(error: Exception) -> str:
    """Return the error's text, which is never empty."""
    return str(error) or repr(error)


@dataclass
class Backoff:
    """The failed calls of one job or build, and the pause before the next call.

    It can be lost: then the pause and the patience start again.
    """

    delay: float = 0.0
    retry_at: float = 0.0
    reason: str | None = None
    """The reason why a call is tried again, as a sentence for the job's note; None if no call is."""
    _refused_seconds: dict[str, float] = field(default_factory=dict)
    """Kind of call → seconds for which it has been refused."""
    _last_failure: tuple[str, float, bool] | None = None
    """Its kind, its moment, and whether it was a refusal."""
    _is_logged: bool = False

    def fail(self, kind: str, error: Exception, now: float, patience: float = float("inf")) -> bool:
        """Record a failure of a call of this kind, and return whether its patience is over.

        The time of an outage between two refusals does not count, so that a backend that returns is asked again.
        """
        refused_seconds = self._count_refusals(kind, now, is_refusal(error))
        if refused_seconds is not None and refused_seconds >= patience:
            return True
        self.delay = next_delay(self.delay)
        if refused_seconds is not None:
            self.delay = min(self.delay, patience - refused_seconds)
        self.retry_at = now + self.delay
        return False

    def _count_refusals(self, kind: str, now: float, is_refused: bool) -> float | None:
        """Return the seconds for which calls of this kind have been refused, or None if the machine is at fault now."""
        previous, self._last_failure = self._last_failure, (kind, now, is_refused)
        if previous is not None and previous[2]:
            previous_kind, previous_time, _ = previous
            elapsed = now - previous_time if is_refused else min(now - previous_time, self.delay)
            self._refused_seconds[previous_kind] = self._refused_seconds.get(previous_kind, 0.0) + elapsed
        elif is_refused:
            self.delay = 0.0
        return self._refused_seconds.get(kind, 0.0) if is_refused else None

    def log_defect(self, error: Exception, message: str, *arguments: object) -> None:
        """Log an exception that no runner may raise, once until a call succeeds."""
        if not isinstance(error, RunnerError) and not self._is_logged:
            self._is_logged = True
            log.error(message, *arguments, exc_info=error)

    def succeed(self) -> None:
        """Record that a call succeeded, and end the pause. The time of earlier refusals still counts."""
        self.end_pause()
        self.reason, self._last_failure, self._is_logged = None, None, False

    def end_pause(self) -> None:
        """Let the next call begin at once."""
        self.delay = self.retry_at = 0.0
