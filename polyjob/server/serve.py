"""`polyjob serve`: a small parent process that keeps the web server and the engine running."""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

from polyjob.atomic_files import atomic_file
from polyjob.engine_link import EngineRunning, engine_pid
from polyjob.server.bootstrap_names import ADDRESS_FILE
from polyjob.server.listening import CannotListen, listen
from polyjob.server.preparation import CannotServe, Preparation
from polyjob.server.supervisor import (
    ENGINE,
    PREPARED_PIPE,
    PYTHON,
    Child,
    child_environment,
    end_children,
    engine_may_start,
    tend,
)
from polyjob.server.terminal import say, warn
from polyjob.settings import Settings

LOCK_FILE = "serve.lock"
OLD_ENGINE_SECONDS = 3.0
"""Time that the engine of a killed server may take to end."""


def run(settings: Settings) -> int:
    """Serve until TERM or INT, and return the exit code. Blocks. Jobs continue after that. Raises CannotServe."""
    with contextlib.closing(Preparation(settings)) as preparation:
        preparation.check()
        try:
            listener = listen(settings)
        except CannotListen as error:
            raise CannotServe(error) from error
        with listener, only_server(settings):
            settings = dataclasses.replace(settings, port=listener.getsockname()[1])
            _wait_for_old_engine(settings)
            environ = child_environment(settings)
            engine = Child("the engine", ENGINE, environ)
            with started_web_server(listener, environ) as web_server:
                preparation.prepare_data_dir(settings.port)
            with published_address(settings):
                tend(
                    [engine, web_server],
                    warn,
                    may_start=lambda child: child is not engine or engine_may_start(settings),
                )
    _say_how_many_jobs_run(settings)
    return 0


@contextlib.contextmanager
def started_web_server(listener: socket.socket, environ: dict[str, str]) -> Iterator[Child]:
    """Start the web server, which loads the application during the block, and serves only after it.

    If the block raises an exception, the web server is ended.
    """
    reading, writing = os.pipe2(os.O_CLOEXEC)
    environ = {**environ, PREPARED_PIPE: str(reading)}
    web_server = Child("the web server", web_command(listener), environ, listener.fileno(), reading)
    try:
        with contextlib.suppress(OSError):  # out of memory or processes: `tend` tries again
            web_server.start()
        yield web_server
    except BaseException:
        end_children([web_server])
        raise
    finally:
        os.close(writing)


def _say_how_many_jobs_run(settings: Settings) -> None:
    from polyjob.server.greeting import running_jobs_message  # it imports the database, at the very end

    if message := running_jobs_message(settings):
        say(message)


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
        raise _unusable(settings, error) from error
    try:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            pid = _pid_in(file)
            process = f"process {pid}" if pid else "another process"
            raise CannotServe(
                f"a server already works on {str(settings.data_dir)!a}: {process}{_address_in(settings.data_dir)}. "
                "Stop it first, or choose another folder with --data-dir"
            ) from error
        with contextlib.suppress(OSError):  # on a full disk, only the process id is missing
            os.ftruncate(file, os.pwrite(file, f"{os.getpid()}\n".encode(), 0))
        yield
    finally:
        os.close(file)


def _unusable(settings: Settings, error: OSError) -> CannotServe:
    from polyjob.server.bootstrap import UnusableDataDir

    return CannotServe(UnusableDataDir(settings.data_dir, error))


def _address_in(data_dir: Path) -> str:
    """Return the address of the server that works on a data folder, as a part of a message; empty during its start."""
    try:
        address = (data_dir / ADDRESS_FILE).read_text().strip()
    except (OSError, ValueError):
        return ""
    return f" at {address}" if address else ""


def _pid_in(file: int) -> str:
    """Return the process id of the lock's owner, who writes it a moment after taking the lock."""
    for _ in range(50):
        pid = os.pread(file, 20, 0).decode().strip()
        if pid:
            return pid
        time.sleep(0.01)
    return ""


@contextlib.contextmanager
def published_address(settings: Settings) -> Iterator[None]:
    """Keep the server's address in a file while the block runs, for commands on this machine.

    On a full disk, print a warning that commands need POLYJOB_URL.
    """
    path = settings.data_dir / ADDRESS_FILE
    try:
        with atomic_file(path) as file:
            file.write(f"{settings.local_url}\n".encode())
    except OSError as error:
        warn(f"commands on this machine need POLYJOB_URL: {path.name} cannot be written: {error.strerror}")
    yield
    with contextlib.suppress(OSError):
        path.unlink(missing_ok=True)


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
        raise _unusable(settings, error) from error
