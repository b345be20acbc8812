"""Builds of the process runner: a virtualenv in the build's folder, in which the build steps run.

Each step runs under a `build_step_supervisor`, whose standard input the engine holds open. If the engine dies, that
input reaches its end, and the supervisor kills the step and all its descendants.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from runners.base import BuildFailed, BuildSpec, RunnerSettings, RunnerUnavailable, marker_variable
from runners.common.build_log import BuildLog
from runners.common.requirement_files import read_requirement_files
from runners.common.trees import give_tree, open_to_owner, remove_tree
from runners.process import launch
from runners.process.environment import account_json, inherited_variables, job_account
from runners.process.markers import kill_marked

GRACE_SECONDS = 5.0
"""Time between TERM and KILL for what a build step leaves running."""
KILL_TIMEOUT_SECONDS = 20.0
"""Time within which a killed build step must end."""
TITLE_CHARACTERS = 80
"""Characters of a build step in an error message."""


@dataclass(frozen=True)
class Artifact:
    """The result of a build, stored as JSON: the virtualenv, if there is one, and the variables of the build."""

    env: str | None = None
    """Path of the virtualenv."""
    variables: Mapping[str, str] = field(default_factory=dict)
    python: str | None = None
    """Identity of the virtualenv's Python; None if it had none at the end of the build."""

    @classmethod
    def read(cls, text: str | None) -> Artifact:
        return cls(**{key: value for key, value in json.loads(text).items() if key != "v"}) if text else cls()

    def text(self) -> str:
        return json.dumps({"v": 1, "env": self.env, "variables": dict(self.variables), "python": self.python})

    def problem(self) -> str | None:
        """Return why jobs cannot use the artifact any more, without a full stop, or None if they can."""
        if self.env is None:
            return None
        if not os.path.isdir(self.env):
            return "its virtualenv is missing"
        current = python_identity(self.env)
        if self.python is None or current == self.python:
            return None
        return "its Python is missing" if current is None else "its Python was changed"

    def apply_to(self, inherited: Mapping[str, str], own: Mapping[str, str] | None = None) -> dict[str, str]:
        """Return the variables of a command, with the virtualenv first on PATH.

        These are the inherited ones without the pip settings that redirect installations, the build's variables, and
        the command's own.
        """
        own = dict(self.variables) | dict(own or {})
        if self.env is None:
            return dict(inherited) | own
        merged = {name: value for name, value in inherited.items() if not _redirects_pip(name)}
        merged |= {"PIP_USER": "0"} | own
        return merged | {"PATH": f"{self.env}/bin:{merged['PATH']}", "VIRTUAL_ENV": self.env}


REDIRECTING_PIP_SETTINGS = (
    *("user", "target", "prefix", "root", "src", "python", "dry-run"),
    *("platform", "python-version", "implementation", "abi"),
)
"""Settings with which pip installs nothing, or not into the virtualenv."""


def _redirects_pip(variable: str) -> bool:
    return variable.startswith("PIP_") and variable[4:].lower().replace("_", "-") in REDIRECTING_PIP_SETTINGS


def _pip_configuration() -> str:
    """Return a virtualenv's pip.conf. It overrides these settings in pip's files of the machine and of the account."""
    lines = "".join(f"{name} =\n" for name in REDIRECTING_PIP_SETTINGS)
    return f"[global]\n{lines}[install]\n{lines}"


def python_identity(env: str) -> str | None:
    """Return path, size and modification time of a virtualenv's Python, or None if it has none.

    Python is never executed here, because a job may have replaced it.
    """
    path = os.path.realpath(f"{env}/bin/python")
    try:
        status = os.stat(path)
    except OSError:
        return None
    is_program = stat.S_ISREG(status.st_mode) and status.st_mode & 0o111
    return f"{path} {status.st_size} {status.st_mtime_ns}" if is_program else None


def python_for_builds(settings: RunnerSettings) -> str:
    """Return the path of the Python that creates virtualenvs. Raises RunnerUnavailable if it is missing."""
    name = settings.options.get("python")
    if name is None:
        return sys.executable
    path = shutil.which(name)
    if path is None:
        raise RunnerUnavailable(f"POLYJOB_PYTHON={name} is not an executable program")
    return str(Path(path).absolute())


def build(spec: BuildSpec, log: BinaryIO, cancelled: Callable[[], bool], settings: RunnerSettings) -> str | None:
    """Build as `Runner.build` specifies."""
    kill_marked(spec.uuid)
    folder = Path(spec.folder)
    env, work, temporary = folder / "env", folder / "work", folder / "tmp"
    open_to_owner(folder)  # an earlier attempt may have removed its permissions
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
    return Artifact(str(env), spec.env, python_identity(str(env))).text()


