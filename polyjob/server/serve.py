"""`polyjob serve`: a small parent of web server and engine, and what it tells the terminal."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import fcntl
import functools
import http.client
import json
import os
import pwd
import shlex
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from peewee import DatabaseError

from polyjob.db.database import close_database, database, open_database
from polyjob.db.models import CLAIMED, Job
from polyjob.engine_link import EngineRunning, engine_pid
from polyjob.server.bootstrap import (
    UnusableFolder,
    check,
    kept_token,
    new_sign_in_key,
    open_folder,
    warnings,
)
from polyjob.server.bootstrap_names import ADDRESS_FILE, PROJECT, TOKEN_FILE, USER
from polyjob.server.supervisor import ENGINE, PYTHON, Child, child_environment, engine_may_start, tend
from polyjob.settings import SettingError, Settings, read_settings
from polyjob.storage.store import Store
from runners.capabilities import REQUIRED_PARTS
from runners.process.isolation import gaps

if TYPE_CHECKING:
    from flask import Flask

BACKLOG = 2048
LOCK_FILE = "serve.lock"
PORT_PATIENCE = 5.0
"""How long processes of a server that was killed may hold the port."""
OLD_ENGINE_LIMIT = 3.0
"""How long the engine of a server that was killed may take to notice."""

FIRST_JOB = {"version": 1, "kind": "job", "run": {"cmd": "for i in 1 2 3; do echo hello $i; sleep 1; done"}}
FIRST_IMAGE = "busybox"
"""Where jobs need an image."""


class CannotServe(Exception):
    """The server cannot start; the text says why in one line."""


def web() -> Flask:
    """The web application of this process's environment. Exits in one line where a setting is wrong."""
    from polyjob.app import configure

    app = load_app()
    try:
        configure(app, read_settings(os.environ))
    except SettingError as error:
        sys.exit(f"polyjob: {error}")
    return app


@functools.cache
def load_app() -> Flask:
    """Import and make the application, once in a process. Workers forked from here share its code and memory."""
    from polyjob.app import make_app

    return make_app()


def run(settings: Settings) -> int:
    """Serve until TERM or INT; the exit code. Blocks. Jobs go on behind it. Raises CannotServe."""
    try:
        check(settings)
    except (SettingError, RuntimeError) as error:
        raise CannotServe(error) from error
    with listen(settings) as listener, only_server(settings):
        settings = dataclasses.replace(settings, port=listener.getsockname()[1])
        _wait_for_old_engine(settings)
        lines = _prepare(settings)
        for warning in warnings(settings):
            say(warning, error=True)
        environ = child_environment(settings)
        engine = Child("the engine", ENGINE, environ)
        web = Child("the web server", web_command(listener), environ, listener.fileno())
        threading.Thread(target=_announce, args=(settings, lines), daemon=True).start()
        with _known_address(settings):
            tend(
                [engine, web],
                lambda text: say(text, error=True),
                may_start=lambda child: child is not engine or engine_may_start(settings),
            )
        say_what_runs_on(settings)
    return 0


@contextlib.contextmanager
def only_server(settings: Settings) -> Iterator[None]:
    """Be the one server of the data folder, which is made if need be, while the block runs.

    Raises CannotServe, which names the other's process. A bare gunicorn and a lone engine are no servers in this sense.
    """
    path = settings.data_dir / LOCK_FILE
    try:
        settings.data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise CannotServe(UnusableFolder(settings.data_dir, error)) from error
    try:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            pid = _pid_in(file)
            who = f"process {pid}" if pid else "another process"
            raise CannotServe(f"a server already works on {str(settings.data_dir)!a}: {who}") from error
        with contextlib.suppress(OSError):  # a full disk; only its number is missing then
            os.ftruncate(file, os.pwrite(file, f"{os.getpid()}\n".encode(), 0))
        yield
    finally:
        os.close(file)


def _pid_in(file: int) -> str:
    """The pid of who holds the lock; it is written a moment after the lock is taken."""
    for _ in range(50):
        pid = os.pread(file, 20, 0).decode().strip()
        if pid:
            return pid
        time.sleep(0.01)
    return ""


def _prepare(settings: Settings) -> list[str]:
    """Make the data folder ready; the greeting. Leaves no connection behind."""
    try:
        open_folder(settings)
        return greeting(settings)
    except (UnusableFolder, RuntimeError) as error:
        raise CannotServe(error) from error
    except (OSError, DatabaseError) as error:
        raise CannotServe(UnusableFolder(settings.data_dir, error)) from error
    finally:
        close_database()


@contextlib.contextmanager
def _known_address(settings: Settings) -> Iterator[None]:
    """Have commands on this machine find the server while the block runs. They have to be told where it is if the disk
    is full."""
    file = settings.data_dir / ADDRESS_FILE
    part = file.with_name(f"{file.name}.part")
    try:
        part.write_text(f"{dataclasses.replace(settings, public_url='').url}\n")
        part.rename(file)
    except OSError as error:
        say(f"commands on this machine need POLYJOB_URL: {file.name} cannot be written: {error.strerror}", error=True)
    yield
    with contextlib.suppress(OSError):
        file.unlink(missing_ok=True)


def web_command(listener: socket.socket) -> list[str]:
    """gunicorn on a socket that listens already."""
    configuration = ["-c", "python:polyjob.server.gunicorn", "--bind", f"fd://{listener.fileno()}"]
    return [*PYTHON, "-m", "gunicorn", *configuration, "polyjob.server.serve:web()"]


def _wait_for_old_engine(settings: Settings) -> None:
    deadline = time.monotonic() + OLD_ENGINE_LIMIT
    try:
        while pid := engine_pid(settings.data_dir):
            if time.monotonic() > deadline:
                raise CannotServe(EngineRunning(settings.data_dir, pid))
            time.sleep(0.05)
    except OSError as error:
        raise CannotServe(UnusableFolder(settings.data_dir, error)) from error


