"""The engine's memory of one job between passes. All of it can be lost: the next engine finds it out again."""

from __future__ import annotations

from dataclasses import dataclass, field

from polyjob.engine import finalize
from polyjob.engine.call_pools import Call
from polyjob.engine.finalize import LogPosition
from polyjob.engine.log_mask import LogMask
from polyjob.engine.retries import TICK, Backoff
from runners.base import State, Unknown

FIRST_FETCH_SECONDS = 0.2
"""Seconds from a job's start to the first fetch of its log. Many jobs have ended by then."""
FETCH_PAUSE_FACTOR = 4
"""The pause after a fetch, as a multiple of the time that the fetch took."""
QUIET_PAUSE_GROWTH = 1.5


@dataclass
class Observation:
    """The last report of the backend on a job."""

    state: State | None = None
    """Not yet decided on; None once a decision has used it."""
    unknown_reason: str | None = None
    """The reason why the backend cannot tell the state of the job; None if it can."""
    last: State | None = None
    """Kept after the decision, to notice the next news."""

    def record(self, state: State) -> None:
        self.last = state
        is_unknown = isinstance(state, Unknown)
        self.unknown_reason = state.reason if isinstance(state, Unknown) else None
        self.state = None if is_unknown else state


@dataclass
class LogFetch:
    """The position in a remote log, and the time of the next fetch."""

    position: LogPosition | None = None
    """None before this engine's first fetch: then the position is the one in the row."""
    began_at: float = 0.0
    seconds: float = 0.0
    """The time that the last fetch took. A backend may have to read all of a long log to find its end."""
    quiet_pause: float = 0.0
    """Seconds to wait because the last fetches brought nothing; grows with each of them."""

    def due_at(self, max_pause: float) -> float:
        pause = max(TICK, FETCH_PAUSE_FACTOR * self.seconds, min(self.quiet_pause, max_pause))
        return self.began_at + pause

    def expect_output(self, now: float) -> None:
        """Fetch soon: the command has just started."""
        self.began_at, self.quiet_pause = now - TICK + FIRST_FETCH_SECONDS, 0.0

    def begin(self, position: LogPosition, now: float) -> None:
        self.position, self.began_at = position, now

    def end(self, position: LogPosition, now: float) -> None:
        assert self.position is not None
        new_bytes = position.length - self.position.length
        self.seconds = now - self.began_at
        self.quiet_pause = 0.0 if new_bytes else self.quiet_pause * QUIET_PAUSE_GROWTH + TICK
        if new_bytes >= finalize.LOG_PIECE_BYTES:  # there is more
            self.began_at = self.seconds = 0.0
        self.position = position


@dataclass
class JobMemory:
    """The memory of one job."""

    call: Call | None = None
    """The call that is running, or whose result no pass has taken yet."""
    is_call_awaited: bool = False
    """The job is stopping or has ended, so that its next step waits for the call."""
    handle: str | None = None
    """Known here before it is committed."""
    observation: Observation = field(default_factory=Observation)
    log: LogFetch = field(default_factory=LogFetch)
    log_mask: LogMask | None = None
    """Of a job with secrets, once its log is fetched."""
    backoff: Backoff = field(default_factory=Backoff)
    is_broken: bool = False
    """The last decision or preparation raised an exception."""
    is_stopping: bool = False
    """This engine has seen the stop request."""
    killed_at: float | None = None
    """The time of the last KILL."""
    has_inputs: bool = False
    """The outputs with which a retry begins are linked."""
    rebuilds: int = 0
    ending_since: float | None = None
    """The time at which this engine first saw the recorded exit."""
    has_left_nothing: bool = False
    """The job has ended without a log and outputs, so there is nothing to store."""
    is_finished: bool = False
    """Log and outputs are stored; only the terminal status is missing."""
    is_cleared: bool = False
    """The backend is cleared, too."""
    packing_note: str | None = None
    dropped_outputs: list[str] = field(default_factory=list)
    """Notes on outputs that could not be kept."""
    quiet_until: float = 0.0
    """Time until which no decision is needed unless there are news, since the last one found nothing to do."""
    missing: dict[str, str] = field(default_factory=dict)
    """`log` or `outputs` → the reason why it could not be fetched."""

    def is_waiting(self, now: float) -> bool:
        """Return whether no call may begin: one is running, or the pause after a failed one is not over."""
        return self.call is not None or now < self.backoff.retry_at
