"""`polyjob doctor`: check each part of the installation, and suggest how to repair a fault."""

from __future__ import annotations

import os
import platform
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import click
import requests

from polyjob.cli.client import Client
from polyjob.cli.connect import connect, local_settings
from polyjob.cli.errors import NoServer, ServerError, exit_on_error
from polyjob.cli.findings import Finding, print_findings
from polyjob.cli.options import json_option
from polyjob.formatting import format_size
from polyjob.settings import SettingError, Settings

UNKNOWN_INSTALLATION = "0" * 32
"""Stands for the installation's id, by which a runner recognizes its own objects."""
READINESS_TIMEOUTS_SECONDS = (5, 30)


@click.command()
@json_option
def doctor(is_json: bool) -> None:
    """Check each part of the installation, and suggest how to repair faults. Exits with 1 if a part does not work."""
    with exit_on_error():
        findings = list(check_installation())
    print_findings(findings, is_json)


def check_installation() -> Iterator[Finding]:
    yield Finding("python", True, f"{platform.python_version()}, SQLite {sqlite3.sqlite_version}")
    client = connect()
    if client.is_local:
        yield from check_data_folder(local_settings())
    yield from check_server(client)


def check_data_folder(settings: Settings) -> Iterator[Finding]:
    folder = settings.data_dir
    if not folder.exists():
        yield Finding("data folder", False, f"{folder} does not exist. `polyjob serve` creates it.")
        return
    if not os.access(folder, os.R_OK | os.W_OK | os.X_OK):
        yield Finding("data folder", False, f"This account cannot read and write {folder}.")
        return
    status = os.statvfs(folder)
    free = status.f_bavail * status.f_frsize
    is_enough = free >= settings.disk_low
    advice = "" if is_enough else ": too little; make room."
    yield Finding("data folder", is_enough, f"{folder}, {format_size(free)} free{advice}")
    yield from _check_volumes(settings)
    if "process" in settings.runner_names:
        yield from _check_isolation(settings)
        yield _check_build_python(settings)


def _check_volumes(settings: Settings) -> Iterator[Finding]:
    from polyjob.services.volumes import missing_folders

    if not settings.volumes:
        return
    sentences = missing_folders(settings)
    is_needed_here = "process" in settings.runner_names
    yield from (Finding("volumes", False if is_needed_here else None, sentence) for sentence in sentences)
    if not sentences:
        yield Finding("volumes", True, ", ".join(map(str, settings.volumes)))


def _check_build_python(settings: Settings) -> Finding:
    part = "build python"
    path = shutil.which(settings.python or sys.executable)
    if path is None:
        return Finding(part, False, f"POLYJOB_PYTHON={settings.python} is not an executable program.")
    try:
        result = subprocess.run([path, "-I", "-c", "import ensurepip, venv"], capture_output=True, timeout=30)
    except (OSError, subprocess.TimeoutExpired) as error:
        return Finding(part, False, f"{path} cannot be run: {error}.")
    if result.returncode:
        return Finding(part, False, f"{path} has no `venv` module. Builds need it: install, for example, python3-venv.")
    return Finding(part, True, path)


def _check_isolation(settings: Settings) -> Iterator[Finding]:
    from runners.process.isolation import gaps, gaps_between_jobs

    if not settings.job_user:
        text = "Jobs run as the server's account and can read its data. Set POLYJOB_JOB_USER to change that."
        yield Finding("isolation", None, text)
        return
    yield Finding("isolation", True, f"Jobs run as `{settings.job_user}`.")
    for gap in gaps(settings.job_user):
        yield Finding("isolation", False, gap)
    for gap in gaps_between_jobs():
        yield Finding("isolation", None, gap)


def check_server(client: Client) -> Iterator[Finding]:
    try:
        parts = _readiness(client)
    except (NoServer, ServerError) as error:
        yield Finding("server", False, str(error))
        if client.is_local:
            yield from check_runners(local_settings())
        return
    yield Finding("server", True, client.url)
    has_no_engine = client.is_local and not parts["engine"]["ok"]
    for name, part in parts.items():
        if name == "runner" and has_no_engine:
            yield from check_runners(local_settings())
        elif isinstance(part, dict):
            is_ok = bool(part["ok"])
            yield Finding(name, is_ok, "works" if is_ok else f"{part['why']}{_advice(name)}")
    try:
        me = client.get("/users")
        yield Finding("token", True, f"{me['username']}{', an administrator' if me['is_superuser'] else ''}")
    except ServerError as error:
        yield Finding("token", False, f"{error} Set POLYJOB_TOKEN to your token.")


def check_runners(settings: Settings) -> Iterator[Finding]:
    """Check each runner of these settings directly, without a server."""
    from polyjob.server.settings_check import check_settings

    try:
        check_settings(settings)
    except (SettingError, RuntimeError) as error:
        yield Finding("runner", False, f"{error}.")
        return
    for name in settings.runner_names:
        yield _check_runner(name, settings)


def _check_runner(name: str, settings: Settings) -> Finding:
    import runners
    from polyjob.engine.retries import error_text
    from polyjob.services.specs import runner_settings

    try:
        runner = runners.load(name, runner_settings(settings, UNKNOWN_INSTALLATION, name), lambda: None)
    except ImportError as error:
        text = f"The {name} runner cannot be loaded: {error}. Run: pip install 'polyjob[{name}]'"
        return Finding("runner", False, text)
    except Exception as error:  # of a runner of another package
        return Finding("runner", False, f"The {name} runner cannot be created: {' '.join(error_text(error).split())}")
    try:
        runner.probe()
    except Exception as error:  # a defect of the runner counts as a backend that does not work
        return Finding("runner", False, " ".join(error_text(error).split()))
    finally:
        runner.close()
    return Finding("runner", True, f"{name}: works when called from here")


def _readiness(client: Client) -> dict[str, Any]:
    """Return the readiness of each part. A 503 has it as well. Raises NoServer."""
    try:
        response = client.http.get(f"{client.url}/readyz", timeout=READINESS_TIMEOUTS_SECONDS)
    except requests.RequestException as error:
        raise NoServer(client.describe(error)) from None
    parts: dict[str, Any] = client.document(response)
    return parts


def _advice(part: str) -> str:
    return {
        "engine": " Start one with `polyjob serve`, or `polyjob engine` beside a web server.",
        "disk": " Make room, or set POLYJOB_DISK_LOW.",
    }.get(part, "")


commands = {"doctor": doctor}
