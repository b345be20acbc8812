"""The base class of harnesses: it creates the jobs of the contract suite, and looks at them from outside."""

from __future__ import annotations

import io
import shlex
import tarfile
import threading
import time
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar

from runners.base import (
    BuildSpec,
    Exit,
    Exited,
    JobSpec,
    Missing,
    RemoteRunner,
    Runner,
    RunnerSettings,
    State,
)
from runners.volumes import Volume

INSTALLATION = "a" * 32
PATIENCE_SECONDS = 20.0
POLL_SECONDS = 0.05
"""Pause between two looks at a condition, once it has been false for a while."""


def wait_for(condition: Callable[[], Any], seconds: float = PATIENCE_SECONDS) -> Any:
    """Return the first true result of `condition`. Fail if there is none in time."""
    deadline = time.monotonic() + seconds
    pause = 0.002
    while True:
        value = condition()
        if value:
            return value
        assert time.monotonic() < deadline, f"not within {seconds} s"
        time.sleep(pause)
        pause = min(1.5 * pause, POLL_SECONDS)


class Harness:
    """Base class of the harness of a runner. Most runners are tested by a subclass of `CommandHarness`.

    `folder` is empty. The keyword arguments are fields of `RunnerSettings`, such as `options`.
    """

    installation = INSTALLATION
    log_chunk_bytes = 7
    """Number of bytes of a log that one call requests."""
    runs_commands: ClassVar[bool] = True
    """Whether the runner really runs the command of a job."""
    has_secrets: ClassVar[bool] = False
    """Whether the runner honours `JobSpec.secrets`."""
    reads_job_outputs: ClassVar[bool] = False
    """Whether the runner honours `JobSpec.job_outputs`."""

    def __init__(self, folder: Path, **settings: Any) -> None:
        self.folder = folder
        self.data = folder / "data"
        self.data.mkdir(parents=True, exist_ok=True)
        self.settings = RunnerSettings(
            data_dir=str(self.data), installation=self.installation, **{"job_env": ("PATH",), **settings}
        )
        self.woken = threading.Event()
        self.runners: list[Runner] = []
        self.runner = self.another()

    def make(self) -> Runner:
        """Create a runner with `self.settings`, and with `self.woken.set` as its `wake`."""
        raise NotImplementedError

    def another(self) -> Runner:
        """Return another runner object for the same backend, as after a crash of the engine."""
        runner = self.make()
        self.runners.append(runner)
        return runner

    def spec(self, cmd: str = "true", env: Mapping[str, str] | None = None, **fields: Any) -> JobSpec:
        identity = uuid.uuid4().hex
        folder = self.data / "jobs" / identity
        folder.mkdir(parents=True)
        values: dict[str, Any] = {"grace": 5.0, **fields}
        return JobSpec(
            uuid=identity, installation=self.installation, folder=str(folder), cmd=cmd, env=dict(env or {}), **values
        )

    def build_spec(self, *steps: str, env: Mapping[str, str] | None = None, **fields: Any) -> BuildSpec:
        identity = uuid.uuid4().hex
        folder = self.data / "builds" / identity
        folder.mkdir(parents=True)
        return BuildSpec(
            uuid=identity,
            installation=self.installation,
            folder=str(folder),
            key="b" * 64,
            image=None,
            build_steps=steps,
            env=dict(env or {}),
            nocache=False,
            **fields,
        )

    def state(self, handle: str, runner: Runner | None = None) -> State | None:
        return (runner or self.runner).poll([handle]).get(handle)

    def end(self, handle: str, runner: Runner | None = None) -> Exit:
        """Wait for the job's exit and return it."""

        def ended() -> Exited | None:
            state = self.state(handle, runner)
            assert not isinstance(state, Missing), "the job is missing"
            return state if isinstance(state, Exited) else None

        exited: Exited = wait_for(ended)
        return exited.exit

    def run(self, cmd: str, artifact: str | None = None, **fields: Any) -> tuple[Exit, bytes]:
        """Run a job to its end, clean it, and return (exit, log)."""
        spec = self.spec(cmd, **fields)
        handle = self.runner.start(spec, artifact)
        end = self.end(handle)
        self.runner.clean(handle)
        return end, (Path(spec.folder) / "log").read_bytes()

    def log(self, spec: JobSpec, handle: str, runner: Runner | None = None) -> bytes:
        """Return the log of a job, as far as it is written."""
        runner = runner or self.runner
        if not isinstance(runner, RemoteRunner):
            return (Path(spec.folder) / "log").read_bytes()
        log, cursor = b"", None
        while True:
            data, cursor = runner.logs(handle, cursor, self.log_chunk_bytes)
            if not data:
                return log
            log += data

    def outputs_of(self, spec: JobSpec, handle: str) -> dict[str, bytes]:
        """Return the files that a job that has ended left in its outputs folder."""
        if not isinstance(self.runner, RemoteRunner):
            folder = Path(spec.folder) / "outputs"
            return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
        with tarfile.open(fileobj=io.BytesIO(b"".join(self.runner.outputs(handle)))) as tarball:
            return {member.name: _content(tarball, member) for member in tarball if member.isfile()}

    def close(self) -> None:
        """Leave nothing behind."""
        for handle in self.runner.inventory().values():
            self.runner.stop(handle, force=True)
            self.runner.clean(handle)
        for name in self.runner.cached_artifacts():
            self.runner.remove_artifact(name)
        for runner in self.runners:
            runner.close()

    def volume(self, name: str, is_read_only: bool) -> tuple[Volume, Path] | None:
        """Create a volume, and return it with its folder on this machine; None if the runner has no volumes."""
        return None

    # The jobs and builds of the contract suite

    def printing_job(self, text: str, code: int = 0) -> JobSpec:
        """A job that writes a text and ends with this exit code."""
        raise NotImplementedError

    def endless_job(self) -> JobSpec:
        """A job that runs until it is stopped."""
        raise NotImplementedError

    def stubborn_job(self) -> JobSpec:
        """A job that ignores TERM from when it has written to its log."""
        raise NotImplementedError

    def unstartable_job(self) -> JobSpec:
        """A job whose start fails, through a fault of its own."""
        raise NotImplementedError

    def lost_job(self) -> tuple[JobSpec, str]:
        """A job that disappeared without an exit, and its handle."""
        raise NotImplementedError

    def runs(self, spec: JobSpec) -> int:
        """Return how often the command of a job of `printing_job` has run."""
        raise NotImplementedError

    def good_build(self) -> BuildSpec:
        """A build that writes `hello`, and succeeds."""
        raise NotImplementedError

    def bad_build(self) -> BuildSpec:
        """A build whose second step ends with exit code 3."""
        raise NotImplementedError

    def endless_build(self) -> BuildSpec:
        """A build that runs until it is cancelled."""
        raise NotImplementedError


class CommandHarness(Harness):
    """Base class for runners that run shell commands. A subclass has `make`, `unstartable_job` and `lost_job`."""

    def printing_job(self, text: str, code: int = 0) -> JobSpec:
        return self.spec(f"echo ran >> $POLYAXON_RUN_OUTPUTS_PATH/runs; printf %s {shlex.quote(text)}; exit {code}")

    def endless_job(self) -> JobSpec:
        # A shell would end with 143 by itself if its `sleep` died before the signal reached the shell.
        return self.spec("sleep 1000 & exec sleep 1000")

    def stubborn_job(self) -> JobSpec:
        return self.spec("trap '' TERM; echo ready; setsid sleep 1000 & sleep 1000; sleep 1000")

    def runs(self, spec: JobSpec) -> int:
        return self.outputs_of(spec, self.runner.inventory()[spec.uuid])["runs"].count(b"ran")

    def good_build(self) -> BuildSpec:
        return self.build_spec("echo hello")

    def bad_build(self) -> BuildSpec:
        return self.build_spec("true", "exit 3")

    def endless_build(self) -> BuildSpec:
        return self.build_spec("sleep 1000")


def _content(tarball: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    file = tarball.extractfile(member)
    assert file is not None
    return file.read()
