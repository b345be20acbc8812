"""The engine's part that makes builds: each in a pool, cancelled when no job waits for it any more."""

from __future__ import annotations

import logging
import threading
from typing import Any

from polyjob import builds, specs
from polyjob.engine.backends import Backends
from polyjob.engine.calls import Done
from polyjob.engine.context import Context
from polyjob.engine.steps import Step
from polyjob.models import Build
from polyjob.notes import with_note
from polyjob.statuses import Status
from polyjob.transitions import change, transition
from runners.base import BuildFailed, RunnerUnavailable

log = logging.getLogger("polyjob.engine")

AGAIN = b"The build starts again: polyjob was restarted, or could not go on.\n"
RETRY_AFTER = 5.0


class BuildPart:
    """See the module. A build may run again after a crash; a job never does."""

    def __init__(self, context: Context, backends: Backends) -> None:
        self.context = context
        self.backends = backends
        self._cancels: dict[int, threading.Event] = {}
        self._retry_at: dict[int, float] = {}
        self._closing = False

    def steps(self, build: Build) -> list[Step]:
        """The next steps of a build that is not done."""
        if self.context.calls.busy(("build", build.id)):
            return self._cancel_unwanted(build)
        if build.stop_at is not None or not builds.is_wanted(build):
            message = "BuildJob was stopped" if build.stop_at is not None else "No job waits for it"
            return [Step("built", lambda: transition(build, Status.STOPPED, message=message))]
        if build.status is Status.CREATED:
            return self._begin(build)
        if self.context.clock.seconds() >= self._retry_at.get(build.id, 0.0):
            return [self._again(build)]
        return []

    def ended(self, number: int, done: Done) -> Step | None:
        """The step that the end of a build's call asks for."""
        if done.verb == "erase":
            if done.error is not None:
                log.error("build %s could not be removed; it is tried again", number, exc_info=done.error)
                return None
            return Step("erase", lambda: Build.delete().where(Build.id == number).execute())
        cancelled = self._cancels.pop(number).is_set()
        if self._closing:
            return None
        error = done.error
        if isinstance(error, BuildFailed):
            return Step("built", lambda: self._record_failure(number, error, cancelled))
        if error is not None:
            if not isinstance(error, RunnerUnavailable):
                log.error("build %s failed; it is tried again", number, exc_info=error)
            self._retry_at[number] = self.context.clock.seconds() + RETRY_AFTER
            return Step("note", lambda: _note(number, f"The build is tried again: {error}"))
        self._retry_at.pop(number, None)
        return Step("built", lambda: self._record_success(number, done.value))

    def erase(self, build: Build) -> None:
        """Remove what a build that is deleted and done has left; its row goes once that is done."""
        store = self.context.store
        self.context.calls.submit("erase", ("build", build.id), "erase", lambda: store.remove_build(build.uuid))

    def cancel_all(self) -> None:
        """End every build under way, for the engine's own end; the next engine builds them again."""
        self._closing = True
        for cancel in self._cancels.values():
            cancel.set()

    def _begin(self, build: Build) -> list[Step]:
        if len(self._cancels.keys() - {build.id}) >= self.context.settings.build_slots:
            return []
        self._cancels[build.id] = threading.Event()  # holds its slot until it has ended

        def apply() -> None:
            transition(build, Status.SCHEDULED)
            transition(build, Status.RUNNING)

        return [Step("build", apply, lambda: self._submit(build, again=False))]

    def _again(self, build: Build) -> Step:
        """A build that was under way when the engine died, or whose back end was away."""
        return Step("rebuild", lambda: None, lambda: self._submit(build, again=True))

    def _submit(self, build: Build, again: bool) -> None:
        context = self.context
        cancel = self._cancels.setdefault(build.id, threading.Event())
        runner = self.backends.runner(build.runner)
        try:
            spec = specs.build_spec(build, context.store, context.settings, context.installation)
        except Exception:
            log.exception("build %s cannot be begun; it is tried again", build.id)
            del self._cancels[build.id]
            self._retry_at[build.id] = context.clock.seconds() + RETRY_AFTER
            return

        def call() -> str | None:
            context.store.make_build_folder(build.uuid)
            with context.store.open_build_log(build.uuid) as file:
                if again:
                    file.write(AGAIN)
                return runner.build(spec, file, cancel.is_set)

        context.calls.submit("build", ("build", build.id), "build", call)

    def _cancel_unwanted(self, build: Build) -> list[Step]:
        """The wish is committed first, so that no job joins a build that is about to end."""
        if build.stop_at is not None:
            self._cancels[build.id].set()
            return []
        if builds.is_wanted(build):
            return []
        return [Step("cancel", lambda: change(build, stop_at=self.context.clock.wall()))]

    def _record_success(self, number: int, artifact: str | None) -> None:
        _note(number, None)
        build = Build.get_by_id(number)
        transition(build, Status.SUCCEEDED, message="Completed", artifact=artifact)

    def _record_failure(self, number: int, error: BuildFailed, cancelled: bool) -> None:
        _note(number, None)
        build = Build.get_by_id(number)
        if cancelled:
            transition(build, Status.STOPPED, message="BuildJob was stopped", details={"reason": "stopped"})
            return
        details: dict[str, Any] = {"step": error.step, "exit_code": error.code}
        transition(build, Status.FAILED, message=str(error), details=details)


def _note(number: int, text: str | None) -> None:
    """Why the build is tried again; None where it is not."""
    build = Build.get_by_id(number)
    notes = with_note(build.notes, "retry", text)
    if notes != build.notes:
        change(build, notes=notes)
