"""One harness for each runner: it creates the jobs of the contract suite, and observes them from outside.

A new runner joins the contract suite with one more class here.
"""

from __future__ import annotations

import dataclasses
import io
import os
import shlex
import tarfile
import traceback
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from runners.base import BuildSpec, JobSpec, Runner
from runners.fake import FakeRunner
from runners.process.runner import ProcessRunner
from runners.testing import CommandHarness, Harness, wait_for
from runners.volumes import Volume
from tests.fast_python import python_without_pip
from tests.runners.docker_engine import connect, remove_engine_objects


class FakeHarness(Harness):
    runs_commands = False

    def make(self) -> Runner:
        return FakeRunner(self.settings, self.woken.set)

    def printing_job(self, text: str, code: int = 0) -> JobSpec:
        return self.spec(env={"FAKE_LOG": text, "FAKE_CODE": str(code)})

    def endless_job(self) -> JobSpec:
        return self.spec(env={"FAKE_SECONDS": "1000"})

    def stubborn_job(self) -> JobSpec:
        return self.spec(env={"FAKE_SECONDS": "1000", "FAKE_IGNORE_TERM": "yes", "FAKE_LOG": "ready\n"})

    def unstartable_job(self) -> JobSpec:
        return self.spec(env={"FAKE_START": "fail"})

    def lost_job(self) -> tuple[JobSpec, str]:
        spec = self.spec(env={"FAKE_VANISH": "yes"})
        return spec, self.runner.start(spec, None)

    def runs(self, spec: JobSpec) -> int:
        return (self.data / "fake" / f"{spec.uuid}.runs").read_text().count("ran")

    def good_build(self) -> BuildSpec:
        return self.build_spec("one", env={"FAKE_BUILD_LOG": "hello\n"})

    def bad_build(self) -> BuildSpec:
        return self.build_spec("one", "two", env={"FAKE_BUILD_FAIL": "2:3"})

    def endless_build(self) -> BuildSpec:
        return self.build_spec("one", env={"FAKE_BUILD_HANG": "yes"})


class ProcessHarness(CommandHarness):
    reads_job_outputs = True
    """The process runner. Its virtualenvs have no pip, if the options do not name another Python."""

    has_secrets = True

    def __init__(self, folder: Path, **settings: Any) -> None:
        options = {"python": python_without_pip(folder)} | settings.pop("options", {})
        super().__init__(folder, options=options, **settings)

    def make(self) -> Runner:
        return ProcessRunner(self.settings, self.woken.set)

    def printing_job(self, text: str, code: int = 0) -> JobSpec:
        return self.spec(f"echo ran >> ../runs; printf %s {shlex.quote(text)}; exit {code}")

    def volume(self, name: str, is_read_only: bool) -> tuple[Volume, Path]:
        return folder_volume(self.folder, name, is_read_only)

    def unstartable_job(self) -> JobSpec:
        return self.spec("echo a\0b")

    def lost_job(self) -> tuple[JobSpec, str]:
        spec = self.spec("sleep 1000", env={"WHAT": "vanished"})
        handle = self.runner.start(spec, None)
        kill(self.keeper(spec))
        return spec, handle

    def runs(self, spec: JobSpec) -> int:
        return (Path(spec.folder) / "runs").read_text().count("ran")

    def close(self) -> None:
        super().close()
        if (self.data / "process").exists():
            wait_for(lambda: not self.servers())

    # Processes of the jobs

    def keeper(self, spec: JobSpec) -> int:
        """Return the keeper's pid. It is the parent of the job's first process."""
        return wait_for(lambda: next((parent_of(pid) for pid in processes_of(spec.uuid)), None))

    def servers(self) -> list[int]:
        """Return the pids of this data folder's keeper servers, and of the keepers, which are their forks."""
        folder = os.fsencode(str(self.data / "process"))
        return [pid for pid in pids() if b"keeper_server" in cmdline(pid) and folder in cmdline(pid).split(b"\0")]


