"""Builds of the process runner: a virtualenv in the build's folder, in which the steps really run.

Each step runs under a supervisor of its own, whose standard input is held open here: when the engine dies, however it
dies, that input ends and the supervisor kills the step with all that came of it.
"""

from __future__ import annotations

import contextlib
import json
import os
import pwd
import shutil
import stat
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

from runners.base import BuildFailed, BuildSpec, RunnerSettings, RunnerUnavailable, marker_variable
from runners.common.build_log import BuildLog
from runners.common.trees import give_tree, open_to_owner, remove_tree
from runners.process import keeper
from runners.process.environment import account_of, inherited
from runners.process.markers import kill_marked

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
    python: str | None = None
    """Identity of the virtualenv's Python; None if it had none when the build ended."""

    @classmethod
    def read(cls, text: str | None) -> Artifact:
        return cls(**{key: value for key, value in json.loads(text).items() if key != "v"}) if text else cls()

    def text(self) -> str:
        return json.dumps({"v": 1, "env": self.env, "variables": dict(self.variables), "python": self.python})

    def fault(self) -> str | None:
        """Return why no job can run on it any more, without a full stop; None if one can."""
        if self.env is None:
            return None
        if not os.path.isdir(self.env):
            return "its virtualenv is not there any more"
        now = python_of(self.env)
        if self.python is None or now == self.python:
            return None
        return "its Python is missing" if now is None else "its Python was changed"

    def into(self, env: Mapping[str, str]) -> dict[str, str]:
        """Return `env` with the virtualenv first on PATH, the build's variables, and pip settings that fit it."""
        if self.env is None:
            return dict(env) | dict(self.variables)
        merged = {name: value for name, value in env.items() if not _leads_pip_away(name)}
        merged |= {"PIP_USER": "0"} | dict(self.variables)
        return merged | {"PATH": f"{self.env}/bin:{merged['PATH']}", "VIRTUAL_ENV": self.env}


PLACES_OF_PIP = (
    *("user", "target", "prefix", "root", "src", "python", "dry-run"),
    *("platform", "python-version", "implementation", "abi"),
)
"""Settings by which pip installs elsewhere than into the virtualenv, or nothing at all."""


def _leads_pip_away(variable: str) -> bool:
    return variable.startswith("PIP_") and variable[4:].lower().replace("_", "-") in PLACES_OF_PIP


def _pip_configuration() -> str:
    """Return a virtualenv's pip.conf, which overrides these settings in the files of the machine and of the account."""
    lines = "".join(f"{name} =\n" for name in PLACES_OF_PIP)
    return f"[global]\n{lines}[install]\n{lines}"


def python_of(env: str) -> str | None:
    """Return the identity of a virtualenv's Python (path, size, time of the last change); None if there is none.

    It is never executed: a job may have exchanged it.
    """
    path = os.path.realpath(f"{env}/bin/python")
    try:
        status = os.stat(path)
    except OSError:
        return None
    is_program = stat.S_ISREG(status.st_mode) and status.st_mode & 0o111
    return f"{path} {status.st_size} {status.st_mtime_ns}" if is_program else None


def python_for_builds(settings: RunnerSettings) -> str:
    """Return the path of the Python that makes virtualenvs. Raises RunnerUnavailable if there is none."""
    name = settings.options.get("python")
    if name is None:
        return sys.executable
    path = shutil.which(name)
    if path is None:
        raise RunnerUnavailable(f"POLYJOB_PYTHON={name} is not a program that can be executed")
    return str(Path(path).absolute())


def build(spec: BuildSpec, log: BinaryIO, cancelled: Callable[[], bool], settings: RunnerSettings) -> str | None:
    """`Runner.build`."""
    kill_marked(spec.uuid)
    folder = Path(spec.folder)
    env, work, temporary = folder / "env", folder / "work", folder / "tmp"
    open_to_owner(folder)  # an earlier attempt may have taken its permissions
    try:
        for path in (env, work, temporary):
            remove_tree(path)
        if not spec.build_steps and not spec.env:
            return None
        try:
            _Build(spec, log, cancelled, settings, folder).run()
        finally:
            open_to_owner(folder)
            with contextlib.suppress(OSError):
                remove_tree(temporary)
    except OSError as error:
        raise RunnerUnavailable(f"the build could not be run: {error.strerror or error}") from error
    return Artifact(str(env), spec.env, python_of(str(env))).text()


class _Build:
    def __init__(
        self, spec: BuildSpec, log: BinaryIO, cancelled: Callable[[], bool], settings: RunnerSettings, folder: Path
    ) -> None:
        self.spec = spec
        self.log = BuildLog(log, spec.log_limit)
        self.cancelled = cancelled
        self.account = account_of(settings)
        self.work, self.env_folder, self.temporary = folder / "work", folder / "env", folder / "tmp"
        self.deadline = time.monotonic() + spec.timeout
        self.python = python_for_builds(settings)
        name, value = marker_variable(spec.uuid)
        base = inherited(settings, self.account, with_credentials=True)
        self.plain_env = base | {"PYTHONUNBUFFERED": "1", "TMPDIR": str(self.temporary), name: value}
        self.env = Artifact(str(self.env_folder), spec.env).into(self.plain_env)

    def run(self) -> None:
        self._make_folders()
        try:
            self.log.say(f"Making a virtualenv with {self.python}")
            # -I, or modules among the files in the working folder would be imported.
            code = self._supervise([self.python, "-I", "-m", "venv", str(self.env_folder)], self.plain_env)
            if code:
                raise BuildFailed("the virtualenv could not be made; the build's log says why", exit_code=code)
            for number, step in enumerate(self.spec.build_steps, 1):
                self.log.say(f"Step {number}/{len(self.spec.build_steps)}: {step}")
                code = self._supervise(["/bin/sh", "-e", "-c", step], self.env, number)
                if code:
                    raise BuildFailed(f"step {number} ended with exit code {code}: {_short(step)}", number, code)
        finally:
            self.log.end()

    def _make_folders(self) -> None:
        """Make the folders with all their files, and only then give them to the account."""
        for folder in (self.work, self.env_folder):
            folder.mkdir(mode=0o755)
        self.temporary.mkdir(mode=0o700)
        (self.env_folder / "pip.conf").write_text(_pip_configuration())
        self._copy_files()
        if self.account is not None:
            for folder in (self.work, self.env_folder, self.temporary):
                give_tree(folder, self.account.pw_uid, self.account.pw_gid)

    def _copy_files(self) -> None:
        if not (self.spec.upload and self.spec.requirement_files):
            return
        try:
            with tarfile.open(self.spec.upload, "r:gz") as archive:
                for member in archive:
                    name = member.name.removeprefix("./")
                    content = (
                        archive.extractfile(member) if name in self.spec.requirement_files and member.isreg() else None
                    )
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
            env=dict([marker_variable(self.spec.uuid)]),
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
