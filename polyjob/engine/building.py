"""The engine's part that makes builds: each in a pool, cancelled when no job waits for it any more."""

from __future__ import annotations

import logging
import threading
from typing import TYPE_CHECKING, Any

from polyjob import builds, specs
from polyjob.engine.calls import Done
from polyjob.engine.steps import Step
from polyjob.models import LIVE_BUILDS, Build
from polyjob.statuses import Status
from polyjob.transitions import transition
from runners.base import BuildFailed, RunnerUnavailable

if TYPE_CHECKING:
    from polyjob.engine.passes import Engine

log = logging.getLogger("polyjob.engine")

AGAIN = b"polyjob was restarted; the build starts again.\n"
RETRY_AFTER = 5.0


class BuildPart:
    """See the module. A build may run again after a crash; a job never does."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self._cancels: dict[int, threading.Event] = {}
        self._retry_at: dict[int, float] = {}
        self._closing = False

    def steps(self) -> list[Step]:
        steps = []
        for build in Build.select().where(LIVE_BUILDS).order_by(Build.id):
            if build.status is Status.CREATED:
                steps += self._begin(build)
            elif self.engine.calls.busy(("build", build.id)):
                self._cancel_unwanted(build)
            elif self.engine.clock.seconds() >= self._retry_at.get(build.id, 0.0):
                steps.append(Step("rebuild", lambda: None, lambda build=build: self._submit(build, again=True)))
        return steps

    def ended(self, number: int, done: Done) -> Step | None:
        """The step that the end of a build's call asks for."""
        cancelled = self._cancels.pop(number).is_set()
        if self._closing:
            return None
        error = done.error
        if isinstance(error, BuildFailed):
            return Step("built", lambda: self._record_failure(number, error, cancelled))
        if error is not None:
            if not isinstance(error, RunnerUnavailable):
                log.error("build %s failed; it is tried again", number, exc_info=error)
            self._retry_at[number] = self.engine.clock.seconds() + RETRY_AFTER
            return None
        self._retry_at.pop(number, None)
        return Step("built", lambda: self._record_success(number, done.value))

    def cancel_all(self) -> None:
        """End every build under way, for the engine's own end; the next engine builds them again."""
        self._closing = True
        for cancel in self._cancels.values():
            cancel.set()

    def _begin(self, build: Build) -> list[Step]:
        if not builds.is_wanted(build):
            return [Step("built", lambda: transition(build, Status.STOPPED, message="No job waits for it"))]
        if len(self._cancels) >= self.engine.settings.build_slots:
            return []
        self._cancels[build.id] = threading.Event()

        def apply() -> None:
            transition(build, Status.SCHEDULED)
            transition(build, Status.RUNNING)

        return [Step("build", apply, lambda: self._submit(build, again=False))]

    def _submit(self, build: Build, again: bool) -> None:
        engine = self.engine
        cancel = self._cancels.setdefault(build.id, threading.Event())
        runner = engine.backend(build.runner)
        spec = specs.build_spec(build, engine.store, engine.settings, engine.installation)

        def call() -> str | None:
            engine.store.make_build_folder(build.uuid)
            with open(engine.store.build_log(build.uuid), "ab", buffering=0) as file:
                if again:
                    file.write(AGAIN)
                return runner.build(spec, file, cancel.is_set)

        engine.calls.submit("build", ("build", build.id), "build", call)

    def _cancel_unwanted(self, build: Build) -> None:
        if build.stop_at is not None or not builds.is_wanted(build):
            self._cancels[build.id].set()

    def _record_success(self, number: int, artifact: str | None) -> None:
        build = Build.get_by_id(number)
        transition(build, Status.SUCCEEDED, message="Completed", artifact=artifact)

    def _record_failure(self, number: int, error: BuildFailed, cancelled: bool) -> None:
        build = Build.get_by_id(number)
        if cancelled:
            transition(build, Status.STOPPED, message="BuildJob was stopped", details={"reason": "stopped"})
            return
        details: dict[str, Any] = {"step": error.step, "exit_code": error.code}
        transition(build, Status.FAILED, message=str(error), details=details)
