"""How the contract suite drives each runner: the same jobs in that runner's own terms."""

from __future__ import annotations

import io
import json
import tarfile
import time
import uuid
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import Any

from runners import load
from runners.base import (
    BuildSpec,
    Exited,
    JobSpec,
    Missing,
    RemoteRunner,
    Runner,
    RunnerSettings,
    Running,
    State,
)

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


class Harness(ABC):
    """One data folder and one runner on it. `reload` makes another runner object, as a new engine would."""

    name: str
    has_stubborn = True

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
        self.runner = load(self.name, self.settings, lambda: self.woken.append(time.monotonic()))
        self.runners.append(self.runner)
        return self.runner

    def close(self) -> None:
        """End what a test has left, and the runners."""
        for handle in self.handles:
            self.runner.clean(handle)
        for runner in self.runners:
            runner.close()

    # What a job is to do, in this runner's terms.

    @abstractmethod
    def exits(self, code: int, log: bytes = b"", output: str | None = None) -> dict[str, Any]: ...

    @abstractmethod
    def sleeps(self, stubborn: bool = False) -> dict[str, Any]: ...

    @abstractmethod
    def steps(self, fail: int | None = None, hang: bool = False) -> dict[str, Any]: ...

    # Driving it.

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

    def log(self, spec: JobSpec, handle: str) -> bytes:
        if not isinstance(self.runner, RemoteRunner):
            return (Path(spec.folder) / "log").read_bytes()
        found, cursor = b"", None
        while True:
            data, further = self.runner.logs(handle, cursor, 7)
            if not data:
                return found
            found, cursor = found + data, further

    def outputs(self, spec: JobSpec, handle: str) -> dict[str, str]:
        if not isinstance(self.runner, RemoteRunner):
            folder = Path(spec.folder) / "outputs"
            return {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*") if path.is_file()}
        data = b"".join(self.runner.outputs(handle))
        if not data:
            return {}
        with tarfile.open(fileobj=io.BytesIO(data)) as archive:
            return {name: archive.extractfile(name).read().decode() for name in archive.getnames()}

    def build_spec(self, **values: Any) -> BuildSpec:
        identity = uuid.uuid4().hex
        folder = self.folder / "builds" / identity
        folder.mkdir()
        defaults: dict[str, Any] = {"image": None, "steps": (), "env": {}, "nocache": False}
        return BuildSpec(identity, INSTALLATION, str(folder), "0" * 64, **(defaults | values))


class ProcessHarness(Harness):
    name = "process"

    def exits(self, code: int, log: bytes = b"", output: str | None = None) -> dict[str, Any]:
        write = f"printf '%s' '{output}' > $POLYAXON_RUN_OUTPUTS_PATH/out; " if output else ""
        return {"cmd": f"printf '%s' '{log.decode()}'; {write}exit {code}"}

    def sleeps(self, stubborn: bool = False) -> dict[str, Any]:
        return {"cmd": "trap '' TERM; sleep 1000" if stubborn else "exec sleep 1000"}

    def steps(self, fail: int | None = None, hang: bool = False) -> dict[str, Any]:
        steps = ["echo one", "sleep 1000" if hang else f"exit {fail}" if fail else "echo two"]
        return {"steps": tuple(steps)}


class FakeHarness(Harness):
    name = "fake"

    def exits(self, code: int, log: bytes = b"", output: str | None = None) -> dict[str, Any]:
        env = {"FAKE_CODE": str(code), "FAKE_LOG": log.decode()}
        return {"env": env | ({"FAKE_OUTPUTS": json.dumps({"out": output})} if output else {})}

    def sleeps(self, stubborn: bool = False) -> dict[str, Any]:
        return {"env": {"FAKE_SECONDS": "1000"} | ({"FAKE_IGNORE_TERM": "yes"} if stubborn else {})}

    def steps(self, fail: int | None = None, hang: bool = False) -> dict[str, Any]:
        env = {"FAKE_BUILD_FAIL": f"2:{fail}"} if fail else {"FAKE_BUILD_HANG": "yes"} if hang else {}
        return {"steps": ("one", "two"), "env": env}


HARNESSES: list[type[Harness]] = [FakeHarness, ProcessHarness]
