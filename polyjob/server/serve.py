"""`polyjob serve`: a small parent process that keeps the web server and the engine running."""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import http.client
import os
import socket
import threading
import time
from collections.abc import Iterator
from urllib.parse import urlsplit

from peewee import DatabaseError

from polyjob.atomic_files import atomic_file
from polyjob.db.database import close_database
from polyjob.engine_link import EngineRunning, engine_pid
from polyjob.server.bootstrap import UnusableDataDir, check_settings, prepare_data_dir, startup_warnings
from polyjob.server.bootstrap_names import ADDRESS_FILE
from polyjob.server.greeting import greeting, running_jobs_message
from polyjob.server.listening import CannotListen, listen
from polyjob.server.supervisor import ENGINE, PYTHON, Child, child_environment, engine_may_start, tend
from polyjob.server.terminal import say, warn
from polyjob.settings import SettingError, Settings

LOCK_FILE = "serve.lock"
OLD_ENGINE_SECONDS = 3.0
"""Time that the engine of a killed server may take to end."""


class CannotServe(Exception):
    """The server cannot start. The text says why in one line."""


def run(settings: Settings) -> int:
    """Serve until TERM or INT, and return the exit code. Blocks. Jobs continue after that. Raises CannotServe."""
    try:
        check_settings(settings)
        listener = listen(settings)
    except (SettingError, RuntimeError, CannotListen) as error:
        raise CannotServe(error) from error
    with listener, only_server(settings):
        settings = dataclasses.replace(settings, port=listener.getsockname()[1])
        _wait_for_old_engine(settings)
        lines = _prepare(settings)
        for warning in startup_warnings(settings):
            warn(warning)
        environ = child_environment(settings)
        engine = Child("the engine", ENGINE, environ)
        web_server = Child("the web server", web_command(listener), environ, listener.fileno())
        threading.Thread(target=_greet_when_healthy, args=(settings, lines), daemon=True).start()
        with published_address(settings):
            tend(
                [engine, web_server],
                warn,
                may_start=lambda child: child is not engine or engine_may_start(settings),
            )
        if message := running_jobs_message(settings):
            say(message)
    return 0


@contextlib.contextmanager
def only_server(settings: Settings) -> Iterator[None]:
    """Hold the lock of the one server of the data folder while the block runs. Creates the folder.

    Raises CannotServe with the process id of the other server. A bare gunicorn and an engine do not take this lock.
    """
    path = settings.data_dir / LOCK_FILE
    try:
        settings.data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise CannotServe(UnusableDataDir(settings.data_dir, error)) from error
    try:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            pid = _pid_in(file)
            process = f"process {pid}" if pid else "another process"
            raise CannotServe(f"a server already works on {str(settings.data_dir)!a}: {process}") from error
        with contextlib.suppress(OSError):  # on a full disk, only the process id is missing
            os.ftruncate(file, os.pwrite(file, f"{os.getpid()}\n".encode(), 0))
        yield
    finally:
        os.close(file)


def _pid_in(file: int) -> str:
    """Return the process id of the lock's owner, who writes it a moment after taking the lock."""
    for _ in range(50):
        pid = os.pread(file, 20, 0).decode().strip()
        if pid:
            return pid
        time.sleep(0.01)
    return ""


def _prepare(settings: Settings) -> list[str]:
    """Prepare the data folder and return the greeting. Leaves no database connection open. Raises CannotServe."""
    try:
        prepare_data_dir(settings)
        return greeting(settings)
    except (UnusableDataDir, RuntimeError) as error:
        raise CannotServe(error) from error
    except (OSError, DatabaseError) as error:
        raise CannotServe(UnusableDataDir(settings.data_dir, error)) from error
    finally:
        close_database()


@contextlib.contextmanager
def published_address(settings: Settings) -> Iterator[None]:
    """Keep the server's address in a file while the block runs, for commands on this machine.

    On a full disk, print a warning that commands need POLYJOB_URL.
    """
    path = settings.data_dir / ADDRESS_FILE
    try:
        with atomic_file(path) as file:
            file.write(f"{_local_url(settings)}\n".encode())
    except OSError as error:
        warn(f"commands on this machine need POLYJOB_URL: {path.name} cannot be written: {error.strerror}")
    yield
    with contextlib.suppress(OSError):
        path.unlink(missing_ok=True)


def _local_url(settings: Settings) -> str:
    """Return the address of the server itself, without a proxy in front of it."""
    return dataclasses.replace(settings, public_url="").url


def web_command(listener: socket.socket) -> list[str]:
    """Return the command of gunicorn on a socket that listens already."""
    configuration = ["-c", "python:polyjob.server.gunicorn", "--bind", f"fd://{listener.fileno()}"]
    return [*PYTHON, "-m", "gunicorn", *configuration, "polyjob.server.web_app:web()"]


def _wait_for_old_engine(settings: Settings) -> None:
    deadline = time.monotonic() + OLD_ENGINE_SECONDS
    try:
        while pid := engine_pid(settings.data_dir):
            if time.monotonic() > deadline:
                raise CannotServe(EngineRunning(settings.data_dir, pid))
            time.sleep(0.05)
    except OSError as error:
        raise CannotServe(UnusableDataDir(settings.data_dir, error)) from error


def _greet_when_healthy(settings: Settings, lines: list[str]) -> None:
    host = urlsplit(_local_url(settings)).hostname
    assert host
    while not _is_healthy(host, settings.port):
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
