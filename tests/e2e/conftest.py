"""A real server in its own data folder, and an HTTP client for it."""

from __future__ import annotations

import contextlib
import dataclasses
import http.client
import json
import os
import re
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.fast_python import python_without_pip
from tests.runners.docker_engine import remove_engine_objects

ROOT = Path(__file__).resolve().parent.parent.parent
MODULE = (sys.executable, "-m", "polyjob")
JOBS = "/api/v1/root/quick-start/jobs"


@dataclasses.dataclass
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


def eventually(check: Callable[[], Any], seconds: float = 20.0, what: str = "it") -> Any:
    """Call `check` until its result is true, and return that. Fails after `seconds`."""
    deadline = time.monotonic() + seconds
    pause = 0.01
    while time.monotonic() < deadline:
        if answer := check():
            return answer
        time.sleep(pause)
        pause = min(1.5 * pause, 0.2)
    raise AssertionError(f"{what} did not happen within {seconds} s")


def installation_of(data: Path) -> str:
    with contextlib.closing(sqlite3.connect(data / "polyjob.db")) as connection:
        return str(connection.execute("SELECT value FROM meta WHERE key = 'installation'").fetchone()[0])


class Server:
    """`polyjob serve` as a user starts it, but virtualenvs have no pip. Leaving the context ends it and its jobs."""

    def __init__(self, folder: Path, command: Sequence[str] = MODULE, cwd: Path = ROOT, **settings: str) -> None:
        self.data_dir = folder / "data"
        self.command = command
        self.cwd = cwd
        clean = {name: value for name, value in os.environ.items() if not name.startswith("POLYJOB_")}
        own = {"POLYJOB_TEST_REQUIRE": os.environ.get("POLYJOB_TEST_REQUIRE", "")}
        own["POLYJOB_PYTHON"] = python_without_pip(folder)
        self.environment = clean | own | {f"POLYJOB_{name.upper()}": value for name, value in settings.items()}
        self.process: subprocess.Popen[str] | None = None
        self.port = 0
        self.lines: list[str] = []

    def start(self, *arguments: str) -> None:
        command = [*self.command, "serve", "--port", str(self.port), "--data-dir", str(self.data_dir)]
        before = len(self.lines)
        self.process = subprocess.Popen(
            [*command, *arguments], stdout=subprocess.PIPE, text=True, env=self.environment, cwd=self.cwd
        )
        threading.Thread(target=self._read, args=(self.process,), daemon=True).start()
        eventually(lambda: any("curl" in line for line in self.lines[before:]), 60, "the start")
        workers = int(self.environment.get("POLYJOB_WORKERS", "2"))
        eventually(lambda: len(self.worker_pids()) >= workers, 20, "the start of all workers")
        text = "".join(self.lines)
        with contextlib.suppress(FileNotFoundError):  # on a full disk
            text = (self.data_dir / "address").read_text() + text
        address = re.search(r"http://127\.0\.0\.1:(\d+)", text)
        assert address, text
        self.port = int(address.group(1))
        self.token = (self.data_dir / "root-token").read_text().strip()

    def _read(self, process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None
        with process.stdout:
            for line in process.stdout:
                self.lines.append(line)

    def interrupt(self) -> int:
        """Press Ctrl-C and return the exit code."""
        assert self.process is not None
        self.process.send_signal(signal.SIGINT)
        return self.process.wait(30)

    def kill(self) -> None:
        """Kill the parent, the web server and the engine by SIGKILL, but not the keepers."""
        assert self.process is not None
        parts: list[int] = []
        self.process.send_signal(signal.SIGSTOP)  # each of them would restart killed processes
        while fresh := [pid for pid in (*self.engine_pids(), *self.web_pids()) if pid not in parts]:
            for pid in fresh:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGSTOP)
            parts += fresh
        self.process.kill()
        self.process.wait(10)
        for pid in parts:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.process = None
        self.lines.clear()
        eventually(lambda: not any(Path(f"/proc/{pid}").exists() for pid in parts), 10, "their death")

    def engine_pids(self) -> list[int]:
        return [pid for pid in self._descendants() if "engine" in _command_line(pid)]

    def web_pids(self) -> list[int]:
        """Return the pids of gunicorn, the arbiter first."""
        return [pid for pid in self._descendants() if "gunicorn" in _command_line(pid)]

    def worker_pids(self) -> list[int]:
        return self.web_pids()[1:]

    def _descendants(self) -> list[int]:
        assert self.process is not None
        descendants, waiting = [], [self.process.pid]
        while waiting:
            pid = waiting.pop(0)
            with contextlib.suppress(OSError):
                children = [
                    int(child)
                    for task in Path(f"/proc/{pid}/task").iterdir()
                    for child in (task / "children").read_text().split()
                ]
                descendants += sorted(children)
                waiting += sorted(children)
        return descendants

    def call(self, method: str, path: str, body: Any = None, token: str | None = None, **headers: str) -> Answer:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=90)
        sent = {"Authorization": f"token {token or self.token}", "Accept": "application/problem+json, */*"} | headers
        data = body
        if body is not None and not isinstance(body, bytes):
            data = json.dumps(body)
            sent.setdefault("Content-Type", "application/json")
        try:
            connection.request(method, path, data, sent)
            response = connection.getresponse()
            return Answer(response.status, dict(response.getheaders()), response.read())
        finally:
            connection.close()

    def submit(self, cmd: str | list[str], **config: Any) -> dict[str, Any]:
        answer = self.call("POST", JOBS, {"config": {"version": 1, "kind": "job", "run": {"cmd": cmd}} | config})
        assert answer.status == 201, answer
        return answer.json

    def job(self, number: int) -> dict[str, Any]:
        answer = self.call("GET", f"{JOBS}/{number}")
        assert answer.status == 200, answer
        return answer.json

    def until(self, number: int, *statuses: str, seconds: float = 30) -> dict[str, Any]:
        """Wait until the job has one of these statuses, and return it."""

        def look() -> Any:
            job = self.job(number)
            return job if job["last_status"] in statuses else None

        return eventually(look, seconds, f"one of {statuses}")

    def until_done(self, number: int, seconds: float = 60) -> dict[str, Any]:
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            job = self.call("GET", f"{JOBS}/{number}?wait=30").json
            if job["finished_at"]:
                return job
        raise AssertionError(f"job {number} is still {job['last_status']}")

    def statuses(self, number: int) -> list[str]:
        return [row["status"] for row in self.call("GET", f"{JOBS}/{number}/statuses").json["results"]]

    def log(self, number: int) -> bytes:
        return self.call("GET", f"{JOBS}/{number}/logs").body

    def __enter__(self) -> Server:
        self.start()
        return self

    def __exit__(self, *exception: object) -> None:
        if self.process is not None and self.process.poll() is None:
            with contextlib.suppress(Exception):
                self._end_jobs()
            self.process.send_signal(signal.SIGINT)
            try:
                self.process.wait(30)
            except subprocess.TimeoutExpired:
                self.kill()
                raise
        if self.environment.get("POLYJOB_RUNNER") == "docker":
            with contextlib.suppress(Exception):  # a private Engine may be stopped already, or still have jobs
                remove_engine_objects(installation_of(self.data_dir), self.environment.get("DOCKER_HOST"))

    def _end_jobs(self) -> None:
        live = [job["id"] for job in self.call("GET", f"{JOBS}?limit=100").json["results"] if not job["finished_at"]]
        for number in live:
            self.call("POST", f"{JOBS}/{number}/stop")
        for number in live:
            self.until_done(number)


def _command_line(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
    except OSError:
        return ""


def processes_of(uuid: str) -> list[int]:
    """Return the pids of the processes of a job."""
    pids = []
    for folder in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if folder.name.isdecimal() and f"POLYJOB_UUID={uuid}".encode() in (folder / "environ").read_bytes():
                state = (folder / "stat").read_text().rpartition(")")[2].split()[0]
                if state != "Z":
                    pids.append(int(folder.name))
    return pids


@pytest.fixture
def make_server(tmp_path: Path) -> Iterator[Callable[..., Server]]:
    """Return a factory of servers with settings of their own. They are not started, and end with the test."""
    with contextlib.ExitStack() as stack:

        def make(**settings: str) -> Server:
            server = Server(tmp_path, **settings)
            stack.callback(server.__exit__)
            return server

        yield make


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server that all tests of a module share."""
    with Server(tmp_path_factory.mktemp("server"), slots="2") as started:
        yield started
