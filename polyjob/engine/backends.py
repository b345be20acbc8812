"""The backends of the engine: load each runner when it is first needed, poll it, and notice when it is unavailable."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NoReturn

from polyjob.db.models import Build
from polyjob.engine.call_pools import FunctionCall, Result, execute
from polyjob.engine.context import Context
from polyjob.engine.retries import TICK, Backoff, error_text
from runners.base import Runner, RunnerUnavailable, State
from runners.registry import UnusableRunner

log = logging.getLogger("polyjob.engine")

OUTAGE_NOTE_SECONDS = 3.0
"""Seconds that a backend is unavailable before its jobs get a note."""


@dataclass
class Backend:
    """The memory of one backend. All of it can be lost."""

    runner: Runner
    should_poll: bool = True
    """The runner has woken the engine, or a call has changed something, since the last poll."""
    polled_at: float = 0.0
    backoff: Backoff = field(default_factory=Backoff)
    unavailable_since: float | None = None
    poll_error: str | None = None
    """The error of the last poll; None if it succeeded."""
    check_error: str | None = None
    """The error of the last check; None if it succeeded. A backend can answer polls and still refuse every new job."""
    states: dict[str, State] = field(default_factory=dict)
    """Handle → state, of polls that no pass has taken yet."""


class Backends:
    """All backends, by the name of their runner.

    `wake` wakes the engine. Runners call it from any thread.
    """

    def __init__(
        self, context: Context, load_runner: Callable[[str, Callable[[], None]], Runner], wake: Callable[[], None]
    ) -> None:
        self.context = context
        self._load_runner = load_runner
        self._wake = wake
        self._backends: dict[str, Backend] = {}

    def runner(self, name: str) -> Runner:
        """Return a runner, loaded at the first call. If that fails, it counts as unavailable until the next start."""
        return self._backend(name).runner

    def of_builds(self) -> dict[str, Runner]:
        """Return the runners of new jobs, and those of all stored builds."""
        names = {row.runner for row in Build.select(Build.runner).distinct()} | {*self.context.settings.runner_names}
        return {name: self.runner(name) for name in sorted(names)}

    def in_use(self) -> dict[str, Runner]:
        """Return the runners of new jobs, and those that jobs have needed since the engine's start."""
        return {name: self.runner(name) for name in sorted({*self.context.settings.runner_names, *self._backends})}

    def may_have_news(self, name: str) -> bool:
        """Return whether `poll` would begin a poll, or has states of an earlier one."""
        backend = self._backend(name)
        return bool(backend.states) or self._is_due(name, backend)

    def poll(self, name: str, handles: Sequence[str]) -> dict[str, State]:
        """Begin the next poll if it is due, and return the new states of these handles.

        A local runner reports them at once. With any other runner they are from the last poll that has ended.
        """
        backend = self._backend(name)
        if self._is_due(name, backend):
            backend.should_poll = False
            backend.polled_at = self.context.clock.seconds()
            call = self._poll_call(name, backend, handles)
            if backend.runner.is_local:
                call.on_done(execute(call))
            else:
                self.context.calls.submit(call)
        states, backend.states = backend.states, {}
        return states

    def look(self, name: str, handle: str) -> dict[str, State]:
        """Return the state of one handle of a local runner."""
        backend = self._backend(name)
        call = self._poll_call(name, backend, [handle])
        call.on_done(execute(call))
        states, backend.states = backend.states, {}
        return states

    def _is_due(self, name: str, backend: Backend) -> bool:
        now = self.context.clock.seconds()
        is_due = backend.should_poll or now - backend.polled_at >= TICK
        return is_due and now >= backend.backoff.retry_at and not self.context.calls.is_busy(("poll", name))

    def _poll_call(self, name: str, backend: Backend, handles: Sequence[str]) -> FunctionCall:
        runner = backend.runner
        return FunctionCall(
            "look",
            ("poll", name),
            "poll",
            lambda: runner.poll(handles),
            lambda result: self._on_polled(backend, result),
        )

    def poll_soon(self) -> None:
        """Let the next pass poll all backends, because a call has changed something."""
        for backend in self._backends.values():
            backend.should_poll = True

    def outage(self, name: str) -> str | None:
        """Return why a backend cannot be reached, once that has lasted for a while, or None."""
        backend = self._backend(name)
        if (
            backend.unavailable_since is None
            or self.context.clock.seconds() - backend.unavailable_since < OUTAGE_NOTE_SECONDS
        ):
            return None
        return f"The {name} runner cannot be reached: {backend.poll_error}"

    def check(self) -> None:
        """Begin a check of the runners of new jobs and of every runner in use; `report` has the result."""
        for name, runner in self.in_use().items():
            key = ("check", name)
            if not self.context.calls.is_busy(key):
                self.context.calls.submit(FunctionCall("look", key, "check", runner.check, self._on_checked))

    def report(self) -> dict[str, Any]:
        """Return the condition of the runners of new jobs, as `/readyz` shows it: `name` is the first that fails."""
        names = self.context.settings.runner_names
        backends = [(name, self._backend(name)) for name in names]
        faults = [(name, backend.poll_error or backend.check_error) for name, backend in backends]
        faults = [(name, message) for name, message in faults if message is not None]
        if not faults:
            return {"name": names[0], "ok": True, "message": None}
        name, message = faults[0]
        others = "".join(f"; {other}: {text}" for other, text in faults[1:])
        return {"name": name, "ok": False, "message": f"{message}{others}"}

    def close(self) -> None:
        for backend in self._backends.values():
            backend.runner.close()

    def _on_polled(self, backend: Backend, result: Result) -> None:
        if result.error is None:
            backend.states |= result.value
            backend.unavailable_since = backend.poll_error = None
            backend.backoff.succeed()
            return
        now = self.context.clock.seconds()
        backend.backoff.fail("poll", result.error, now)
        backend.backoff.log_defect(result.error, "poll failed; it is tried again")
        if backend.unavailable_since is None:
            backend.unavailable_since = now
        backend.poll_error = error_text(result.error)

    def _on_checked(self, result: Result) -> None:
        _, name = result.call.key
        self._backend(name).check_error = None if result.error is None else str(result.error)

    def _backend(self, name: str) -> Backend:
        if name not in self._backends:
            self._backends[name] = Backend(self._load(name))
        return self._backends[name]

    def _load(self, name: str) -> Runner:
        try:
            return self._load_runner(name, lambda: self._on_wake(name))
        except Exception as error:
            log.exception("the runner `%s` cannot be loaded", name)
            reason = str(error) if isinstance(error, UnusableRunner) else repr(error)
            return _MissingRunner(f"the runner `{name}` cannot be loaded: {reason}")

    def _on_wake(self, name: str) -> None:
        """Called by a runner, from any thread."""
        if name in self._backends:
            self._backends[name].should_poll = True
        self._wake()


class _MissingRunner(Runner):
    """Stand in for a runner that cannot be loaded: rows of its jobs may still exist."""

    def __init__(self, reason: str) -> None:
        self._reason = reason

    def _refuse(self, *arguments: Any) -> NoReturn:
        raise RunnerUnavailable(self._reason)

    check = probe = build = start = poll = stop = clean = prevent_start = inventory = cached_artifacts = _refuse  # type: ignore[assignment]
