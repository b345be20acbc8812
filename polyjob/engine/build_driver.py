"""Drive builds: begin each in a pool, cancel it when no job waits for it any more, and record its result."""

from __future__ import annotations

import enum
import logging
import os
import threading
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from polyjob.db.models import Build
from polyjob.engine.backends import Backends
from polyjob.engine.call_pools import Key, Result
from polyjob.engine.context import Context
from polyjob.engine.retries import START_PATIENCE, Backoff, error_text
from polyjob.engine.writes import NOTHING, Decision, Write
from polyjob.services import builds, specs
from polyjob.services.transitions import transition, update_columns, update_note
from polyjob.statuses import Status
from runners.base import BuildFailed

log = logging.getLogger("polyjob.engine")

RESTART_LINE = b"The build starts again: polyjob was restarted, or could not continue.\n"


class BuildPhase(enum.Enum):
    """The phases of a build that is not done."""

    BUILDING = enum.auto()
    """Its call is running."""
    UNWANTED = enum.auto()
    """The same, and no job waits for it any more."""
    CANCELLING = enum.auto()
    """The same, and its stop is committed."""
    ENDING = enum.auto()
    """No call is running, and it has to be stopped."""
    QUEUED = enum.auto()
    """It waits for a build slot."""
    INTERRUPTED = enum.auto()
    """Its call failed, or the engine died while it ran."""


@dataclass
class BuildMemory:
    """The memory of one build. All of it can be lost."""

    call: BuildCall | None = None
    """The call that is running, or whose result no pass has taken yet. It holds a build slot."""
    backoff: Backoff = field(default_factory=Backoff)


def phase_of(build: Build, memory: BuildMemory, *, is_wanted: bool) -> BuildPhase:
    """Return the phase of a build that is not done. `is_wanted`: a job waits for it, or a person requested it."""
    if memory.call is not None:
        if build.stop_at is not None:
            return BuildPhase.CANCELLING
        return BuildPhase.BUILDING if is_wanted else BuildPhase.UNWANTED
    if build.stop_at is not None or not is_wanted:
        return BuildPhase.ENDING
    return BuildPhase.QUEUED if build.status is Status.CREATED else BuildPhase.INTERRUPTED


class BuildDriver:
    """Decides on all builds that are not done, once in each pass.

    A build may run again after a crash; a job never does.
    """

    def __init__(self, context: Context, backends: Backends) -> None:
        self.context = context
        self.backends = backends
        self._memories: dict[int, BuildMemory] = {}
        self.is_closing = False

    def decisions(self, unfinished: Sequence[Build], decided: Collection[Key]) -> list[Decision]:
        """Decide on each of these builds, the oldest first, but not on those in `decided`."""
        self._forget_all_but(unfinished)
        free_slots = self.context.settings.build_slots - sum(m.call is not None for m in self._memories.values())
        decisions = []
        for build in unfinished:
            if ("build", build.id) in decided:
                continue
            decision = self._decide(build, has_slot=free_slots > 0)
            free_slots -= decision.call is not None
            decisions.append(decision)
        return decisions

    def cancel_all(self) -> None:
        """End all running builds because the engine ends. The next engine builds them again."""
        self.is_closing = True
        for memory in self._memories.values():
            if memory.call is not None:
                memory.call.cancel.set()

    def _forget_all_but(self, unfinished: Sequence[Build]) -> None:
        unfinished_ids = {build.id for build in unfinished}
        for build_id in self._memories.keys() - unfinished_ids:
            if self._memories[build_id].call is None:
                del self._memories[build_id]

    def _decide(self, build: Build, *, has_slot: bool) -> Decision:
        memory = self._memories.setdefault(build.id, BuildMemory())
        match phase_of(build, memory, is_wanted=build.stop_at is None and builds.is_needed(build)):
            case BuildPhase.UNWANTED:
                # The stop is committed before the call is cancelled, so that no job joins a build that is ending.
                return Decision([Write("cancel", lambda: update_columns(build, stop_at=self.context.clock.wall()))])
            case BuildPhase.CANCELLING if memory.call is not None:
                memory.call.cancel.set()
            case BuildPhase.ENDING:
                message = builds.STOPPED_MESSAGE if build.stop_at is not None else "No job waits for it"
                return Decision([Write("built", lambda: transition(build, Status.STOPPED, message=message))])
            case BuildPhase.QUEUED if has_slot:
                call = BuildCall(build, memory, self, is_restart=False)
                return Decision([Write("build", lambda: _record_begin(build))], call, needs_commit=True)
            case BuildPhase.INTERRUPTED if self.context.clock.seconds() >= memory.backoff.retry_at:
                return Decision(call=BuildCall(build, memory, self, is_restart=True))
        return NOTHING


