"""The engine's part that knows the runners: loads each when first needed, polls it, and notices when it is away."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NoReturn

from polyjob.db.models import Build
from polyjob.engine.call_pools import Done, run
from polyjob.engine.context import Context
from polyjob.engine.retries import TICK, Retry, words
from runners.base import Runner, RunnerUnavailable, State

log = logging.getLogger("polyjob.engine")

UNREACHABLE_AFTER = 3.0
"""Seconds that a back end is away before its jobs say so."""


@dataclass
class Backend:
    """What is remembered of one runner; every bit of it can be lost."""

    runner: Runner
    woken: bool = True
    """The runner has hinted that something changed since it was last polled."""
    polled_at: float = 0.0
    retry: Retry = field(default_factory=Retry)
    away_since: float | None = None
    message: str | None = None
    """Why the last poll failed; None if it did not."""
    refusal: str | None = None
    """Why the last check failed; None if it did not. A backend can answer polls and still refuse every new job."""
    states: dict[str, State] | None = None


class Backends:
    """See the module. `wake` wakes the engine; it is called from any thread."""

    def __init__(
        self, context: Context, load_runner: Callable[[str, Callable[[], None]], Runner], wake: Callable[[], None]
    ) -> None:
        self.context = context
        self._load_runner = load_runner
        self._wake = wake
        self._backends: dict[str, Backend] = {}

    def runner(self, name: str) -> Runner:
        """Loaded when first asked for. One that cannot be loaded counts as away, until the next start."""
        return self._backend(name).runner

    def of_builds(self) -> dict[str, Runner]:
        """The runners of new jobs and of builds that are there."""
        names = {row.runner for row in Build.select(Build.runner).distinct()} | {self.context.settings.runner}
        return {name: self.runner(name) for name in sorted(names)}

    def in_use(self) -> dict[str, Runner]:
        """The runner of new jobs, and those that jobs needed since the start."""
        return {name: self.runner(name) for name in sorted({self.context.settings.runner, *self._backends})}

    def poll(self, name: str, handles: list[str]) -> dict[str, State]:
        """What is newly known of these handles: from this very moment on a local runner, from the last poll that ended
        on any other, whose next one is begun where it is due."""
        backend, calls, clock = self._backend(name), self.context.calls, self.context.clock
        key, runner = ("poll", name), backend.runner
        due = runner.is_local or backend.woken or clock.seconds() - backend.polled_at >= TICK
        if due and not calls.busy(key) and clock.seconds() >= backend.retry.retry_at:
            backend.woken = False
            backend.polled_at = clock.seconds()
            if runner.is_local:
                self._polled(backend, run(key, "poll", lambda: runner.poll(handles)))
            else:
                calls.submit("look", key, "poll", lambda: runner.poll(handles))
        states, backend.states = backend.states or {}, None
        return states

    def look_again(self) -> None:
        """Have the next pass poll, for a call has changed something."""
        for backend in self._backends.values():
            backend.woken = True

    def ended(self, name: str, done: Done) -> None:
        """A poll or a check has ended."""
        if done.verb == "poll":
            self._polled(self._backend(name), done)
        else:
            self._backend(name).refusal = None if done.error is None else str(done.error)

    def away(self, name: str) -> str | None:
        """Why the runner cannot be reached, once that has lasted; None while it can."""
        backend = self._backend(name)
        if backend.away_since is None or self.context.clock.seconds() - backend.away_since < UNREACHABLE_AFTER:
            return None
        return f"The {name} runner cannot be reached: {backend.message}"

    def check(self) -> None:
        """Have the runner of new jobs and every runner in use asked whether it can be reached; see `report`."""
        for name, runner in self.in_use().items():
            if not self.context.calls.busy(("check", name)):
                self.context.calls.submit("look", ("check", name), "check", runner.check)

    def report(self) -> dict[str, Any]:
        """How the runner of new jobs is, as `/readyz` tells it."""
        name = self.context.settings.runner
        backend = self._backend(name)
        message = backend.message or backend.refusal
        return {"name": name, "ok": message is None, "message": message}

    def close(self) -> None:
        for backend in self._backends.values():
            backend.runner.close()

    def _polled(self, backend: Backend, done: Done) -> None:
        if done.error is None:
            backend.states = (backend.states or {}) | done.value
            backend.away_since = backend.message = None
            backend.retry.succeed()
            return
        now = self.context.clock.seconds()
        backend.retry.fail("poll", done.error, now)
        backend.retry.log_defect(done.error, "poll failed; it is tried again")
        backend.away_since = now if backend.away_since is None else backend.away_since
        backend.message = words(done.error)

    def _backend(self, name: str) -> Backend:
        if name not in self._backends:
            self._backends[name] = Backend(self._load(name))
        return self._backends[name]

    def _load(self, name: str) -> Runner:
        try:
            return self._load_runner(name, lambda: self._woken(name))
        except Exception as error:
            log.exception("the runner `%s` cannot be loaded", name)
            return _NotLoaded(f"the runner `{name}` cannot be loaded: {error!r}")

    def _woken(self, name: str) -> None:
        """Called by a runner, from any thread."""
        if name in self._backends:
            self._backends[name].woken = True
        self._wake()


class _NotLoaded(Runner):
    """Stands for a runner that is not installed any more, as rows of its jobs may still be there."""

    def __init__(self, why: str) -> None:
        self._why = why

    def _refuse(self, *arguments: Any) -> NoReturn:
        raise RunnerUnavailable(self._why)

    check = probe = build = start = poll = stop = clean = prevent_start = inventory = cached_artifacts = _refuse  # type: ignore[assignment]
