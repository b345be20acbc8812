"""Attending a job that was submitted: what it writes, the signals that stop it, and the exit code."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Iterator
from typing import Any

from polyjob.cli.client import FAILED, STOPPED, Client, NoServer, ServerError, say
from polyjob.cli.following import Follower, ending, exit_code


class Interrupted(Exception):
    """INT or TERM has come."""


class Signals:
    """INT and TERM, from now on: kept until they are `heard`, and then an Interrupted."""

    def __init__(self) -> None:
        self._is_heard = self._is_held = self._may_leave = False
        self._waiting: int | None = None
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._arrive)

    def _arrive(self, number: int, frame: Any) -> None:
        if self._is_heard and not self._is_held:
            raise Interrupted(number)
        if self._may_leave and self._waiting is not None:
            raise KeyboardInterrupt
        self._waiting = number
        if self._may_leave:
            say("Waiting for the server's answer, to stop the job. Once more leaves without.")

    def _raise_what_waits(self) -> None:
        if self._waiting is not None:
            number, self._waiting = self._waiting, None
            raise Interrupted(number)

    @contextlib.contextmanager
    def heard(self) -> Iterator[None]:
        """One that comes within, or came before, is raised."""
        self._is_heard = True
        try:
            self._raise_what_waits()
            yield
        finally:
            self._is_heard = False

    @contextlib.contextmanager
    def held_back(self) -> Iterator[None]:
        """One that comes within is raised behind."""
        self._is_held = True
        try:
            yield
        finally:
            self._is_held = False
        self._raise_what_waits()

    @contextlib.contextmanager
    def kept_once(self) -> Iterator[None]:
        """The first that comes within waits, so that no job is left behind unknown; the next ends the command."""
        self._may_leave = True
        try:
            yield
        finally:
            self._may_leave = False


def submit(client: Client, path: str, body: dict[str, Any]) -> tuple[dict[str, Any], Signals]:
    """The new job, and the INT and TERM that came since it may be there."""
    signals = Signals()
    with signals.kept_once():
        return client.post(path, body, once=True), signals


def attend(client: Client, path: str, signals: Signals, quiet: bool) -> int:
    """Show the job until it is done; the exit code of the command. INT and TERM stop the job; a Ctrl-C on a terminal
    asks first."""
    is_stopping = is_told = False
    follower = Follower(client, path, quiet=quiet, shield=signals.held_back)
    while True:
        try:
            with signals.heard():
                if is_stopping and not is_told:
                    client.send("POST", f"{path}/stop", json={}, once=True)
                    is_told = True
                job = follower.follow()
            break
        except Interrupted as interruption:
            if is_stopping:
                continue
            if _asks(interruption) and _wants_to_leave(signals):
                say(f"The job goes on. Come back with: {_way_back(path)}")
                raise SystemExit(0) from None
            is_stopping = True
            for number in (signal.SIGINT, signal.SIGTERM):
                signal.signal(number, signal.SIG_IGN)  # it is being stopped: there is nothing more to ask for
            say("Stopping the job …")
        except BrokenPipeError:
            say(f"Nobody reads on; the job does not end with that. Come back with: {_way_back(path)}")
            _drop_output()
            raise SystemExit(1) from None
    if not quiet or exit_code(job) == FAILED:
        say(ending(job, last_status(client, path)))
    return STOPPED if is_stopping and job["last_status"] == "stopped" else exit_code(job)


def _way_back(path: str) -> str:
    return f"polyjob logs -f {path.strip('/').replace('/', '.')}"


def _drop_output() -> None:
    """What is buffered for a reader that has left would fail once more at the interpreter's end."""
    with open(os.devnull, "wb") as nowhere:
        os.dup2(nowhere.fileno(), sys.stdout.fileno())


def _asks(interruption: Interrupted) -> bool:
    return interruption.args[0] == signal.SIGINT and sys.stdin.isatty() and sys.stderr.isatty()


def _wants_to_leave(signals: Signals) -> bool:
    """Asked on the terminal; everything but `d` stops the job, another Ctrl-C too."""
    try:
        with signals.heard():
            sys.stderr.write("\nStop the job, or detach and let it run? [S/d] ")
            sys.stderr.flush()
            return sys.stdin.readline().strip().lower().startswith("d")
    except Interrupted:
        say("")
        return False


def last_status(client: Client, path: str) -> dict[str, Any] | None:
    """The newest of its statuses, with its message; None where it cannot be had."""
    try:
        statuses = list(client.walk(f"{path}/statuses", 100))
    except (ServerError, NoServer):
        return None
    return statuses[-1] if statuses else None
