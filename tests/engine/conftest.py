"""An engine on the fake runner that tests drive pass by pass: no threads, no sleeping, and a clock that tests move."""

from __future__ import annotations

import datetime
from collections.abc import Callable
from typing import Any

import pytest

from polyjob.clock import Clock, now
from polyjob.db.models import Build, Job, JobStatus, Meta, Project, User
from polyjob.engine.call_pools import InlineCalls
from polyjob.engine.context import Context
from polyjob.engine.reconciler import Engine
from polyjob.services import builds, jobs, submission
from polyjob.settings import Settings
from polyjob.storage.store import Store
from runners.base import Runner, RunnerSettings
from runners.fake import FakeRunner

SUCCESS_PATH = ["created", "scheduled", "running", "succeeded"]
BUILD = {"image": "a", "build_steps": ["make"]}


def raise_(error: Exception | None) -> None:
    if error is not None:
        raise error


class ManualClock(Clock):
    """A clock that stands still until a test moves it."""

    def __init__(self) -> None:
        self.boot_id = "boot-1"
        self._seconds = 1000.0
        self._start = now()

    def wall(self) -> datetime.datetime:
        return self._start + datetime.timedelta(seconds=self._seconds - 1000.0)

    def seconds(self) -> float:
        return self._seconds

    def move(self, seconds: float) -> None:
        self._seconds += seconds

    def step(self, hours: float) -> None:
        """Move only the wall clock."""
        self._start += datetime.timedelta(hours=hours)


class World:
    """A data folder with its engine."""

    MAX_PASSES = 50

    def __init__(self, settings: Settings, project: Project, user: User) -> None:
        self.settings = settings
        self.project = project
        self.user = user
        self.store = Store(settings.data_dir)
        self.clock = ManualClock()
        self.restart()

    def restart(self) -> None:
        """Make a new engine, as after a crash: nothing in memory survives."""
        meta = {row.key: row.value for row in Meta.select()}
        self.runner = FakeRunner(RunnerSettings(str(self.settings.data_dir), meta["installation"]), lambda: None)
        self.runner.clock = self.clock.seconds

        def load(name: str, wake: Callable[[], None]) -> Runner:
            assert name in self.settings.runner_names
            return self.runner

        calls = InlineCalls(lambda: None, self.settings.build_slots)
        context = Context(self.settings, self.store, calls, self.clock, meta["installation"], meta["secret"])
        self.engine = Engine(context, load, lambda: None)

    def submit(
        self,
        build: dict[str, Any] | None = None,
        termination: dict[str, Any] | None = None,
        backend: str | None = None,
        gpus: int = 0,
        **env: Any,
    ) -> Job:
        """Submit a job whose environment scripts the fake runner: `seconds=3` sets `FAKE_SECONDS=3`."""
        pairs = [[f"FAKE_{name.upper()}", str(value)] for name, value in env.items()]
        config: dict[str, Any] = {"version": 1, "kind": "job", "run": {"cmd": "true"}}
        config["environment"] = {"env_vars": pairs}
        if build is not None:
            config["build"] = build
        if termination is not None:
            config["termination"] = termination
        if backend is not None:
            config["backend"] = backend
        if gpus:
            config["environment"]["resources"] = {"gpu": {"limits": gpus}}
        return submission.create(self.project, self.user, {"config": config}, self.settings)

    def request_build(self, **attributes: Any) -> Build:
        """Create a build that a person requests."""
        config = {"version": 1, "kind": "build", "build": BUILD}
        return builds.create(self.project, self.user, {"config": config} | attributes, self.settings)

    def set_available(self, is_available: bool) -> None:
        """Let the backend answer, or refuse every call as unavailable."""
        switch = self.settings.data_dir / "fake" / "unavailable"
        if is_available:
            switch.unlink()
        else:
            switch.parent.mkdir(exist_ok=True)
            switch.touch()

    def settle(self) -> None:
        """Make passes until one finds nothing to do."""
        for _ in range(self.MAX_PASSES):
            if not self.engine.run_pass():
                return
        raise AssertionError("the engine does not settle")

    def later(self, seconds: float) -> None:
        """Move the clock tick by tick, and settle after each."""
        while seconds > 0:
            self.clock.move(min(1.0, seconds))
            seconds -= 1.0
            self.settle()

    def end(self, *submitted: Job) -> None:
        """Move the clock until all these jobs are done."""
        for _ in range(100):
            self.settle()
            if all(self.read(job).status.is_done for job in submitted):
                return
            self.clock.move(1.0)
        raise AssertionError(f"never done: {[self.statuses(job) for job in submitted]}")

    @staticmethod
    def read(job: Job) -> Job:
        return Job.get_by_id(job.id)

    @staticmethod
    def statuses(job: Job) -> list[str]:
        return [str(row.status) for row in jobs.list_statuses(job)]

    @staticmethod
    def last(job: Job) -> JobStatus:
        return jobs.latest_status(job)

    def calls(self, verb: str, job: Job) -> int:
        return self.runner.calls.count((verb, job.uuid))


@pytest.fixture
def world(settings: Settings, project: Project, user: User) -> World:
    return World(settings, project, user)
