"""The engine's part that makes builds: each in a pool, cancelled when no job waits for it any more."""

from __future__ import annotations

import logging
import os
import threading
from pathlib import Path
from typing import Any, BinaryIO

from polyjob.db.models import Build
from polyjob.engine.backends import Backends
from polyjob.engine.call_pools import Done
from polyjob.engine.context import Context
from polyjob.engine.retries import START_PATIENCE, Retry, words
from polyjob.engine.writes import Step
from polyjob.services import builds, specs
from polyjob.services.transitions import transition, update_columns, update_note
from polyjob.statuses import Status
from runners.base import BuildFailed

log = logging.getLogger("polyjob.engine")

AGAIN = b"The build starts again: polyjob was restarted, or could not go on.\n"


class BuildDriver:
    """See the module. A build may run again after a crash; a job never does."""

    def __init__(self, context: Context, backends: Backends) -> None:
        self.context = context
        self.backends = backends
        self._cancels: dict[int, threading.Event] = {}
        self._retries: dict[int, Retry] = {}
        self._closing = False

    def steps(self, build: Build) -> list[Step]:
        """The next steps of a build that is not done."""
        if self.context.calls.busy(("build", build.id)):
            return self._cancel_unwanted(build)
        if build.stop_at is not None or not builds.is_needed(build):
            message = builds.STOPPED_MESSAGE if build.stop_at is not None else "No job waits for it"
            return [Step("built", lambda: transition(build, Status.STOPPED, message=message))]
        if build.status is Status.CREATED:
            return self._begin(build)
        return [] if self.rests(build.id) else [self._again(build)]

    def rests(self, number: int) -> bool:
        """Return whether a build rests after a call that failed."""
        return self.context.clock.seconds() < self._retry(number).retry_at

    def ended(self, number: int, done: Done) -> Step | None:
        """The step that the end of a build's call asks for."""
        cancelled = self._cancels.pop(number).is_set()
        if self._closing:
            return None
        error = done.error
        if isinstance(error, BuildFailed):
            return self._failed(number, error, cancelled)
        if error is not None:
            return self._retry_or_fail(number, error)
        self._retries.pop(number, None)
        return Step("built", lambda: self._record_success(number, done.value))

    def _retry_or_fail(self, number: int, error: Exception) -> Step:
        """Try a build again that could not go on; for a bounded time, unless the machine is at fault."""
        retry = self._retry(number)
        retry.log_defect(error, "build %s failed; it is tried again", number)
        if retry.fail("build", error, self.context.clock.seconds(), START_PATIENCE):
            return self._failed(number, BuildFailed(words(error)), cancelled=False)
        return Step("note", lambda: _note(number, f"The build is tried again: {words(error)}"))

    def _failed(self, number: int, error: BuildFailed, cancelled: bool) -> Step:
        self._retries.pop(number, None)
        return Step("built", lambda: self._record_failure(number, error, cancelled))

    def _retry(self, number: int) -> Retry:
        return self._retries.setdefault(number, Retry())

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
        _ = build.code  # loaded now, because the call's thread reads no rows

        def call() -> str | None:
            spec = specs.build_spec(build, context.store, context.settings, context.installation)
            context.store.make_build_folder(build.uuid)
            with context.store.open_build_log(build.uuid) as file:
                _begin_log(file, build, again and not _ends_with_again(context.store.build_log(build.uuid)))
                return runner.build(spec, file, cancel.is_set)

        context.calls.submit("build", ("build", build.id), "build", call)

    def _cancel_unwanted(self, build: Build) -> list[Step]:
        """The wish is committed first, so that no job joins a build that is about to end."""
        if build.stop_at is not None:
            self._cancels[build.id].set()
            return []
        if builds.is_needed(build):
            return []
        return [Step("cancel", lambda: update_columns(build, stop_at=self.context.clock.wall()))]

    def _record_success(self, number: int, artifact: str | None) -> None:
        _note(number, None)
        build = Build.get_by_id(number)
        transition(build, Status.SUCCEEDED, message="Completed", artifact=artifact)

    def _record_failure(self, number: int, error: BuildFailed, cancelled: bool) -> None:
        _note(number, None)
        build = Build.get_by_id(number)
        if cancelled:
            transition(build, Status.STOPPED, message=builds.STOPPED_MESSAGE, details={"reason": "stopped"})
            return
        details: dict[str, Any] = {"step": error.build_step, "exit_code": error.exit_code}
        transition(build, Status.FAILED, message=_sentence(str(error)), details=details)


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:]


def _begin_log(file: BinaryIO, build: Build, again: bool) -> None:
    """Say in the build's log what the runner leaves out of the config, or that the build starts again."""
    if not file.seek(0, os.SEEK_END):
        for note in specs.notes_on_ignored_parts(build.config, build.runner):
            file.write(f"{note['text']}\n".encode())
    if again:
        file.write(AGAIN)


def _ends_with_again(log: Path) -> bool:
    """Whether nothing was written since that was said: once for each outage, not for each retry."""
    with log.open("rb") as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - len(AGAIN)))
        return file.read() == AGAIN


def _note(number: int, text: str | None) -> None:
    """Why the build is tried again; None where it is not."""
    update_note(Build.get_by_id(number), "retry", text)