class DockerHarness(CommandHarness):
    reads_job_outputs = True
    """The Docker runner of an installation of its own, because all harnesses share the Engine.

    Needs an Engine with the images of `tests.runners.docker_engine`.
    """

    has_secrets = True

    log_chunk_bytes = 997

    def __init__(self, folder: Path, **settings: Any) -> None:
        self.installation = uuid.uuid4().hex
        super().__init__(folder, **settings)

    def make(self) -> Runner:
        from runners.docker.runner import DockerRunner

        return DockerRunner(self.settings, self.woken.set)

    def spec(self, cmd: str = "true", env: Mapping[str, str] | None = None, **fields: Any) -> JobSpec:
        return super().spec(cmd, env, **{"image": IMAGE, **fields})

    def build_spec(self, *steps: str, env: Mapping[str, str] | None = None, **fields: Any) -> BuildSpec:
        spec = super().build_spec(*steps, env=env, **fields)
        return dataclasses.replace(spec, image=IMAGE, nocache=True, key=uuid.uuid4().hex * 2)

    def volume(self, name: str, is_read_only: bool) -> tuple[Volume, Path]:
        return folder_volume(self.folder, name, is_read_only)

    def unstartable_job(self) -> JobSpec:
        return self.spec("true", env={"A": "b"}, image="polyjob-test-empty:latest")

    def lost_job(self) -> tuple[JobSpec, str]:
        spec = self.spec("sleep 1000")
        handle = self.runner.start(spec, None)
        self.engine.remove_container(spec.name, force=True)
        return spec, handle

    def close(self) -> None:
        super().close()
        remove_engine_objects(self.installation)

    @property
    def engine(self) -> Any:
        return connect()


IMAGE = "polyjob-test:latest"


def folder_volume(folder: Path, name: str, is_read_only: bool) -> tuple[Volume, Path]:
    """Create a folder, and return the volume of that folder with its path."""
    path = folder / "volumes" / name
    path.mkdir(parents=True)
    return Volume(name, str(path), is_read_only), path


# Accounts.


EXECUTABLE_BY_ALL = "/usr/bin/python3"
"""A Python that every account can execute. That of the tests may be in root's home folder."""


def as_nobody(function: Callable[[], Any], folder: Path | None = None) -> None:
    """Call a function as `nobody`, because mode bits do not restrict root. `folder` and its contents change owner."""
    if os.geteuid():
        function()
        return
    for path in [folder, *folder.rglob("*")] if folder else []:
        os.chown(path, 65534, 65534, follow_symlinks=False)
    pid = os.fork()
    if not pid:
        try:
            os.setgroups([])
            os.setgid(65534)
            os.setuid(65534)
            function()
            os._exit(0)
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


# Processes.


def pids() -> list[int]:
    return [int(name) for name in os.listdir("/proc") if name.isdecimal()]


def read(pid: int, what: str) -> bytes:
    try:
        return Path(f"/proc/{pid}/{what}").read_bytes()
    except OSError:
        return b""


def cmdline(pid: int) -> bytes:
    return read(pid, "cmdline")


def state_of(pid: int) -> str:
    """Return the letter of a process's state, or an empty string if there is no such process."""
    return read(pid, "stat").rpartition(b") ")[2][:1].decode()


def parent_of(pid: int) -> int:
    fields = read(pid, "stat").rpartition(b") ")[2].split()
    return int(fields[1]) if fields else 0


def lives(pid: int) -> bool:
    return state_of(pid) not in ("", "Z", "X")


def processes_of(identity: str) -> list[int]:
    """Return the living processes of a job or build, by the marker in their environment."""
    marker = f"POLYJOB_UUID={identity}".encode()
    return [pid for pid in pids() if marker in read(pid, "environ").split(b"\0") and lives(pid)]


def kill(pid: int, signal_number: int = 9) -> None:
    """Signal a process that this test has started."""
    assert pid > 1
    pidfd = os.pidfd_open(pid)
    try:
        import signal

        signal.pidfd_send_signal(pidfd, signal_number)
    finally:
        os.close(pidfd)
    if signal_number == 9:
        wait_for(lambda: not lives(pid))


def archive(path: Path, *members: tuple[str, Any]) -> str:
    """Write a tar.gz file and return its path.

    Each member is (name, content). The content is a text, {"link": target} or {"text": text, "mode": mode}.
    """
    with tarfile.open(path, "w:gz") as file:
        for name, content in members:
            fields = content if isinstance(content, dict) else {"text": content}
            member = tarfile.TarInfo(name)
            member.mode = fields.get("mode", 0o644)
            data = fields.get("text", "").encode()
            if "link" in fields:
                member.type, member.linkname = tarfile.SYMTYPE, fields["link"]
            elif name.endswith("/"):
                member.type = tarfile.DIRTYPE
            else:
                member.size = len(data)
            file.addfile(member, io.BytesIO(data))
    return str(path)
