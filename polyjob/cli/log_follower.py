"""Following one job from the command line: its build's log, its own log, and the exit code that it comes to."""

from __future__ import annotations

import sys
import threading
import time
from io import BytesIO, RawIOBase
from typing import Any

import click
import requests
import urllib3

from polyjob.cli import FAILED
from polyjob.cli.client import PASSING, Client, ServerError, say
from polyjob.cli.streams import printable, unbuffered, write_all
from polyjob.formatting import format_duration

WAIT = 30
CHUNK = 1 << 16
FIRST_LOOK, LAST_LOOK = 0.03, 0.5
"""Seconds between two looks at a job that does not run yet; growing."""
SAY_WAITING_AFTER = 0.5
"""Seconds that a job waits before its reason is shown."""
AGAIN = 1.0
"""Seconds until a broken connection is tried again."""
BROKEN = 60.0
"""Seconds for which a broken connection is tried again."""


class Follower:
    """Shows what a job writes, byte for byte."""

    def __init__(self, client: Client, path: str, out: RawIOBase | BytesIO | None = None, quiet: bool = False) -> None:
        self.client, self.path = client, path
        client.patience = BROKEN
        client.on_outage = self._tell_always
        self.job: dict[str, Any] = {}
        self.may_write = threading.Event()
        """Cleared by whoever wants the terminal for itself for a while."""
        self.may_write.set()
        self._out = out or unbuffered(sys.stdout)
        self._quiet = quiet
        self._build: str | None = None
        self._build_offset = 0

    def follow(self) -> dict[str, Any]:
        """The job, once it is done. Raises ServerError, NoServer."""
        self._until_it_runs()
        self._copy(f"{self.path}/logs", 0, self._out)
        return self.until_done()

    def until_done(self) -> dict[str, Any]:
        """The same, without its log."""
        while True:
            self.job = self.client.get(self.path, wait=WAIT)
            if self.job["finished_at"]:
                return self.job

    def _until_it_runs(self) -> None:
        delay, tag, shown, begun = FIRST_LOOK, "", None, time.monotonic()
        while True:
            answer = self.client.send("GET", self.path, headers={"If-None-Match": tag} if tag else {})
            if answer.status_code == 200:
                self.job, tag = answer.json(), answer.headers.get("ETag", "")
                status = self.job["last_status"]
                if self.job["finished_at"] or status == "running":
                    return
                if status == "building" and self.job["build_job"]:
                    self._show_build(self.job["build_job"])
            waiting = self.job.get("waiting")
            if waiting and waiting != shown and time.monotonic() - begun >= SAY_WAITING_AFTER:
                shown = waiting
                self._tell(waiting)
            time.sleep(delay)
            delay = min(LAST_LOOK, delay * 1.5)

    def _show_build(self, name: str) -> None:
        """Its log, on the terminal's side, while it is made; nothing of one that is done already."""
        path = "/" + name.replace(".", "/")
        if self._build != name:
            self._build = name
            build = self.client.get(path)
            if build["last_status"] == "succeeded":
                return
            reason = (build.get("reason") or {}).get("text")
            self._tell(f"Build {name}{f', because {reason}' if reason else ''}.")
        if self._quiet:
            return
        self._build_offset = self._copy(f"{path}/logs", self._build_offset, unbuffered(sys.stderr))

    def _copy(self, path: str, offset: int, out: RawIOBase | BytesIO) -> int:
        """Copy a log from `offset` on until its run is done; the length it had then. A connection that breaks off, or
        brings nothing for long, is gone on with where it was: for as long as the server answers, and for `BROKEN`
        after that."""
        broken_since = None
        while True:
            try:
                with self.client.send("GET", path, params={"follow": "true", "offset": offset}, stream=True) as answer:
                    broken_since = None
                    while data := answer.raw.read1(CHUNK):
                        self.may_write.wait()
                        write_all(data, out)
                        offset += len(data)
                    return offset
            except (requests.RequestException, OSError, ServerError, urllib3.exceptions.HTTPError) as error:
                if isinstance(error, BrokenPipeError) or not _passes(error):
                    raise
                broken_since = broken_since or time.monotonic()
                if time.monotonic() - broken_since > BROKEN:
                    raise
                time.sleep(AGAIN)

    def _tell_always(self, text: str) -> None:
        self.may_write.wait()
        say(click.style(text, fg="yellow"))

    def _tell(self, text: str) -> None:
        if not self._quiet:
            self.may_write.wait()
            say(click.style(printable(text), dim=True))


def _passes(error: Exception) -> bool:
    """Return whether another try may work: not where the server refused for good."""
    return not isinstance(error, ServerError) or error.status in PASSING


def exit_code(job: dict[str, Any]) -> int:
    """Return the exit code of `run` and `wait`: 0 for success alone, the job's own, 128 + n for signal n, or 125 if it
    has none, or 0 without success."""
    end = job.get("exit") or {}
    if job["last_status"] == "succeeded":
        return 0
    if end.get("reason") in ("build", "lost", "image", "start"):
        return FAILED
    if end.get("signal"):
        return 128 + int(end["signal"])
    code = job.get("exit_code")
    return int(code) if code else FAILED


def ending(job: dict[str, Any], last: dict[str, Any] | None = None) -> str:
    """How the job has ended, in a line."""
    status = job["last_status"]
    colour = {"succeeded": "green", "failed": "red", "upstream_failed": "red"}.get(status, "yellow")
    words = [click.style(f"{job['unique_name']} {status}", fg=colour)]
    if last and last.get("message") and status != "succeeded":
        words.append(f": {printable(last['message'])}")
    seconds = lasted(job)
    return "".join(words) + (f" after {seconds}" if seconds else "")


def lasted(job: dict[str, Any]) -> str:
    """How long the job has taken from its start to its end or now; empty where it has not started."""
    from datetime import UTC, datetime

    if not job.get("started_at"):
        return ""
    end = datetime.fromisoformat(job["finished_at"]) if job.get("finished_at") else datetime.now(UTC)
    return format_duration(end - datetime.fromisoformat(job["started_at"]))
