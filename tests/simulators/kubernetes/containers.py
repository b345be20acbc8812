"""One container: start, signals, exit, log rotation, and commands in it."""

from __future__ import annotations

import ast
import contextlib
import marshal
import os
import subprocess
import sys
import threading
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.simulators.kubernetes.store import stamp

PROGRAM = f"import sys; sys.path.append({str(Path(__file__).parent)!r}); import inside; inside.main()"
INSIDE = [sys.executable, "-I", "-S", "-c", PROGRAM]
"""Imports the module, because a program that is run by its path is compiled each time."""

LOST = "The container could not be located when the pod was terminated"


class Container:
    """One run of one container. Its processes end with this process, whatever ends it."""

    def __init__(self, folder: Path, spec: dict[str, Any], changed: Callable[[], None]) -> None:
        """`folder` is the container's own. The files of each run are numbered, so that earlier logs stay."""
        self.id = "containerd://" + uuid.uuid4().hex * 2
        self.spec = spec
        self.folder = folder
        self.changed = changed
        self.state: dict[str, Any] = {"waiting": {"reason": "ContainerCreating"}}
        self.pid: int | None = None
        self.oom = False
        self.is_lost = False
        """The exit code is lost."""
        self.ended = threading.Event()
        self.started = threading.Event()
        """Set once the command runs, or could not be started."""
        self._started_at = stamp()
        self._process: subprocess.Popen[bytes] | None = None
        self._input = threading.Lock()

    @property
    def log(self) -> Path:
        return Path(self.spec["log"])

    def start(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / "run.spec"
        path.write_bytes(marshal.dumps(self.spec))
        self._process = subprocess.Popen(
            [*INSIDE, "run", path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd="/", start_new_session=True
        )
        threading.Thread(target=self._listen, args=(self._process,), daemon=True).start()

    def _listen(self, process: subprocess.Popen[bytes]) -> None:
        assert process.stdout
        for line in process.stdout:
            event, _, literal = line.decode().partition(" ")
            value = ast.literal_eval(literal)
            if event == "started":
                self.pid = value
                self._started_at = stamp()
                self.state = {"running": {"startedAt": self._started_at}}
                self.started.set()
                self.changed()
            elif event == "failed":
                self._end(128, "StartError", _start_error(value), started="1970-01-01T00:00:00Z")
            else:
                self._end(value, "Completed" if value == 0 else "Error", None)
        process.wait()
        process.stdout.close()
        with self._input, contextlib.suppress(BrokenPipeError):
            assert process.stdin
            process.stdin.close()
        if not self.ended.is_set():
            self._end(137, "ContainerStatusUnknown", LOST)

    def _end(self, code: int, reason: str, message: str | None, started: str | None = None) -> None:
        if self.oom:
            code, reason = 137, "OOMKilled"
        message = message or self._last_words(code)
        if self.is_lost:
            self.state = unknown_end()
            self.ended.set()
            self.started.set()
            return
        terminated = {
            "exitCode": code,
            "reason": reason,
            "startedAt": started or self._started_at,
            "finishedAt": stamp(),
            "containerID": self.id,
        }
        if message:
            terminated["message"] = message
        self.state = {"terminated": terminated}
        self.ended.set()
        self.started.set()
        self.changed()

    def _last_words(self, code: int) -> str:
        """Return the termination message of the container."""
        with contextlib.suppress(OSError):
            text = Path(self.spec["termination_log"]).read_bytes()[:4096]
            if not text and code and self.spec["termination_policy"] == "FallbackToLogsOnError":
                lines = Path(self.spec["log"]).read_bytes()[-8192:].splitlines()[-80:]
                text = b"\n".join(line.split(b" ", 3)[-1] for line in lines)[-2048:]
            return text.decode(errors="replace")
        return ""

    def _say(self, word: bytes) -> None:
        process = self._process
        with self._input:
            if process is None or process.stdin is None or process.stdin.closed:
                return
            try:
                process.stdin.write(word + b"\n")
                process.stdin.flush()
            except BrokenPipeError:
                pass

    def terminate(self) -> None:
        self._say(b"term")

    def kill(self) -> None:
        self._say(b"kill")

    def rotate(self) -> None:
        self._say(b"rotate")

    def run_out_of_memory(self) -> None:
        self.oom = True
        self.kill()

    def vanish(self) -> None:
        """End all processes at once, like a power failure. Blocks until they have ended."""
        self.is_lost = True
        self.kill()
        if self._process:
            try:
                self._process.wait(10)
            except subprocess.TimeoutExpired:
                self._process.kill()
            self.ended.wait(10)

    @property
    def is_running(self) -> bool:
        return "running" in self.state

    def run(self, command: list[str], seconds: float) -> int | None:
        """Run a command in the container without streams. Return its exit code; None after the time limit."""
        with Path(os.devnull).open("r+b") as nothing:
            process, complaint = self.join(command, (nothing.fileno(),) * 3)
            try:
                code = process.wait(seconds)
            except subprocess.TimeoutExpired:
                process.kill()
                return None
        return 127 if complaint.exists() and complaint.read_bytes() else code

    def join(self, command: list[str], streams: tuple[int, int, int]) -> tuple[subprocess.Popen[bytes], Path]:
        """Run another command in the container. Return its process, and the file for the error if it cannot start."""
        name = uuid.uuid4().hex
        complaint = self.folder / f"{name}.complaint"
        spec = {**self.spec, "pid": self.pid, "command": command, "complaint": str(complaint)}
        path = self.folder / f"{name}.spec"
        path.write_bytes(marshal.dumps(spec))
        process = subprocess.Popen(
            [*INSIDE, "join", path],
            stdin=streams[0],
            stdout=streams[1],
            stderr=streams[2],
            cwd="/",
            start_new_session=True,
        )
        return process, complaint


def unknown_end() -> dict[str, Any]:
    """Return the state of a container whose end is not known."""
    terminated = {"exitCode": 137, "reason": "ContainerStatusUnknown", "message": LOST}
    return {"terminated": {**terminated, "startedAt": None, "finishedAt": None}}


def _start_error(reason: str) -> str:
    return (
        "failed to create containerd task: failed to create shim task: OCI runtime create failed: runc create failed: "
        f"unable to start container process: error during container init: {reason}: unknown"
    )
