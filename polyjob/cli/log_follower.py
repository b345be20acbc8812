"""Follow one job: the log of its build, its own log, and the exit code that it ends with."""

from __future__ import annotations

import errno
import sys
import threading
import time
from collections.abc import Iterator
from io import BytesIO, RawIOBase
from typing import TYPE_CHECKING, Any

import click

from polyjob.cli import EXIT_FAILED
from polyjob.cli.client import LOST_MACHINE_ERRNOS, TEMPORARY_STATUSES, Client
from polyjob.cli.errors import ServerError
from polyjob.cli.output import duration_of, say
from polyjob.cli.streams import printable, unbuffered, write_all
from polyjob.formatting import LOG_FRAMES, LOG_STAMP_BYTES, status_message

if TYPE_CHECKING:
    import requests

LONG_POLL_SECONDS = 30
CHUNK_BYTES = 1 << 16
FIRST_POLL_SECONDS, LAST_POLL_SECONDS = 0.03, 0.5
"""Pause between two polls of a job that does not run yet. It grows from the first to the last value."""
SHOW_WAITING_AFTER_SECONDS = 0.5
"""Time that the next job of the queue waits before the reason is shown. The reason of others is shown at once."""
RECONNECT_SECONDS = 60.0
"""Time for which a broken connection is retried."""
SILENCE_SECONDS = 1.8
"""Time without a frame after which a server that sends frames counts as lost. It sends one every 0.8 seconds."""
RECONNECT_PAUSE_SECONDS = 0.4
"""With the time to connect, less than the two seconds within which a lost server is reported."""


class Follower:
    """Shows the output of a job, byte for byte."""

    def __init__(
        self,
        client: Client,
        path: str,
        out: RawIOBase | BytesIO | None = None,
        quiet: bool = False,
        has_times: bool = False,
    ) -> None:
        """With `has_times`, the server begins each line with its time."""
        self.client, self.path = client, path
        client.patience = RECONNECT_SECONDS
        client.on_outage = self._warn
        self.job: dict[str, Any] = {}
        self.may_write = threading.Event()
        """Cleared while a question uses the terminal."""
        self.may_write.set()
        self._out = out or unbuffered(sys.stdout)
        self._quiet = quiet
        self._has_times = has_times
        self._build: str | None = None
        self._build_offset = 0

    def follow(self) -> dict[str, Any]:
        """Show the job's output, and return the job once it has finished. Raises ServerError, NoServer."""
        self._wait_for_start()
        self._copy_log(f"{self.path}/logs", 0, self._out)
        return self.wait_for_end()

    def wait_for_end(self) -> dict[str, Any]:
        """Return the job once it has finished, without its output. Raises ServerError, NoServer."""
        while True:
            self.job = self.client.get(self.path, wait=LONG_POLL_SECONDS)
            if self.job["finished_at"]:
                return self.job

    def _wait_for_start(self) -> None:
        pause, tag, shown_reason, began_at = FIRST_POLL_SECONDS, "", None, time.monotonic()
        while True:
            response = self.client.send("GET", self.path, headers={"If-None-Match": tag} if tag else {})
            if response.status_code == 200:
                self.job, tag = response.json(), response.headers.get("ETag", "")
                status = self.job["last_status"]
                if self.job["finished_at"] or status == "running":
                    return
                if status == "building" and self.job["build_job"]:
                    self._show_build(self.job["build_job"])
            shows_build = self._build is not None and self.job["last_status"] == "building"
            reason = None if shows_build else self.job.get("waiting")
            is_due = (self.job.get("queue_position") or 0) > 1 or (
                time.monotonic() - began_at >= SHOW_WAITING_AFTER_SECONDS
            )
            if reason and reason != shown_reason and is_due:
                shown_reason = reason
                self._show(reason)
            time.sleep(pause)
            pause = min(LAST_POLL_SECONDS, pause * 1.5)

    def _show_build(self, name: str) -> None:
        """Show the log of a running build on the standard error; nothing for a build that has succeeded already."""
        path = "/" + name.replace(".", "/")
        if self._build != name:
            self._build = name
            build = self.client.get(path)
            if build["last_status"] == "succeeded":
                return
            reason = (build.get("reason") or {}).get("text")
            self._show(f"Build {name}{f', because {reason}' if reason else ''}.")
        if self._quiet:
            return
        self._build_offset = self._copy_log(f"{path}/logs", self._build_offset, unbuffered(sys.stderr))

    def _copy_log(self, path: str, offset: int, out: RawIOBase | BytesIO) -> int:
        """Copy a log from `offset` on until its run has finished. Return the length of the log.

        A broken or silent connection is opened again at the same offset: as long as the server answers, and for
        `RECONNECT_SECONDS` if it does not.
        """
        broken_since = None
        counter = _LogBytes()
        while True:
            try:
                params = {"follow": "true", "offset": offset} | ({"times": "true"} if self._has_times else {})
                accept = {"Accept": f"{LOG_FRAMES}, application/problem+json, */*"}
                with self.client.send("GET", path, params=params, stream=True, headers=accept) as response:
                    broken_since = None
                    counter.restart()
                    for data in _content(response):
                        self.may_write.wait()
                        write_all(data, out)
                        offset += counter.count(data) if self._has_times else len(data)
                    return offset
            except Exception as error:
                if not _is_temporary(error):
                    raise
                broken_since = broken_since or time.monotonic()
                if time.monotonic() - broken_since > RECONNECT_SECONDS:
                    raise
                if _is_machine_lost(error):
                    self.client.report_outage()
                else:
                    time.sleep(RECONNECT_PAUSE_SECONDS)

    def _warn(self, text: str) -> None:
        self.may_write.wait()
        say(click.style(text, fg="yellow"))

    def _show(self, text: str) -> None:
        if not self._quiet:
            self.may_write.wait()
            say(click.style(printable(text), dim=True))


