"""Builds of the process runner: a virtualenv in the build's folder, in which the steps really run.

Each step runs under a supervisor of its own, whose standard input is held open here: when the engine dies, however it
dies, that input ends and the supervisor kills the step with all that came of it.
"""

from __future__ import annotations

import contextlib
import json
import os
import pwd
import subprocess
import sys
import tarfile
import threading
import time
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, BinaryIO

from runners import keeper
from runners.base import BuildFailed, BuildSpec, RunnerSettings, RunnerUnavailable, mark
from runners.build_log import BuildLog
from runners.marks import kill_marked
from runners.process_environment import account_of, inherited
from runners.trees import give_tree, remove_tree

GRACE = 5.0
PATIENCE = 20.0
"""Seconds that a killed step gets to be gone."""
LARGEST_FILE = 16 << 20
"""Bytes of one requirement file."""


@dataclass(frozen=True)
class Artifact:
    """What a build leaves for its jobs, kept as JSON: the virtualenv, if there is one."""

    env: str | None = None
    variables: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def read(cls, text: str | None) -> Artifact:
        return cls(**{key: value for key, value in json.loads(text).items() if key != "v"}) if text else cls()

    def text(self) -> str:
        return json.dumps({"v": 1, "env": self.env, "variables": dict(self.variables)})

    def into(self, env: Mapping[str, str]) -> dict[str, str]:
        """`env` with the virtualenv first on PATH, and the build's variables."""
        merged = dict(env) | dict(self.variables)
        if self.env is not None:
            merged |= {"PATH": f"{self.env}/bin:{merged['PATH']}", "VIRTUAL_ENV": self.env}
        return merged


def build(spec: BuildSpec, log: BinaryIO, cancelled: Callable[[], bool], settings: RunnerSettings) -> str | None:
    """`Runner.build`."""
    kill_marked(spec.uuid)
    folder = Path(spec.folder)
    try:
        for name in ("env", "work"):
            remove_tree(folder / name)
        if not spec.steps and not spec.env:
            return None
        _Build(spec, log, cancelled, settings, folder).run()
    except OSError as error:
        raise RunnerUnavailable(f"the build could not be run: {error.strerror or error}") from error
    return Artifact(str(folder / "env"), spec.env).text()


class _Build:
    def __init__(
        self, spec: BuildSpec, log: BinaryIO, cancelled: Callable[[], bool], settings: RunnerSettings, folder: Path
    ) -> None:
        self.spec = spec
        self.log = BuildLog(log, spec.log_limit)
        self.cancelled = cancelled
        self.account = account_of(settings)
        self.work, self.env_folder = folder / "work", folder / "env"
        self.deadline = time.monotonic() + spec.timeout
        name, value = mark(spec.uuid)
        self.plain_env = inherited(settings, self.account) | {"PYTHONUNBUFFERED": "1", name: value}
        self.env = Artifact(str(self.env_folder), spec.env).into(self.plain_env)

    def run(self) -> None:
        self._make_folders()
        try:
            self.log.say("Making a virtualenv")
            code = self._supervise([sys.executable, "-m", "venv", str(self.env_folder)], self.plain_env)
            if code:
                raise BuildFailed("the virtualenv could not be made; the build's log says why", code=code)
            for number, step in enumerate(self.spec.steps, 1):
                self.log.say(f"Step {number}/{len(self.spec.steps)}: {step}")
                code = self._supervise(["/bin/sh", "-e", "-c", step], self.env, number)
                if code:
                    raise BuildFailed(f"step {number} ended with exit code {code}: {_short(step)}", number, code)
        finally:
            self.log.end()

    def _make_folders(self) -> None:
        """Make the folders with all their files, and only then give them to the account."""
        for folder in (self.work, self.env_folder):
            folder.mkdir(mode=0o755)
        self._copy_files()
        if self.account is not None:
            for folder in (self.work, self.env_folder):
                give_tree(folder, self.account.pw_uid, self.account.pw_gid)

    def _copy_files(self) -> None:
        if not (self.spec.code and self.spec.files):
            return
        try:
            with tarfile.open(self.spec.code, "r:gz") as archive:
                for member in archive:
                    name = member.name.removeprefix("./")
                    content = archive.extractfile(member) if name in self.spec.files and member.isreg() else None
                    if content is not None:
                        self._copy_file(name, member, content)
        except (tarfile.TarError, zlib.error, EOFError, FileNotFoundError) as error:
            raise BuildFailed(f"the uploaded code cannot be read: {error}") from error

    def _copy_file(self, name: str, member: tarfile.TarInfo, content: IO[bytes]) -> None:
        if member.size > LARGEST_FILE:
            raise BuildFailed(f"`{name}` is larger than {LARGEST_FILE >> 20} MiB")
        path = self.work / name
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o755)
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o755 if member.mode & 0o111 else 0o644)
        with open(file, "wb") as copy:
            copy.write(content.read())

    def _supervise(self, argv: list[str], env: Mapping[str, str], number: int | None = None) -> int:
        """The command's exit code, its output in the log. Raises BuildFailed when cancelled or too late, with nothing
        of it left."""
        told = {
            "argv": argv,
            "env": dict(env),
            "folder": str(self.work),
            "grace": GRACE,
            "account": _json(self.account),
        }
        process = subprocess.Popen(
            [sys.executable, "-I", "-S", str(Path(keeper.__file__).resolve()), "supervise"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=dict([mark(self.spec.uuid)]),
            cwd="/",
            start_new_session=True,
            bufsize=0,
        )
        assert process.stdin is not None and process.stdout is not None
        copying = threading.Thread(target=self.log.copy, args=(process.stdout,), name="build-log")
        copying.start()
        try:
            with contextlib.suppress(BrokenPipeError):  # it has been killed; its exit code says so
                process.stdin.write(json.dumps(told).encode() + b"\n")
            return self._wait(process, number)
        finally:
            process.stdin.close()
            try:
                process.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                process.kill()
                kill_marked(self.spec.uuid)
            copying.join(PATIENCE)
            process.stdout.close()

    def _wait(self, process: subprocess.Popen[bytes], number: int | None) -> int:
        where = "the virtualenv" if number is None else f"step {number}"
        while True:
            try:
                return process.wait(0.1)
            except subprocess.TimeoutExpired:
                if self.cancelled():
                    raise BuildFailed("the build was cancelled", number) from None
                if time.monotonic() > self.deadline:
                    text = f"{where} was not done after the {self.spec.timeout:g} s that a build may take"
                    raise BuildFailed(text, number) from None


def _json(account: pwd.struct_passwd | None) -> dict[str, object] | None:
    if account is None:
        return None
    groups = os.getgrouplist(account.pw_name, account.pw_gid)
    return {"user": account.pw_uid, "group": account.pw_gid, "groups": groups}


def _short(step: str) -> str:
    line = " ".join(step.split())
    return line if len(line) <= 80 else f"{line[:79]}…"
