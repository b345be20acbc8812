"""A complete polyjob, web and engine on the fake runner, whose calls, clocks and deaths a test decides."""

from __future__ import annotations

import contextlib
import logging
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from polyjob import clock
from polyjob.app import create_app
from polyjob.auth import users
from polyjob.clock import Clock, now
from polyjob.db.database import close_database, open_database, write
from polyjob.db.migrations import migrate
from polyjob.db.models import Meta, Project, User
from polyjob.engine import reconciler
from polyjob.engine.call_pools import Call, Calls, execute
from polyjob.engine.context import Context
from polyjob.engine.reconciler import Engine
from polyjob.settings import read_settings
from polyjob.storage.store import Store
from runners.base import Runner, RunnerSettings
from runners.fake import FakeRunner

OWNER, PROJECT = "ana", "demo"
BASE = f"/api/v1/{OWNER}/{PROJECT}"


class HeldCalls(Calls):
    """Calls that run only when a test ends them."""

    def __init__(self, wake: Callable[[], None], build_slots: int) -> None:
        super().__init__(wake, build_slots)
        self.held: list[Call] = []

    def submit(self, call: Call) -> None:
        self._begin(call)
        self.held.append(call)

    def end(self, index: int) -> None:
        """Make one of the held calls. The next pass takes its result."""
        self._end(execute(self.held.pop(index)))


class ManualClock(Clock):
    """Stands still until it is moved. `offset` is the error of the wall clock, in seconds."""

    def __init__(self) -> None:
        self.boot_id = "boot-1"
        self._seconds = 1000.0
        self.offset = 0.0

    def seconds(self) -> float:
        return self._seconds

    def move(self, seconds: float) -> None:
        self._seconds += seconds


class _Wall:
    """Replaces `time` in `polyjob.clock`, for web and engine."""

    CLOCK_BOOTTIME = time.CLOCK_BOOTTIME
    clock_gettime = staticmethod(time.clock_gettime)
    START = 1_800_000_000.0

    def __init__(self, hand: ManualClock) -> None:
        self._hand = hand

    def time_ns(self) -> int:
        return int((self.START + self._hand.seconds() + self._hand.offset) * 1e6) * 1000


class Errors(logging.Handler):
    """Collects the errors that the engine logs, such as the fake runner's refusal of a call out of order."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.texts: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.texts.append(self.format(record))


class DataFolder:
    """A data folder with its web application. All worlds use the same one, because creating one is slow."""

    def __init__(self, folder: Path) -> None:
        self.settings = read_settings({}, data_dir=folder / "data", runner="fake", slots=2, build_slots=1, disk_low=0)
        self._template = folder / "template"
        Store(self._template).prepare()
        open_database(self._template)
        migrate(self._template)
        with write("test"):
            owner = User.create(username=OWNER, created_at=now())
            Project.create(uuid="f" * 32, user=owner, name=PROJECT, is_public=False, created_at=now(), updated_at=now())
        key = users.create_token(owner, "test")[1]
        close_database()
        self.restore()
        app = create_app(self.settings)
        app.testing = True
        self.http = app.test_client()
        self.headers = {"Authorization": f"token {key}"}

    def restore(self) -> None:
        """Restore the folder to its first state."""
        close_database()
        shutil.rmtree(self.settings.data_dir, ignore_errors=True)
        shutil.copytree(self._template, self.settings.data_dir)
        open_database(self.settings.data_dir)


class World:
    """A polyjob on a restored data folder. `die` makes a new engine that knows only what was committed."""

    PASSES = 100

    def __init__(self, folder: DataFolder, *, is_local: bool) -> None:
        folder.restore()
        self._folder = folder
        self.settings = folder.settings
        self.store = Store(self.settings.data_dir)
        self.clock = ManualClock()
        self._is_local = is_local
        self._time = clock.time
        clock.time = _Wall(self.clock)  # type: ignore[assignment]
        self.errors = Errors()
        logging.getLogger("polyjob.engine").addHandler(self.errors)
        self._before_commit: Callable[[], None] | None = None
        self._write = reconciler.write
        reconciler.write = self._interrupted
        self.runner_folder = self.settings.data_dir / "fake"
        self.runner_folder.mkdir()
        self.die()

    def close(self) -> None:
        reconciler.write = self._write
        clock.time = self._time
        logging.getLogger("polyjob.engine").removeHandler(self.errors)

    def die(self) -> None:
        """Replace the engine. The results of its running calls are lost."""
        meta = {row.key: row.value for row in Meta.select()}
        runner = FakeRunner(RunnerSettings(str(self.settings.data_dir), meta["installation"]), lambda: None)
        runner.clock = self.clock.seconds
        runner.is_local = self._is_local  # type: ignore[misc]

        def load(name: str, wake: Callable[[], None]) -> Runner:
            assert name == "fake"
            return runner

        self.runner = runner
        self.calls = HeldCalls(lambda: None, self.settings.build_slots)
        context = Context(self.settings, self.store, self.calls, self.clock, meta["installation"], meta["secret"])
        self.engine = Engine(context, load, lambda: None)

    def ask(self, method: str, path: str, body: Any = None, **headers: str) -> Any:
        """Send a request as the project's owner. `path` is relative to the project."""
        sent = self._folder.headers | {name.replace("_", "-"): value for name, value in headers.items()}
        options = {} if body is None else {"json": body}
        return self._folder.http.open(f"{BASE}{path}", method=method, headers=sent, buffered=True, **options)

    def run_pass(self, before_commit: Callable[[], None] | None = None) -> bool:
        """Make one pass. Calls `before_commit` after its decisions and before its commit."""
        self._before_commit = before_commit
        try:
            return self.engine.run_pass()
        finally:
            self._before_commit = None

    @contextlib.contextmanager
    def _interrupted(self, name: str) -> Iterator[None]:
        act, self._before_commit = self._before_commit, None
        if act:
            act()
        with self._write(name):
            yield

    def settle(self) -> None:
        """Make passes and calls until nothing is left to do at this moment."""
        for _ in range(self.PASSES):
            while self.calls.held:
                self.calls.end(0)
            if not self.run_pass() and not self.calls.held:
                return
        raise AssertionError("the engine does not settle")

    def set_away(self, is_away: bool) -> None:
        """Let the backend refuse every call, or answer again."""
        switch = self.runner_folder / "unavailable"
        switch.touch() if is_away else switch.unlink(missing_ok=True)
