"""`polyjob doctor`: each part that has to work, and what to do where it does not."""

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

from polyjob.cli.client import Client, NoServer, ServerError, connect, exit_on_error, local_settings
from polyjob.cli.output import print_json
from polyjob.formatting import format_size
from polyjob.settings import SettingError, Settings

UNKNOWN = "0" * 32
"""In place of the installation's id, by which a runner finds what it has made."""
Finding = tuple[str, bool | None, str]
"""(part, whether it works; None = it does, and yet, what to know or do)"""


@click.command()
@click.option("--json", "is_json", is_flag=True, help="Print JSON.")
def doctor(is_json: bool) -> None:
    """Look at each part: fine, or what to do. Exits with 1 if a part does not work."""
    with exit_on_error():
        findings = list(_findings())
    if is_json:
        print_json([{"part": part, "ok": ok is not False, "text": text} for part, ok, text in findings])
    else:
        marks = {
            True: click.style("fine", fg="green"),
            None: click.style("note", fg="yellow"),
            False: click.style("BAD ", fg="red"),
        }
        for part, ok, text in findings:
            click.echo(f"{marks[ok]}  {part:<12}  {text}")
    raise SystemExit(any(ok is False for _, ok, _ in findings))


def _findings() -> Iterator[Finding]:
    yield "python", True, f"{platform.python_version()}, SQLite {sqlite3.sqlite_version}"
    client = connect()
    if client.is_local:
        yield from _of_folder(local_settings())
    yield from _of_server(client)


def _of_folder(settings: Settings) -> Iterator[Finding]:
    folder = settings.data_dir
    if not folder.exists():
        yield "data folder", False, f"{folder} is not there yet: `polyjob serve` makes it."
        return
    if not os.access(folder, os.R_OK | os.W_OK | os.X_OK):
        yield "data folder", False, f"{folder} cannot be read or written by this account."
        return
    status = os.statvfs(folder)
    free = status.f_bavail * status.f_frsize
    enough = free >= settings.disk_low
    yield "data folder", enough, f"{folder}, {format_size(free)} free" + ("" if enough else ": too little; make room.")
    if settings.runner == "process":
        yield from _of_isolation(settings)
        yield _of_python(settings)


def _of_python(settings: Settings) -> Finding:
    path = shutil.which(settings.python or sys.executable)
    if path is None:
        return "build python", False, f"POLYJOB_PYTHON={settings.python} is not a program that can be executed."
    try:
        done = subprocess.run([path, "-I", "-c", "import ensurepip, venv"], capture_output=True, timeout=30)
    except (OSError, subprocess.TimeoutExpired) as error:
        return "build python", False, f"{path} cannot be run: {error}."
    if done.returncode:
        return "build python", False, f"{path} has no `venv`, which builds need: install it, such as python3-venv."
    return "build python", True, path


def _of_isolation(settings: Settings) -> Iterator[Finding]:
    from runners.process.isolation import gaps, gaps_between_jobs

    if not settings.job_user:
        what = "jobs run as the server's own account and can read its data; set POLYJOB_JOB_USER to change that"
        yield "isolation", None, what
        return
    yield "isolation", True, f"jobs run as `{settings.job_user}`"
    for gap in gaps(settings.job_user):
        yield "isolation", False, gap
    for gap in gaps_between_jobs():
        yield "isolation", None, gap


def _of_server(client: Client) -> Iterator[Finding]:
    try:
        parts = _readiness(client)
    except (NoServer, ServerError) as error:
        yield "server", False, str(error)
        if client.is_local:
            yield _of_runner(local_settings())
        return
    yield "server", True, client.url
    is_unwatched = client.is_local and not parts["engine"]["ok"]
    for name, part in parts.items():
        if name == "runner" and is_unwatched:
            yield _of_runner(local_settings())
        elif isinstance(part, dict):
            yield name, bool(part["ok"]), "works" if part["ok"] else f"{part['why']}{_advice(name)}"
    try:
        me = client.get("/users")
        yield "key", True, f"of {me['username']}{', an administrator' if me['is_superuser'] else ''}"
    except ServerError as error:
        yield "key", False, f"{error} Set POLYJOB_TOKEN to a key of yours."


def _of_runner(settings: Settings) -> Finding:
    """Return what a server with these settings would say of its runner."""
    import runners
    from polyjob.engine.retries import words
    from polyjob.server.bootstrap import check
    from polyjob.services.specs import runner_settings

    try:
        check(settings)
        runner = runners.load(settings.runner, runner_settings(settings, UNKNOWN), lambda: None)
    except (SettingError, RuntimeError) as error:
        return "runner", False, f"{error}."
    except ImportError as error:
        package = f"pip install 'polyjob[{settings.runner}]'"
        return "runner", False, f"The {settings.runner} runner cannot be loaded: {error}. `{package}` installs it."
    try:
        runner.probe()
    except Exception as error:  # a defect of the runner counts as a backend that does not work
        return "runner", False, " ".join(words(error).split())
    finally:
        runner.close()
    return "runner", True, f"{settings.runner}: works from here"


def _readiness(client: Client) -> dict[str, Any]:
    """The 503 is an answer here, too."""
    try:
        answer = client.http.get(f"{client.url}/readyz", timeout=(5, 30))
    except requests.RequestException as error:
        raise NoServer(client.describe(error)) from None
    found: dict[str, Any] = client.document(answer)
    return found


def _advice(part: str) -> str:
    return {
        "engine": " Start one with `polyjob serve`, or `polyjob engine` beside a web server.",
        "disk": " Make room, or set POLYJOB_DISK_LOW.",
    }.get(part, "")


commands = {"doctor": doctor}
