"""The runner calls that are under way: each in a pool of its kind, so that none ever blocks a pass.

`Calls` is the only thing that knows of threads. What a call returns or raises waits here until a pass takes it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from polyjob.crash_points import crash_point

Key = tuple[str, Any]
"""What a call is for: `("job", 7)`, `("build", 3)`, `("poll", "docker")` or `("check", "docker")`."""

POOLS = {"build": 0, "look": 2, "control": 8, "files": 4, "pack": 4, "remove": 2, "erase": 2, "sweep": 4}
"""Pool → threads. Hung builds never delay a stop, nor slow starts a look. A slow drain, large outputs, the removal of
many files and what is deleted never delay the end of another job. Builds are counted by the setting. Sweeps have a
thread for what no row names and one for each runner, because each may take hours."""


@dataclass(frozen=True)
class Done:
    """A call that has ended: `value`, or `error`."""

    key: Key
    verb: str
    value: Any = None
    error: Exception | None = None


class Calls:
    """At most one call per key at a time. `wake` is called, from any thread, whenever one has ended."""

    def __init__(self, wake: Callable[[], None], build_slots: int) -> None:
        self._wake = wake
        self._done: deque[Done] = deque()
        self._busy: dict[Key, str] = {}
        sizes = POOLS | {"build": build_slots}
        self._pools = {name: ThreadPoolExecutor(size, f"{name}-calls") for name, size in sizes.items()}

    def busy(self, key: Key) -> str | None:
        """The verb that is under way for this key, or whose end no pass has taken yet."""
        return self._busy.get(key)

    def submit(self, pool: str, key: Key, verb: str, call: Callable[[], Any]) -> None:
        """Have `call` run; the key must not be busy. Called by the engine's thread only, as is `take`."""
        self._begin(key, verb)
        self._pools[pool].submit(lambda: self._end(run(key, verb, call)))

    def any_ended(self) -> bool:
        """Whether `take` would give something."""
        return bool(self._done)

    def take(self) -> list[Done]:
        """Every call that has ended since; their keys are free from now on."""
        taken = []
        while self._done:
            done = self._done.popleft()
            del self._busy[done.key]
            taken.append(done)
        return taken

    def close(self) -> None:
        """Begin no call any more; returns at once, whatever hangs."""
        for pool in self._pools.values():
            pool.shutdown(wait=False, cancel_futures=True)

    def _begin(self, key: Key, verb: str) -> None:
        assert key not in self._busy, f"{key} is busy with {self._busy[key]}"
        self._busy[key] = verb

    def _end(self, done: Done) -> None:
        self._done.append(done)
        self._wake()


def run(key: Key, verb: str, call: Callable[[], Any]) -> Done:
    """Make the call here and now. Crash points: `call-<verb>:before` and `:after`."""
    crash_point(f"call-{verb}:before")
    try:
        return Done(key, verb, value=call())
    except Exception as error:
        return Done(key, verb, error=error)
    finally:
        crash_point(f"call-{verb}:after")


class InlineCalls(Calls):
    """The same without threads: a call has ended when `submit` returns. For passes that a test drives by hand."""

    def submit(self, pool: str, key: Key, verb: str, call: Callable[[], Any]) -> None:
        self._begin(key, verb)
        self._end(run(key, verb, call))
