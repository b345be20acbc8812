"""Thread pools for runner calls: one pool for each kind of call, so that no call ever blocks a pass.

Only `Calls` knows about threads. The result of a call waits here until a pass takes it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Protocol

from polyjob.crash_points import crash_point
from polyjob.engine.writes import Write

Key = tuple[str, Any]
"""The subject of a call: `("job", 7)`, `("build", 3)`, `("poll", "docker")` or `("check", "docker")`, for example."""

POOLS = {"build": 0, "look": 2, "control": 8, "files": 4, "pack": 4, "remove": 2, "erase": 2, "sweep": 4, "notify": 8}
"""Pool → threads.

The pools keep slow calls apart. Hung builds do not delay a stop, and slow starts do not delay a poll. A slow drain,
large outputs and the removal of many files do not delay the end of another job, and no receiver of a webhook delays
any of these. The setting `build_slots` sizes the pool of builds. The pool `sweep`, of cleanup, garbage collection and
orphans, has one thread for the data folder and one for each runner, because each call may take hours.
"""


class Call(Protocol):
    """A call that runs in a pool, and what its result means."""

    @property
    def pool(self) -> str:
        """A key of `POOLS`."""

    @property
    def key(self) -> Key:
        """Only one call for a key runs at a time."""

    @property
    def verb(self) -> str:
        """Names the crash points `call-<verb>:before` and `:after`."""

    def run(self) -> Any:
        """Make the call. Runs in a pool's thread."""

    def is_urgent(self, result: Result) -> bool:
        """Return whether the result is worth a pass of its own. Otherwise the next pass takes it.

        May be called from any thread.
        """

    def on_done(self, result: Result) -> Write | None:
        """Take in the result, and return the write that it asks for. Runs in the engine's thread."""


@dataclass(frozen=True)
class FunctionCall:
    """A `Call` made of two functions."""

    pool: str
    key: Key
    verb: str
    run: Callable[[], Any]
    on_done: Callable[[Result], Write | None]

    def is_urgent(self, result: Result) -> bool:
        return True


@dataclass(frozen=True)
class Result:
    """A call that has ended: its `value`, or its `error`."""

    call: Call
    value: Any = None
    error: Exception | None = None

    @property
    def is_urgent(self) -> bool:
        return self.call.is_urgent(self)


class Calls:
    """Run at most one call for each key at a time. Calls `wake`, from any thread, for each urgent result."""

    def __init__(self, wake: Callable[[], None], build_slots: int) -> None:
        self._wake = wake
        self._results: deque[Result] = deque()
        self._busy: dict[Key, str] = {}
        sizes = POOLS | {"build": build_slots}
        self._pools = {name: ThreadPoolExecutor(size, f"{name}-calls") for name, size in sizes.items()}

    def is_busy(self, key: Key) -> bool:
        """Return whether a call for this key is running, or has a result that no pass has taken yet."""
        return key in self._busy

    def submit(self, call: Call) -> None:
        """Run the call in its pool. Its key must not be busy. Only the engine's thread may call this and `take`."""
        self._begin(call)
        self._pools[call.pool].submit(lambda: self._end(execute(call)))

    def has_urgent_results(self) -> bool:
        """Return whether `take` would return an urgent result."""
        return any(result.is_urgent for result in self._results.copy())

    def take(self) -> list[Result]:
        """Return the results since the last call of this method, and free their keys."""
        results = []
        while self._results:
            result = self._results.popleft()
            del self._busy[result.call.key]
            results.append(result)
        return results

    def close(self) -> None:
        """Start no more calls. Returns at once, even if calls hang."""
        for pool in self._pools.values():
            pool.shutdown(wait=False, cancel_futures=True)

    def _begin(self, call: Call) -> None:
        assert call.key not in self._busy, f"{call.key} is busy with {self._busy[call.key]}"
        self._busy[call.key] = call.verb

    def _end(self, result: Result) -> None:
        self._results.append(result)  # first, so that `has_urgent_results` sees it
        if result.is_urgent:
            self._wake()


def execute(call: Call) -> Result:
    """Make the call in the current thread. Crash points: `call-<verb>:before` and `:after`."""
    crash_point(f"call-{call.verb}:before")
    try:
        return Result(call, value=call.run())
    except Exception as error:
        return Result(call, error=error)
    finally:
        crash_point(f"call-{call.verb}:after")


class InlineCalls(Calls):
    """`Calls` without threads, for tests: a call has ended when `submit` returns."""

    def submit(self, call: Call) -> None:
        self._begin(call)
        self._end(execute(call))
