"""The runner: each job has a private folder, and a supervisor that runs its command."""

from __future__ import annotations

import contextlib
import fcntl
import fnmatch
import json
import os
import select
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, BinaryIO, ClassVar

from plain_runner.processes import kill_all
from runners.base import (
    ArtifactMissing,
    BuildFailed,
    BuildSpec,
    Exit,
    Exited,
    JobSpec,
    Missing,
    Pending,
    Runner,
    RunnerUnavailable,
    Running,
    StartFailed,
    State,
    marker_variable,
)
from runners.capabilities import Support, SupportLevel

CLEAN_SECONDS = 10.0
"""Longest time until a killed job has ended."""


class PlainRunner(Runner):
    """Runs each job as a process of this machine. Its option `shell` is the setting POLYJOB_PLAIN_SHELL."""

    is_local = True
    artifact_kind = "folder"
    capabilities: ClassVar[Mapping[str, Support]] = {
        "build.build_steps": Support(SupportLevel.HONOURED),
        "environment.resources.cpu": Support(SupportLevel.NOTED, "the plain runner limits nothing"),
        "environment.resources.memory": Support(SupportLevel.NOTED, "the plain runner limits nothing"),
    }

    @property
    def _shell(self) -> str:
        return self.settings.options.get("shell", "/bin/sh")

    @property
    def _folder(self) -> Path:
        return Path(self.settings.data_dir, "plain")

    def check(self) -> None:
        self.probe()
        try:
            self._folder.mkdir(exist_ok=True)
        except OSError as error:
            raise RunnerUnavailable(f"The folder {self._folder} cannot be created: {error.strerror}") from error

    def probe(self) -> None:
        if not os.access(self._shell, os.X_OK):
            raise RunnerUnavailable(f"POLYJOB_PLAIN_SHELL={self._shell} is not an executable program")

    # Builds: the steps run in a folder that the jobs of the build find by $PLAIN_BUILD.

    def build(self, spec: BuildSpec, log: BinaryIO, cancelled: Callable[[], bool]) -> str | None:
        marker = marker_variable(spec.uuid)
        kill_all("=".join(marker))
        folder = Path(spec.folder, "plain")
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        env = {**self._inherited(), **spec.env, marker[0]: marker[1]}
        for number, step in enumerate(spec.build_steps, 1):
            command = [self._shell, "-e", "-c", step]
            with subprocess.Popen(
                command, cwd=folder, env=env, bufsize=0, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
            ) as process:
                assert process.stdout is not None
                while True:
                    if cancelled():
                        kill_all("=".join(marker))
                        raise BuildFailed("the build was cancelled")
                    if select.select([process.stdout], [], [], 0.1)[0]:
                        if not _copy(process.stdout, log):
                            break
                    elif process.poll() is not None:
                        break  # a process of the step that goes on has the pipe open
            kill_all("=".join(marker))
            if process.returncode:
                message = f"step {number} ended with exit code {process.returncode}"
                raise BuildFailed(message, number, process.returncode)
        return json.dumps({"v": 1, "folder": str(folder)})

    # Jobs. The private folder is created exclusively: whoever creates it starts the job, or prevents its start.

    def start(self, spec: JobSpec, artifact: str | None) -> str:
        build = json.loads(artifact)["folder"] if artifact else ""
        if build and not os.path.isdir(build):
            raise ArtifactMissing("the folder of its build is missing")
        if "\0" in spec.cmd:
            raise StartFailed("The command contains a NUL character.")
        with self._locked():
            folder = self._folder / spec.uuid
            if not folder.exists():
                folder.mkdir()
                (folder / "spec.json").write_text(json.dumps(self._description(spec, build)))
                self._start_supervisor(folder)
        return _handle(spec.uuid)

    def _description(self, spec: JobSpec, build: str) -> dict[str, Any]:
        name, value = marker_variable(spec.uuid)
        paths = {
            "POLYAXON_RUN_OUTPUTS_PATH": os.path.join(spec.folder, "outputs"),
            "POLYAXON_LOGS_PATH": os.path.join(spec.folder, "log"),
        }
        env = {**self._inherited(), **spec.env, **paths, "PYTHONUNBUFFERED": "1", "PLAIN_BUILD": build, name: value}
        return {
            "cmd": spec.cmd,
            "shell": self._shell,
            "env": env,
            "marker": f"{name}={value}",
            "folder": spec.folder,
            "upload": spec.upload,
            "inputs": spec.inputs,
        }

    def _start_supervisor(self, folder: Path) -> None:
        command = [sys.executable, "-m", "plain_runner.supervisor", str(folder)]
        subprocess.run(command, check=True, timeout=30, stdin=subprocess.DEVNULL, env={"PYTHONPATH": _OWN_PATH})
        threading.Thread(target=self._wake_at_end, args=(folder,), daemon=True).start()

    def _wake_at_end(self, folder: Path) -> None:
        with contextlib.suppress(OSError), (folder / "attempt").open() as attempt:
            fcntl.flock(attempt, fcntl.LOCK_SH)  # blocks as long as the supervisor runs
        self.wake()

    def poll(self, handles: Sequence[str]) -> dict[str, State]:
        return {handle: self._state(self._job_folder(handle)) for handle in handles}

    def _state(self, folder: Path) -> State:
        is_supervised = _is_locked(folder / "attempt")  # before the exit is read, which is written under the lock
        if (folder / "exit.json").exists():
            return Exited(Exit.from_json(json.loads((folder / "exit.json").read_text())))
        if not is_supervised:
            if (folder / "spec.json").exists():
                kill_all("=".join(marker_variable(folder.name)))
            return Missing()
        return Running() if (folder / "started").exists() else Pending()

    def stop(self, handle: str, force: bool) -> None:
        folder = self._job_folder(handle)
        part = folder / f"stop.{threading.get_ident()}"
        with contextlib.suppress(FileNotFoundError):
            part.write_text("9" if force else "15")
            part.rename(folder / "stop")

    def clean(self, handle: str) -> None:
        folder = self._job_folder(handle)
        self.stop(handle, force=True)
        deadline = time.monotonic() + CLEAN_SECONDS
        while _is_locked(folder / "attempt"):
            if time.monotonic() > deadline:
                raise RunnerUnavailable("The processes of the job have not ended yet")
            time.sleep(0.01)
        kill_all("=".join(marker_variable(folder.name)))
        shutil.rmtree(folder, ignore_errors=True)

    def prevent_start(self, uuid: str) -> str | None:
        with self._locked():
            folder = self._folder / uuid
            folder.mkdir(exist_ok=True)
            return _handle(uuid) if (folder / "spec.json").exists() else None

    def inventory(self) -> dict[str, str]:
        found = self._folder.glob("*/spec.json")
        return {path.parent.name: _handle(path.parent.name) for path in found}

    # Helpers.

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        """Let one start of all runner objects run at a time."""
        self._folder.mkdir(exist_ok=True)
        with (self._folder / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def _job_folder(self, handle: str) -> Path:
        return self._folder / str(json.loads(handle)["uuid"])

    def _inherited(self) -> dict[str, str]:
        patterns = self.settings.job_env
        return {
            name: value
            for name, value in os.environ.items()
            if any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)
        }


_OWN_PATH = str(Path(__file__).parent.parent)


def _handle(uuid: str) -> str:
    return json.dumps({"v": 1, "uuid": uuid})


def _copy(source: IO[bytes], log: BinaryIO) -> bool:
    """Copy what can be read now to the log. Return false at the end of the source."""
    data = source.read(65536)
    log.write(data)
    return bool(data)


def _is_locked(path: Path) -> bool:
    try:
        with path.open() as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False
