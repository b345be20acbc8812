"""Stay attached to a job: its output, the signals that stop or leave it, and its exit code; and `polyjob attach`.

Everything that takes time runs in threads. The main thread only waits for events, and a signal is one of them, so no
signal interrupts anything halfway.
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

from polyjob.cli import EXIT_CODES_HELP, EXIT_FAILED, EXIT_INTERRUPTED, EXIT_LOST_SERVER
from polyjob.cli.client import Client
from polyjob.cli.connect import connect
from polyjob.cli.errors import LostServer, NoServer, ServerError, exit_on_error
from polyjob.cli.log_follower import Follower, describe_end, exit_code_of, path_of_retry
from polyjob.cli.names import run_path
from polyjob.cli.options import job_argument, project_option, quiet_option
from polyjob.cli.output import fail, say
from polyjob.cli.streams import OutputFailed, printable

SIGNALS = (signal.SIGINT, signal.SIGTERM)

Event = int | Future[Any]
"""The number of a signal, or a future that is done."""


class EventQueue:
    """The events that the main thread waits for: INT and TERM inside the `with` block, and futures that are done.

    After the block, signals are ignored and the command ends with the exit code that it has.

    The signals are blocked in all threads but one, which waits for them. A signal handler would have to wake the main
    thread, and a signal that arrives just before that thread starts to wait would not wake it.
    """

    def __init__(self) -> None:
        self._queue: queue.SimpleQueue[Event] = queue.SimpleQueue()

    def __enter__(self) -> EventQueue:
        signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
        threading.Thread(target=self._take_signals, daemon=True).start()
        return self

    def __exit__(self, *error: object) -> None:
        """Do nothing, so that the signals stay blocked until the process ends."""

    def _take_signals(self) -> None:
        while True:
            self._queue.put(int(signal.sigwait(SIGNALS)))

    def next(self) -> Event:
        """Return the next event. Blocks."""
        return self._queue.get()

    def start(self, work: Callable[[], Any]) -> Future[Any]:
        """Start work in a thread that does not keep the command from ending."""
        future: Future[Any] = Future()
        future.add_done_callback(self._queue.put)

        def run() -> None:
            try:
                future.set_result(work())
            except BaseException as error:
                future.set_exception(error)

        threading.Thread(target=run, daemon=True).start()
        return future


def submit(client: Client, path: str, body: dict[str, Any], detach: bool, quiet: bool) -> NoReturn:
    """POST the job and stay attached until it has finished, or with `detach` print its number. Ends the command.

    A signal before the server has answered waits for the response, because the job may exist already. A second signal
    ends the command at once. Raises ServerError, NoServer.
    """
    with EventQueue() as events:
        submission = events.start(lambda: client.post(path, body, is_idempotent=True))
        first_signal: Event | None = None
        while (event := events.next()) is not submission:
            if first_signal:
                raise SystemExit(EXIT_INTERRUPTED)
            first_signal = event
            say("Waiting for the server's answer, to stop the job. Interrupt again to leave without stopping it.")
        job = submission.result()
        if detach and not first_signal:
            click.echo(job["id"])
            if not quiet:
                say(f"{job['unique_name']} is queued: {job['urls']['page']}")
            raise SystemExit(0)
        if not quiet:
            say(click.style(f"{job['unique_name']}  {job['urls']['page']}", dim=True))
            for note in job["notes"]:
                say(click.style(printable(note["text"]), fg="yellow"))
        attachment = Attachment(client, "/" + job["unique_name"].replace(".", "/"), events, quiet)
        if first_signal:
            attachment.stop()
        raise SystemExit(attachment.run())


QUESTION = "\nThe job is running. [d]etach and let it run, [s]top it, or [k]eep watching? Type a letter and Enter: "


class Attachment:
    """Shows a job, and then its retries, until the last one has finished.

    Ctrl-C on a terminal asks what to do. Other INT and TERM signals stop the job, or with `leaves_on_signal`, end only
    the command.
    """

    def __init__(
        self, client: Client, path: str, events: EventQueue, quiet: bool, leaves_on_signal: bool = False
    ) -> None:
        self._client, self._path, self._events, self._quiet = client, path, events, quiet
        self._leaves_on_signal = leaves_on_signal
        self._question: Future[Any] | None = None
        self._stopping: Future[Any] | None = None
        self._follow()

    def _follow(self) -> None:
        self._follower = Follower(self._client, self._path, quiet=self._quiet)
        if self._question:
            self._follower.may_write.clear()
        self._following = self._events.start(self._follower.follow)

    def run(self) -> int:
        """Return the exit code of the command. Raises the errors of following and of stopping."""
        job = self._show_until_end()
        while path := path_of_retry(job):
            if not self._quiet:
                self._say_end(job)
            self._path = path
            self._follow()
            if self._stopping:
                self.stop()
            job = self._show_until_end()
        exit_code = exit_code_of(job)
        if not self._quiet or exit_code == EXIT_FAILED:
            self._say_end(job)
        return EXIT_INTERRUPTED if self._stopping and job["last_status"] == "stopped" else exit_code

    def _say_end(self, job: dict[str, Any]) -> None:
        say(describe_end(job, last_status(self._client, self._path)))

    def _show_until_end(self) -> dict[str, Any]:
        """Return the job when it has finished. Ends the command if the job cannot be shown any more."""
        while (event := self._events.next()) is not self._following:
            if event is self._stopping:
                event.result()
            elif event is self._question:
                self._take_answer()
            elif isinstance(event, int):
                self._on_signal(event)
        try:
            job: dict[str, Any] = self._following.result()
            return job
        except BrokenPipeError:
            say(f"The output was closed. The job continues. {self._how_to_show}")
            raise SystemExit(1) from None
        except OutputFailed as error:
            fail(f"{error} The job continues. {self._how_to_show}", EXIT_FAILED)
        except LostServer as error:
            fail(f"{error}\nThe job continues. {self._how_to_show}", EXIT_LOST_SERVER)

    def stop(self) -> None:
        """Request a stop. The job is shown until it has ended."""
        self._question = None
        say("Stopping the job …")
        client = self._client.clone()
        self._stopping = self._events.start(
            lambda: client.send("POST", f"{self._path}/stop", json={}, is_idempotent=True)
        )

    def _on_signal(self, number: int) -> None:
        is_ctrl_c = number == signal.SIGINT and sys.stdin.isatty() and sys.stderr.isatty()
        if self._stopping:
            if is_ctrl_c:
                state = "is being stopped" if self._stopping.done() else "may continue: the server has not answered"
                say(f"\nLeaving. The job {state}. {self._how_to_show}")
                raise SystemExit(EXIT_INTERRUPTED)
        elif self._question:
            self._follower.may_write.set()
            say("")
            self.stop()
        elif is_ctrl_c:
            self._ask()
        elif self._leaves_on_signal:
            say(f"The job continues. {self._how_to_show}")
            raise SystemExit(EXIT_INTERRUPTED)
        else:
            self.stop()

    def _ask(self) -> None:
        """Ask on the terminal. Only `s` or another Ctrl-C stops the job. An unknown answer repeats the question."""
        self._follower.may_write.clear()
        sys.stderr.write(QUESTION)
        sys.stderr.flush()
        self._question = self._events.start(lambda: os.read(sys.stdin.fileno(), 1024))

    def _take_answer(self) -> None:
        assert self._question is not None
        answer = self._question.result()
        word = answer.strip().lower()
        if word in (b"d", b"detach"):
            say(f"The job continues. {self._how_to_show}")
            raise SystemExit(0)
        if word in (b"s", b"stop"):
            self._follower.may_write.set()
            self.stop()
        elif word in (b"k", b"keep") or not answer:  # a closed terminal gives no answer
            self._question = None
            self._follower.may_write.set()
        else:
            self._ask()

    @property
    def _how_to_show(self) -> str:
        return f"Attach again: polyjob attach {self._path.strip('/').replace('/', '.')}"


def last_status(client: Client, path: str) -> dict[str, Any] | None:
    """Return the newest status of a job with its message, or None if the server does not answer."""
    try:
        statuses = list(client.items(f"{path}/statuses", 100))
    except (ServerError, NoServer):
        return None
    return statuses[-1] if statuses else None


@click.command(epilog=EXIT_CODES_HELP)
@job_argument
@project_option
@quiet_option
def attach(job: str, project: str | None, quiet: bool) -> NoReturn:
    """Show the output of a job from its beginning until the job has finished, as `run` does.

    Ctrl-C on a terminal asks whether to detach, to stop the job, or to keep watching. INT and TERM without a terminal
    leave the job running.
    """
    with exit_on_error(EXIT_FAILED):
        client = connect()
        path = run_path(client, job, project)
        with EventQueue() as events:
            raise SystemExit(Attachment(client, path, events, quiet, leaves_on_signal=True).run())


commands = {"attach": attach}
