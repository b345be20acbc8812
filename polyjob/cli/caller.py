"""The caller of `polyjob run`: the folder and the variables that a job on the same machine takes over."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass

from polyjob.cli.client import Client
from polyjob.cli.connect import local_settings
from polyjob.cli.data_dir import settings_of_running_server
from polyjob.cli.errors import UsageError
from polyjob.engine_link import engine_pid
from polyjob.server.bootstrap_names import ADDRESS_FILE
from runners.capabilities import LOCAL_RUNNERS

CALLER_VARIABLES = ("PATH", "VIRTUAL_ENV", "CONDA_PREFIX", "PYTHONPATH", "LANG")
"""Variables that a job takes over. Others may have secrets, so `--env NAME` names them one by one."""


@dataclass(frozen=True)
class Caller:
    folder: str
    """The working folder of the job; empty if the job has files of its own."""
    variables: tuple[tuple[str, str], ...]
    """(name, value) of those of CALLER_VARIABLES that are set."""

    @classmethod
    def capture(cls, environment: Mapping[str, str] = os.environ, *, with_folder: bool = True) -> Caller:
        """Return the caller of this command. Raises UsageError if the folder or a variable cannot be passed on."""
        variables = tuple((name, environment[name]) for name in CALLER_VARIABLES if name in environment)
        for name, value in variables:
            _check_text(f"The variable `{name}`", value)
        return cls(_current_folder() if with_folder else "", variables)


def is_on_this_machine(client: Client, backend: object) -> bool:
    """Return whether a job with this `backend` would run as a process of this machine, of a server that is ours.

    A server is ours if its data folder and its settings can be read. So it runs as the account of this command, unless
    this command runs as root.
    """
    if not client.is_local:
        return False
    settings = local_settings()
    if not os.access(settings.data_dir / ADDRESS_FILE, os.R_OK):
        return False
    if engine_pid(settings.data_dir) is not None:
        running = settings_of_running_server(settings)
        if running is None:  # in another container, for example
            return False
        settings = running
    runner = backend if backend in settings.runner_names else settings.runner
    return runner in LOCAL_RUNNERS


def _current_folder() -> str:
    try:
        folder = os.getcwd()
    except FileNotFoundError:
        raise UsageError("The current folder was deleted. Change to another one, or use `--clean`.") from None
    _check_text("The name of the current folder", folder)
    return folder


def _check_text(subject: str, text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise UsageError(f"{subject} is not UTF-8, so the job cannot have it. Use `--clean`.") from None
