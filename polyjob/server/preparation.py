"""Prepares the start of `polyjob serve` in a child process, whose memory is free again once the server runs.

So the parent of the web server and the engine, which lives as long as they do, imports neither database nor HTTP.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import signal
import socket
import time
import traceback
from typing import Any, TextIO
from urllib.parse import urlsplit

from polyjob.server.terminal import say
from polyjob.settings import SettingError, Settings


class CannotServe(Exception):
    """The server cannot start. The text says why in one line."""


class Preparation:
    """The child process. It exits once it has printed the greeting, or when its parent ends.

    Create it in a process without threads. Call `check` before anything is changed, and `prepare_data_dir` once the
    data folder is locked.
    """

    def __init__(self, settings: Settings) -> None:
        parent = os.getpid()
        ours, theirs = socket.socketpair()
        if os.fork() == 0:
            ours.close()
            _run(settings, theirs.makefile("rw"), parent)
        theirs.close()
        self._channel = ours.makefile("rw")
        ours.close()

    def check(self) -> None:
        """Wait until the settings are checked. Raises CannotServe."""
        self._receive()

    def prepare_data_dir(self, port: int) -> None:
        """Let the child prepare the data folder, and wait for it. Raises CannotServe.

        After that, the child prints the greeting as soon as a web server answers on `port`.
        """
        with contextlib.suppress(BrokenPipeError):  # the child has died: `_receive` reports it
            _send(self._channel, port)
        self._receive()

    def close(self) -> None:
        """End the child if it still waits for `prepare_data_dir`."""
        self._channel.close()

    def _receive(self) -> None:
        line = self._channel.readline()
        error = json.loads(line) if line else "the start could not be prepared"
        if error is not None:
            raise CannotServe(error)


def _send(channel: TextIO, message: Any) -> None:
    channel.write(f"{json.dumps(message)}\n")
    channel.flush()


# In the child.


def _run(settings: Settings, channel: TextIO, parent: int) -> None:
    """Be the child of `Preparation`. Never returns."""
    exit_code = 1
    try:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C is for the parent to report
        lines = _prepare(settings, channel)
        channel.close()
        if lines is not None:
            _greet_when_healthy(*lines, parent)
        exit_code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(exit_code)


def _prepare(settings: Settings, channel: TextIO) -> tuple[Settings, list[str]] | None:
    """Do what the parent asks for. Return the settings with the port and the greeting; None if there will be none."""
    from polyjob.server.settings_check import check_settings

    try:
        check_settings(settings)
        _send(channel, None)
        request = channel.readline()
        if not request:
            return None
        settings = dataclasses.replace(settings, port=json.loads(request))
        lines = prepare(settings)
    except (CannotServe, SettingError, RuntimeError) as error:
        _send(channel, str(error))
        return None
    _send(channel, None)
    return settings, lines


def prepare(settings: Settings) -> list[str]:
    """Prepare the data folder and return the greeting. Leaves no database connection open. Raises CannotServe."""
    from peewee import DatabaseError

    from polyjob.db.database import close_database
    from polyjob.server import greeting
    from polyjob.server.bootstrap import UnusableDataDir, prepare_data_dir

    try:
        prepare_data_dir(settings)
        return greeting.greeting(settings)
    except (UnusableDataDir, RuntimeError) as error:
        raise CannotServe(error) from error
    except (OSError, DatabaseError) as error:
        raise CannotServe(UnusableDataDir(settings.data_dir, error)) from error
    finally:
        close_database()


def _greet_when_healthy(settings: Settings, lines: list[str], parent: int) -> None:
    host = urlsplit(settings.local_url).hostname
    assert host
    while os.getppid() == parent:
        if _is_healthy(host, settings.port):
            say("\n".join(lines))
            return
        time.sleep(0.02)


def _is_healthy(host: str, port: int) -> bool:
    import http.client

    connection = http.client.HTTPConnection(host, port, timeout=5)
    try:
        connection.request("GET", "/healthz")
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()