class BuildCall:
    """The call that makes a build."""

    pool = verb = "build"

    def __init__(self, build: Build, memory: BuildMemory, driver: BuildDriver, *, is_restart: bool) -> None:
        self.build = build
        self.memory = memory
        self.cancel = threading.Event()
        self._driver = driver
        self._context = driver.context
        self._is_restart = is_restart

    @property
    def key(self) -> Key:
        return "build", self.build.id

    def submit(self) -> None:
        self._runner = self._driver.backends.runner(self.build.runner)
        _ = self.build.code  # loaded now, because `run` reads no rows
        self.memory.call = self
        self._context.calls.submit(self)

    def run(self) -> str | None:
        """Make the build, and return its artifact. Runs in a pool's thread."""
        build, store = self.build, self._context.store
        spec = specs.build_spec(build, store, self._context.settings, self._context.installation)
        store.make_build_folder(build.uuid)
        with store.open_build_log(build.uuid) as file:
            needs_line = self._is_restart and not _ends_with_restart_line(store.build_log(build.uuid))
            _begin_log(file, build, is_restart=needs_line)
            return self._runner.build(spec, file, self.cancel.is_set)

    def is_urgent(self, result: Result) -> bool:
        return True

    def on_done(self, result: Result) -> Write | None:
        """Take in the result, and return the write that it asks for."""
        self.memory.call = None
        if self._driver.is_closing:
            return None
        error = result.error
        if error is None:
            self.memory.backoff = Backoff()
            return Write("built", lambda: self._record_success(result.value))
        if isinstance(error, BuildFailed):
            return self._failed(error, is_cancelled=self.cancel.is_set())
        return self._retry_or_fail(error)

    def _retry_or_fail(self, error: Exception) -> Write:
        """Retry a build that could not continue: for a bounded time, unless the machine is at fault."""
        backoff = self.memory.backoff
        backoff.log_defect(error, "build %s failed; it is tried again", self.build.id)
        if backoff.fail("build", error, self._context.clock.seconds(), START_PATIENCE):
            return self._failed(BuildFailed(error_text(error)), is_cancelled=False)
        return Write("note", lambda: self._set_retry_note(f"The build is tried again: {error_text(error)}"))

    def _failed(self, error: BuildFailed, *, is_cancelled: bool) -> Write:
        self.memory.backoff = Backoff()
        return Write("built", lambda: self._record_failure(error, is_cancelled))

    def _record_success(self, artifact: str | None) -> None:
        self._set_retry_note(None)
        transition(self._current_row(), Status.SUCCEEDED, message="Completed", artifact=artifact)

    def _record_failure(self, error: BuildFailed, is_cancelled: bool) -> None:
        self._set_retry_note(None)
        build = self._current_row()
        if is_cancelled:
            transition(build, Status.STOPPED, message=builds.STOPPED_MESSAGE, details={"reason": "stopped"})
            return
        details: dict[str, Any] = {"step": error.build_step, "exit_code": error.exit_code}
        transition(build, Status.FAILED, message=_sentence(str(error)), details=details)

    def _set_retry_note(self, text: str | None) -> None:
        """Say on the build why it is tried again; None removes the note."""
        update_note(self._current_row(), "retry", text)

    def _current_row(self) -> Build:
        return Build.get_by_id(self.build.id)


def _record_begin(build: Build) -> None:
    transition(build, Status.SCHEDULED)
    transition(build, Status.RUNNING)


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:]


def _begin_log(file: BinaryIO, build: Build, *, is_restart: bool) -> None:
    """Write into the build's log which parts of the config the runner ignores, or that the build starts again."""
    if not file.seek(0, os.SEEK_END):
        for note in specs.notes_on_ignored_parts(build.config, build.runner):
            file.write(f"{note['text']}\n".encode())
    if is_restart:
        file.write(RESTART_LINE)


def _ends_with_restart_line(log_path: Path) -> bool:
    """Return whether the last line says that the build starts again: one such line is enough for each outage."""
    with log_path.open("rb") as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - len(RESTART_LINE)))
        return file.read() == RESTART_LINE
