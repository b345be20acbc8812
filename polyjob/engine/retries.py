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
"""Seconds between two looks at a back end that hints at nothing."""
LONGEST_DELAY = 30.0
"""Seconds between two tries of a back end that is away."""
START_PATIENCE = 20.0
"""Seconds for which a start or a build that is refused is tried again."""
FETCH_PATIENCE = 120.0
"""Seconds for which a log, or outputs, that cannot be fetched from a job that has ended are asked for again."""


def next_delay(delay: float) -> float:
    """Seconds to wait after one more failure: doubling, from a tick to the longest."""
    return min(LONGEST_DELAY, max(TICK, delay * 2))


def is_refusal(error: Exception) -> bool:
    """Return whether a failure blames the call itself, so that its retries have to end."""
    return not isinstance(error, RunnerUnavailable) and not is_machine_fault(error)


def words(error: Exception) -> str:
    """The error's text, which is never empty."""
    return str(error) or repr(error)


@dataclass
class Retry:
    """The failed calls of one job or build. It can be lost: then the pause and the patience start again."""

    delay: float = 0.0
    retry_at: float = 0.0
    reason: str | None = None
    """Why a call is tried again, as a sentence for people; None where none is."""
    _refused: dict[str, float] = field(default_factory=dict)
    """Kind of call → seconds for which it has been refused."""
    _last: tuple[str, float, bool] | None = None
    """The last failure: its kind, its moment, and whether it was a refusal."""
    _is_logged: bool = False

    def fail(self, kind: str, error: Exception, now: float, patience: float = float("inf")) -> bool:
        """Record a failure of a call of this kind, and return whether its patience is over.

        The time of an outage between two refusals does not count, so that a back end which comes back is asked again.
        """
        refused = self._refuse(kind, now, is_refusal(error))
        if refused is not None and refused >= patience:
            return True
        self.delay = next_delay(self.delay)
        if refused is not None:
            self.delay = min(self.delay, patience - refused)
        self.retry_at = now + self.delay
        return False

    def _refuse(self, kind: str, now: float, is_refused: bool) -> float | None:
        """Seconds for which calls of this kind have been refused; None where the machine is at fault now."""
        before, self._last = self._last, (kind, now, is_refused)
        if before is not None and before[2]:
            elapsed = now - before[1] if is_refused else min(now - before[1], self.delay)
            self._refused[before[0]] = self._refused.get(before[0], 0.0) + elapsed
        elif is_refused:
            self.delay = 0.0
        return self._refused.get(kind, 0.0) if is_refused else None

    def log_defect(self, error: Exception, message: str, *arguments: object) -> None:
        """Write what no runner may raise into the server's log, once until a call succeeds."""
        if not isinstance(error, RunnerError) and not self._is_logged:
            self._is_logged = True
            log.error(message, *arguments, exc_info=error)

    def succeed(self) -> None:
        """Record that a call went well: nothing is waited for any more. What was refused before still counts."""
        self.rest_no_more()
        self.reason, self._last, self._is_logged = None, None, False

    def rest_no_more(self) -> None:
        """Let the next call come at once."""
        self.delay = self.retry_at = 0.0