def _content(response: requests.Response) -> Iterator[bytes]:
    """Yield the bytes of a log as they arrive.

    Raises TimeoutError with ETIMEDOUT if a server that sends frames has sent none for `SILENCE_SECONDS`.
    """
    import urllib3

    if response.headers.get("Content-Type") != LOG_FRAMES:
        while data := response.raw.read1(CHUNK_BYTES):
            yield data
        return
    frames, has_begun = _Frames(), False
    try:
        while data := response.raw.read1(CHUNK_BYTES):
            if not has_begun:  # not earlier: a proxy may hold back everything until the end
                has_begun = True
                if connection := response.raw.connection:
                    connection.sock.settimeout(SILENCE_SECONDS)
            if content := frames.content(data):
                yield content
    except urllib3.exceptions.ReadTimeoutError as error:
        if has_begun:
            raise TimeoutError(errno.ETIMEDOUT, "no sign of life from the server") from error
        raise


class _Frames:
    """Takes the content out of frames; see `LOG_FRAMES`."""

    def __init__(self) -> None:
        self._length = b""
        """The bytes of a length that have arrived."""
        self._remaining = 0
        """Bytes of the frame that have not arrived."""

    def content(self, data: bytes) -> bytes:
        """Return the content of the next bytes of a response."""
        parts, position = [], 0
        while position < len(data):
            if self._remaining:
                part = data[position : position + self._remaining]
                self._remaining -= len(part)
                parts.append(part)
            else:
                part = data[position : position + 4 - len(self._length)]
                self._length += part
                if len(self._length) == 4:
                    self._remaining, self._length = int.from_bytes(self._length), b""
            position += len(part)
        return b"".join(parts)


class _LogBytes:
    """Counts the bytes of a log in responses in which each line begins with its time."""

    def __init__(self) -> None:
        self._stamp = LOG_STAMP_BYTES
        """Bytes of a time that come next."""

    def restart(self) -> None:
        """Begin another response, at the first byte that was not counted. It repeats a time that was cut off."""
        self._stamp = LOG_STAMP_BYTES if self._stamp else 0

    def count(self, data: bytes) -> int:
        """Return how many of the next bytes of a response are bytes of the log."""
        total = position = 0
        while position < len(data):
            if self._stamp:
                skipped = min(self._stamp, len(data) - position)
                self._stamp -= skipped
                position += skipped
                continue
            end = data.find(b"\n", position) + 1
            total += (end or len(data)) - position
            position = end or len(data)
            self._stamp = LOG_STAMP_BYTES if end else 0
        return total


def _is_temporary(error: Exception) -> bool:
    """Return whether the connection broke or the server is busy, so that another try may succeed."""
    import urllib3

    if isinstance(error, ServerError):
        return error.status in TEMPORARY_STATUSES
    is_of_connection = isinstance(error, OSError | urllib3.exceptions.HTTPError)  # also a RequestException
    return is_of_connection and not isinstance(error, BrokenPipeError)


def _is_machine_lost(error: BaseException | None) -> bool:
    """Return whether the connection broke because the other end stopped to answer.

    The end of a connection on which only nothing was read for a long time has no error number.
    """
    while error is not None:
        if isinstance(error, OSError) and error.errno in LOST_MACHINE_ERRNOS:
            return True
        error = error.__cause__ or error.__context__
    return False


def path_of_retry(job: dict[str, Any]) -> str | None:
    """Return the path of the retry that followed a job that has finished, or None."""
    next_job = (job.get("retries") or {}).get("next_job")
    return f"/{job['project'].replace('.', '/')}/jobs/{next_job}" if next_job else None


def exit_code_of(job: dict[str, Any]) -> int:
    """Return the exit code of `run` and `wait` for a job that has finished.

    This is 0 only for success. Otherwise it is the job's own exit code, 128 + n for signal n, or 125 if the job has no
    exit code or exited with 0 without success.
    """
    end = job.get("exit") or {}
    if job["last_status"] == "succeeded":
        return 0
    if end.get("reason") in ("build", "lost", "image", "start"):
        return EXIT_FAILED
    if end.get("signal"):
        return 128 + int(end["signal"])
    return int(job.get("exit_code") or EXIT_FAILED)


def describe_end(job: dict[str, Any], last: dict[str, Any] | None = None) -> str:
    """Describe in one line how a job has ended. `last` is its last status, for the message."""
    status = job["last_status"]
    colour = {"succeeded": "green", "failed": "red", "upstream_failed": "red"}.get(status, "yellow")
    text = click.style(f"{job['unique_name']} {status}", fg=colour)
    if duration := duration_of(job):
        text += f" after {duration}"
    if last and last.get("message") and status != "succeeded":
        text += f": {printable(status_message(last['message']))}"
    return text
