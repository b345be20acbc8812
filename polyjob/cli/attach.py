"""Attending a job that is submitted: what it writes, the signals that stop it, and the exit code.

Whatever takes time is done in threads; the main thread only waits for what happens. A signal is one such happening, and
never breaks into anything.
"""

from __future__ import annotations

import os
import queue
import signal
import sys
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, NoReturn

import click

from polyjob.cli import FAILED, LOST_SERVER, STOPPED
from polyjob.cli.client import Client, LostServer, NoServer, ServerError, fail, say
from polyjob.cli.log_follower import Follower, ending, exit_code
from polyjob.cli.streams import OutputFailed, printable

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class EventQueue:
    """What the main thread waits for: INT and TERM as their numbers from now on, and futures that are done. Behind the
    `with` the command only ends, with the exit code that it has: signals are ignored.

    A thread waits for the signals, which are blocked for all others. A handler would have to wake the main thread, and
    a signal that comes just before that thread begins to wait would not wake it.
    """

    def __init__(self) -> None:
        self._queue: queue.SimpleQueue[int | Future[Any]] = queue.SimpleQueue()

    def __enter__(self) -> EventQueue:
        signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
        threading.Thread(target=self._take_signals, daemon=True).start()
        return self

    def __exit__(self, *error: object) -> None:
        """Signals stay blocked: only the end of the process is left."""

    def _take_signals(self) -> None:
        while True:
            self._queue.put(int(signal.sigwait(SIGNALS)))

    def next(self) -> int | Future[Any]:
        """Blocks until there is one."""
        return self._queue.get()

    def begin(self, work: Callable[[], Any]) -> Future[Any]:
        """The work in a thread that does not keep the command from ending."""
        future: Future[Any] = Future()
        future.add_done_callback(self._queue.put)

        def do() -> None:
            try:
                future.set_result(work())
            except BaseException as error:
                future.set_exception(error)

        threading.Thread(target=do, daemon=True).start()
        return future


def submit(client: Client, path: str, body: dict[str, Any], detach: bool, quiet: bool) -> NoReturn:
    """POST the job, then attend to it until it is done, or with `detach` print its number; ends the command.

    A signal that comes while the server has not answered waits for the answer, so that no job is left behind unknown; a
    second one leaves without. Raises ServerError, NoServer.
    """
    with EventQueue() as happenings:
        posting = happenings.begin(lambda: client.post(path, body, once=True))
        heard: int | Future[Any] | None = None
        while (happening := happenings.next()) is not posting:
            if heard:
                raise SystemExit(STOPPED)
            heard = happening
            say("Waiting for the server's answer, to stop the job. Once more leaves without.")
        job = posting.result()
        if detach and not heard:
            click.echo(job["id"])
            if not quiet:
                say(f"{job['unique_name']} is queued: {job['urls']['page']}")
            raise SystemExit(0)
        if not quiet:
            say(click.style(f"{job['unique_name']}  {job['urls']['page']}", dim=True))
            for note in job["notes"]:
                say(click.style(printable(note["text"]), fg="yellow"))
        attendance = Attachment(client, "/" + job["unique_name"].replace(".", "/"), happenings, quiet)
        if heard:
            attendance.stop()
        raise SystemExit(attendance.until_done())


QUESTION = "\nThe job runs. [d]etach and let it run, [s]top it, or [k]eep watching? "


class Attachment:
    """Shows a job until it is done. INT and TERM stop it; a Ctrl-C on a terminal asks first."""

    def __init__(self, client: Client, path: str, happenings: EventQueue, quiet: bool) -> None:
        self._client, self._path, self._happenings, self._quiet = client, path, happenings, quiet
        self._follower = Follower(client, path, quiet=quiet)
        self._following = happenings.begin(self._follower.follow)
        self._asking: Future[Any] | None = None
        self._stopping: Future[Any] | None = None

    def until_done(self) -> int:
        """The command's exit code. Raises what following and stopping raise."""
        while (happening := self._happenings.next()) is not self._following:
            if happening is self._stopping:
                happening.result()
            elif happening is self._asking:
                self._take_answer()
            elif isinstance(happening, int):
                self._hear(happening)
        try:
            job = self._following.result()
        except BrokenPipeError:
            say(f"The reader of this output has left; the job goes on. {self._way_back}")
            raise SystemExit(1) from None
        except OutputFailed as error:
            fail(f"{error} The job goes on. {self._way_back}", FAILED)
        except LostServer as error:
            fail(f"{error}\nThe job goes on where it runs. {self._way_back}", LOST_SERVER)
        if not self._quiet or exit_code(job) == FAILED:
            say(ending(job, last_status(self._client, self._path)))
        return STOPPED if self._stopping and job["last_status"] == "stopped" else exit_code(job)

    def stop(self) -> None:
        """Have the job stopped; it is shown to its end."""
        self._asking = None
        say("Stopping the job …")
        client = self._client.another()
        self._stopping = self._happenings.begin(lambda: client.send("POST", f"{self._path}/stop", json={}, once=True))

    def _hear(self, number: int) -> None:
        by_person = number == signal.SIGINT and sys.stdin.isatty() and sys.stderr.isatty()
        if self._stopping:
            if by_person:
                rest = "It is being stopped." if self._stopping.done() else "The server has not heard of it yet."
                say(f"\nLeaving. {rest} {self._way_back}")
                raise SystemExit(STOPPED)
        elif self._asking:
            self._follower.may_write.set()
            say("")
            self.stop()
        elif by_person:
            self._ask()
        else:
            self.stop()

    def _ask(self) -> None:
        """Ask on the terminal. Only `s` or another Ctrl-C stops the job; an unknown answer is asked for again."""
        self._follower.may_write.clear()
        sys.stderr.write(QUESTION)
        sys.stderr.flush()
        self._asking = self._happenings.begin(lambda: os.read(sys.stdin.fileno(), 1024))

    def _take_answer(self) -> None:
        assert self._asking is not None
        answer = self._asking.result()
        word = answer.strip().lower()
        if word in (b"d", b"detach"):
            say(f"The job goes on. {self._way_back}")
            raise SystemExit(0)
        if word in (b"s", b"stop"):
            self._follower.may_write.set()
            self.stop()
        elif word in (b"k", b"keep") or not answer:  # nobody can type at a terminal that is gone
            self._asking = None
            self._follower.may_write.set()
        else:
            self._ask()

    @property
    def _way_back(self) -> str:
        return f"Come back with: polyjob logs -f {self._path.strip('/').replace('/', '.')}"


def last_status(client: Client, path: str) -> dict[str, Any] | None:
    """The newest of its statuses, with its message; None where it cannot be had."""
    try:
        statuses = list(client.walk(f"{path}/statuses", 100))
    except (ServerError, NoServer):
        return None
    return statuses[-1] if statuses else None