class _Build:
    def __init__(
        self, spec: BuildSpec, log: BinaryIO, cancelled: Callable[[], bool], settings: RunnerSettings, folder: Path
    ) -> None:
        self.spec = spec
        self.log = BuildLog(log, spec.log_limit)
        self.cancelled = cancelled
        self.account = job_account(settings)
        self.work, self.env_folder, self.temporary = folder / "work", folder / "env", folder / "tmp"
        self.deadline = time.monotonic() + spec.timeout
        self.python = python_for_builds(settings)
        marker, value = marker_variable(spec.uuid)
        inherited = inherited_variables(settings, self.account, with_credentials=True)
        self.plain_env = inherited | {"PYTHONUNBUFFERED": "1", "TMPDIR": str(self.temporary), marker: value}
        self.env = Artifact(str(self.env_folder), spec.env).apply_to(self.plain_env)

    def run(self) -> None:
        self._make_folders()
        try:
            self.log.say(f"Creating a virtualenv with {self.python}")
            # With -I, modules among the files in the working folder are not imported.
            exit_code = self._supervise([self.python, "-I", "-m", "venv", str(self.env_folder)], self.plain_env)
            if exit_code:
                message = "the virtualenv could not be created; see the build's log"
                raise BuildFailed(message, exit_code=exit_code)
            for step_number, step in enumerate(self.spec.build_steps, 1):
                self.log.say(f"Step {step_number}/{len(self.spec.build_steps)}: {step}")
                exit_code = self._supervise(["/bin/sh", "-e", "-c", step], self.env, step_number)
                if exit_code:
                    message = f"step {step_number} ended with exit code {exit_code}: {_title(step)}"
                    raise BuildFailed(message, step_number, exit_code)
        finally:
            self.log.end()

    def _make_folders(self) -> None:
        """Create the folders with all their files, and only then give them to the account."""
        for folder in (self.work, self.env_folder):
            folder.mkdir(mode=0o755)
        self.temporary.mkdir(mode=0o700)
        (self.env_folder / "pip.conf").write_text(_pip_configuration())
        for name, content, mode in read_requirement_files(self.spec):
            path = self.work / name
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o755)
            with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode), "wb") as file:
                file.write(content)
        if self.account is not None:
            for folder in (self.work, self.env_folder, self.temporary):
                give_tree(folder, self.account.pw_uid, self.account.pw_gid)

    def _supervise(self, argv: list[str], env: Mapping[str, str], step: int | None = None) -> int:
        """Run a command with its output in the log, and return its exit code.

        Raises BuildFailed if the build is cancelled or exceeds its time limit; then no process of it is left.
        """
        request = {
            "argv": argv,
            "env": dict(env),
            "folder": str(self.work),
            "grace": GRACE_SECONDS,
            "account": account_json(self.account),
        }
        process = subprocess.Popen(
            launch.command("build_step_supervisor"),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=dict([marker_variable(self.spec.uuid)]),
            cwd="/",
            start_new_session=True,
            bufsize=0,
        )
        assert process.stdin is not None and process.stdout is not None
        copier = threading.Thread(target=self.log.copy, args=(process.stdout,), name="build-log")
        copier.start()
        try:
            with contextlib.suppress(BrokenPipeError):  # it was killed; its exit code shows that
                process.stdin.write(json.dumps(request).encode() + b"\n")
            return self._wait(process, step)
        finally:
            process.stdin.close()
            try:
                process.wait(KILL_TIMEOUT_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                kill_marked(self.spec.uuid)
            copier.join(KILL_TIMEOUT_SECONDS)
            process.stdout.close()

    def _wait(self, process: subprocess.Popen[bytes], step: int | None) -> int:
        subject = "the virtualenv" if step is None else f"step {step}"
        while True:
            try:
                return process.wait(0.1)
            except subprocess.TimeoutExpired:
                if self.cancelled():
                    raise BuildFailed("the build was cancelled", step) from None
                if time.monotonic() > self.deadline:
                    message = f"{subject} was not done within the build's time limit of {self.spec.timeout:g} s"
                    raise BuildFailed(message, step) from None


def _title(step: str) -> str:
    line = " ".join(step.split())
    return line if len(line) <= TITLE_CHARACTERS else f"{line[: TITLE_CHARACTERS - 1]}…"
