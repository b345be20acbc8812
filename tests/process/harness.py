"""Jobs on the process runner, driven as the engine would drive them."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

from runners import load
from runners.base import BuildSpec, Exited, JobSpec, Missing, Runner, RunnerSettings, Running, State

INSTALLATION = "0" * 32
PATIENCE = 20.0


def eventually(check: Callable[[], Any], what: str = "it", seconds: float = PATIENCE) -> Any:
    """The first true answer of `check`; fails when none comes in time."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if answer := check():
            return answer
        time.sleep(0.005)
    raise AssertionError(f"{what} did not happen within {seconds} s")


class ProcessHarness:
    """One data folder and one runner on it. `reload` makes another runner object, as a new engine would."""

    def __init__(self, folder: Path, **settings: Any) -> None:
        self.folder = folder
        (folder / "jobs").mkdir(parents=True)
        (folder / "builds").mkdir()
        self.settings = RunnerSettings(str(folder), INSTALLATION, ("PATH",), **settings)
        self.runners: list[Runner] = []
        self.woken: list[float] = []
        self.handles: list[str] = []
        self.runner = self.reload()

    def reload(self) -> Runner:
        self.runner = load("process", self.settings, lambda: self.woken.append(time.monotonic()))
        self.runners.append(self.runner)
        return self.runner

    def close(self) -> None:
        """End what a test has left, and the runners."""
        for handle in self.handles:
            self.runner.clean(handle)
        for runner in self.runners:
            runner.close()

    def spec(self, **values: Any) -> JobSpec:
        identity = uuid.uuid4().hex
        folder = self.folder / "jobs" / identity
        folder.mkdir()
        return JobSpec(identity, INSTALLATION, str(folder), **({"env": {}, "cmd": "true", "grace": 0.3} | values))

    def start(self, spec: JobSpec, artifact: str | None = None) -> str:
        handle = self.runner.start(spec, artifact)
        if handle not in self.handles:
            self.handles.append(handle)
        return handle

    def run(self, artifact: str | None = None, **values: Any) -> tuple[JobSpec, Exited]:
        """A job from start to end."""
        spec = self.spec(**values)
        return spec, self.ended(self.start(spec, artifact))

    def state(self, handle: str) -> State | None:
        return self.runner.poll([handle]).get(handle)

    def ended(self, handle: str) -> Exited:
        def look() -> State | None:
            state = self.state(handle)
            return state if isinstance(state, Exited | Missing) else None

        state = eventually(look, "the end")
        assert isinstance(state, Exited), state
        return state

    def running(self, handle: str) -> Running:
        return eventually(lambda: isinstance(self.state(handle), Running) and self.state(handle), "running")

    def build_spec(self, **values: Any) -> BuildSpec:
        identity = uuid.uuid4().hex
        folder = self.folder / "builds" / identity
        folder.mkdir()
        defaults: dict[str, Any] = {"image": None, "steps": (), "env": {}, "nocache": False}
        return BuildSpec(identity, INSTALLATION, str(folder), "0" * 64, **(defaults | values))