def listen(settings: Settings) -> socket.socket:
    """A socket that listens where the settings say. Waits a few seconds for a port that is taken.

    Raises CannotServe.
    """
    where = f"{settings.host or '*'}:{settings.port}"
    try:
        found = socket.getaddrinfo(
            settings.host or None, settings.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
        family, kind, protocol, _, address = found[0]
        listener = socket.socket(family, kind, protocol)
    except OSError as error:
        raise CannotServe(f"cannot listen on {where}: {error.strerror}") from error
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        _bind(listener, address)
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        hints = {
            errno.EADDRINUSE: "the port is taken; choose another with --port",
            errno.EACCES: "the port is for root only; choose one above 1023 with --port",
            errno.EADDRNOTAVAIL: "this machine has no such address; choose another with --host",
        }
        reason = hints.get(error.errno or 0, error.strerror)
        raise CannotServe(f"cannot listen on {where}: {reason}") from error
    return listener


def _bind(listener: socket.socket, address: Any) -> None:
    deadline = time.monotonic() + PORT_PATIENCE
    while True:
        try:
            return listener.bind(address)
        except OSError as error:
            if error.errno != errno.EADDRINUSE or time.monotonic() > deadline:
                raise
            time.sleep(0.1)


def greeting(settings: Settings) -> list[str]:
    """What the terminal is told once the server answers. The sign-in link in it is new. Needs the open database."""
    token = kept_token(settings.data_dir)
    link = _new_link(settings)
    jobs = f"{settings.url}/api/v1/{USER}/{PROJECT}/jobs"
    shown = f"token {token}" if token else "token $POLYJOB_TOKEN"
    quote = shlex.quote if token else _in_double_quotes
    authorization = quote(f"Authorization: {shown}")
    image = (
        settings.kubernetes.helper_image if settings.runner == "kubernetes" else FIRST_IMAGE
    )  # its nodes have that one
    build = {"build": {"image": image}} if REQUIRED_PARTS.get(settings.runner) else {}
    body = json.dumps({"config": FIRST_JOB | build})
    number = next_job_id()
    where = (
        f"{settings.data_dir / TOKEN_FILE}"
        if token
        else f"not kept in {settings.data_dir / TOKEN_FILE}; put yours into POLYJOB_TOKEN"
    )
    return [
        f"polyjob serves on {settings.url}",
        "",
        f"  page:  {settings.url}/sign-in/{link}  (signs {USER} in, once, within an hour)"
        if link
        else f"  page:  {settings.url}/",
        f"  data:  {settings.data_dir}",
        f"  token: {where}",
        *_whose_jobs(settings),
        "",
        "Submit a job:",
        "",
        f"  curl -s -X POST -H {authorization} -H 'Content-Type: application/json' -d {shlex.quote(body)} {jobs}",
        "",
        f"Follow its log (the next job is number {number}):",
        "",
        f"  curl -s -N -H {authorization} {shlex.quote(f'{jobs}/{number}/logs?follow=true')}",
        "",
        "Ctrl-C ends the server; jobs run on.",
    ]


def _new_link(settings: Settings) -> str | None:
    try:
        return new_sign_in_key()
    except (OSError, DatabaseError):
        free = Store(settings.data_dir).free_bytes() >> 10
        say(f"no sign-in link could be made: the database cannot be written, {free} KiB are free", error=True)
        return None


def _whose_jobs(settings: Settings) -> list[str]:
    if settings.runner != "process":
        return []
    if settings.job_user:
        warnings = [f"  Warning: {gap}" for gap in gaps(settings.job_user)]
        return [f"  jobs:  run as {settings.job_user}", *warnings]
    return [f"  jobs:  run as {_account()}, as the server does: who may submit may do all that {_account()} may"]


def _account() -> str:
    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        return f"account {os.geteuid()}"


def _in_double_quotes(text: str) -> str:
    return f'"{text}"'


def next_job_id() -> int:
    """The id that the next job gets, if nobody comes first."""
    row = database.execute_sql("SELECT seq FROM sqlite_sequence WHERE name = 'job'").fetchone()
    return (row[0] if row else 0) + 1


def _announce(settings: Settings, lines: list[str]) -> None:
    url = urlsplit(dataclasses.replace(settings, public_url="").url)
    assert url.hostname
    while not _is_healthy(url.hostname, settings.port):
        time.sleep(0.05)
    say("\n".join(lines))


def _is_healthy(host: str, port: int) -> bool:
    connection = http.client.HTTPConnection(host, port, timeout=5)
    try:
        connection.request("GET", "/healthz")
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def say_what_runs_on(settings: Settings, tell: Callable[[str], None] | None = None) -> None:
    """Tell how many jobs go on without the server; nothing where there are none, or where the folder is gone."""
    try:
        open_database(settings.data_dir)
        number = Job.select().where(CLAIMED, Job.exit.is_null()).count()
    except (OSError, DatabaseError):
        return
    finally:
        close_database()
    if number:
        text = "1 job runs on; the next start takes it up again." if number == 1 else ""
        (tell or say)(text or f"{number} jobs run on; the next start takes them up again.")


def say(text: str, error: bool = False) -> None:
    """To the terminal, at once. A terminal that is gone is no error."""
    stream = sys.stderr if error else sys.stdout
    with contextlib.suppress(OSError, ValueError):
        encoding = stream.encoding or "utf-8"
        text = text.encode(encoding, "backslashreplace").decode(encoding)  # a path may be no text at all
        print(f"polyjob: {text}" if error else text, file=stream, flush=True)
