"""The Engine's long calls of a build: pull an image, run a build, and follow its output.

The Engine answers such a call with lines of JSON. They are copied to the log of the build, and errors in them become
the errors of the runner contract.
"""

from __future__ import annotations

import contextlib
import json
import queue
import re
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import requests
from docker.errors import APIError

from runners.base import BuildFailed, RunnerUnavailable
from runners.common.build_log import BuildLog
from runners.common.dockerfile import STEP_LAYERS

POLL_SECONDS = 0.2
"""Seconds between two checks whether the build has to stop."""
ANSWER_TIMEOUT_SECONDS = 60
"""Seconds that the Engine may take to begin its answer."""
CLOSE_TIMEOUT_SECONDS = 5.0
"""Time limit for the reading thread to close an answer after its connection was shut down."""
QUEUED_LINES = 1000
"""Lines of the answer that may wait to be written to the log. Reading pauses while the queue is full."""
REMOVED_LAYER = (
    "failed to get digest sha256:", "no such image: sha256:", "unable to find image \"sha256:", "layer does not exist",
    "unknown parent image",
)  # fmt: skip
"""Texts in the Engine's answer if a cached layer was removed meanwhile, together with another image."""
KILLED_EXIT_CODES = (137, 143)
"""Exit codes that a build step also has when the Engine is stopped. A moment later, the Engine does not answer."""
TOO_MANY_LAYERS = "max depth exceeded"
_EXIT_CODE = re.compile(r"returned a non-zero code: (\d+)|exit status (\d+)\s*$")
_INSTRUCTION = re.compile(r"(?:Step|STEP) (\d+)/(\d+) ?: ")
_FAILED_STEP = re.compile(r"polyjob: step (\d+) ended with exit code (\d+)\s*$", re.MULTILINE)


class EngineRefused(BuildFailed):
    """The Engine refused to go on, and no build step is at fault. The text is the Engine's message."""


class BaseImageRemoved(EngineRefused):
    """A layer that the build needs was removed meanwhile."""


class BuildStream:
    """Runs the Engine's long calls of one build, and copies their output to the log."""

    def __init__(self, client: Any, log: BuildLog, stop_reason: Callable[[], str | None], first_step: int) -> None:
        self.client = client
        self.log = log
        self.stop_reason = stop_reason
        self._first_step = first_step
        self._instruction = self._instruction_count = 0
        """The number of the current instruction, and the count of all instructions."""
        self._trigger_count = 0
        """The count of `ONBUILD` instructions of the base image. Some Engines add them after the first instruction."""
        self._failed_step: re.Match[str] | None = None
        """The last line in which an instruction with several build steps has reported a failed one."""

    def restart(self, reason: str = "") -> None:
        """Forget the instructions of the last call, and write the reason to the log."""
        self._instruction = self._instruction_count = self._trigger_count = 0
        self._failed_step = None
        if reason:
            self.log.say(reason)

    def run(
        self, path: str, parameters: Mapping[str, Any], data: bytes, headers: Mapping[str, str] | None = None
    ) -> None:
        """Make a call that takes long, and copy its output to the log as it comes.

        Closes the connection once `stop_reason` returns a reason; that ends the Engine's work. Raises BuildFailed,
        RunnerUnavailable, and APIError if the call is refused at once.
        """
        lines = _ResponseLines(self.client, path, parameters, data, headers or {})
        try:
            checked_at = time.monotonic()
            while True:
                line = lines.next(POLL_SECONDS)
                if line is None or time.monotonic() - checked_at >= POLL_SECONDS:
                    checked_at = time.monotonic()
                    reason = self.stop_reason()
                    if reason is not None:
                        raise BuildFailed(reason)
                if line is not None:
                    self._process_line(json.loads(line))
        except StopIteration:
            return
        finally:
            lines.close()

    def _process_line(self, line: Mapping[str, Any]) -> None:
        text = line.get("stream") or _progress(line)
        if text:
            self.log.write(text.encode())
            instruction = _INSTRUCTION.match(text)
            if instruction:
                self._begin(int(instruction[1]), int(instruction[2]))
            self._failed_step = _last(_FAILED_STEP.finditer(text)) or self._failed_step
        if "error" in line:
            self.log.say(str(line["error"]).strip())
            raise self._error(line)

    def _begin(self, instruction: int, count: int) -> None:
        """Record that the Engine begins an instruction, unless a build step has only written such a line."""
        has_new_count = count != self._instruction_count
        if instruction != self._instruction + 1 or (self._instruction > 1 and has_new_count):
            return
        if self._instruction == 1:
            self._trigger_count = count - self._instruction_count
        self._instruction, self._instruction_count = instruction, count
        self._failed_step = None

    def _error(self, line: Mapping[str, Any]) -> BuildFailed:
        text = str(line["error"]).strip()
        match = _EXIT_CODE.search(text)
        code = match[1] or match[2] if match else (line.get("errorDetail") or {}).get("code")
        step = self._instruction - self._trigger_count - self._first_step + 1
        if code is not None and step > 0:
            if int(code) in KILLED_EXIT_CODES:
                self.client.ping()
            return self._step_failed(step, int(code))
        if any(word in text.lower() for word in REMOVED_LAYER):
            return BaseImageRemoved(text)
        if TOO_MANY_LAYERS in text:
            return BuildFailed(f"The image has more layers than the Docker Engine can stack: {text}")
        return EngineRefused(text)

    def _step_failed(self, step: int, code: int) -> BuildFailed:
        if step >= STEP_LAYERS and self._failed_step is not None and int(self._failed_step[2]) == code:
            step = max(step, int(self._failed_step[1]))
        return BuildFailed(f"step {step} ended with exit code {code}", step, code)


def _last(matches: Iterator[re.Match[str]]) -> re.Match[str] | None:
    return next(iter(deque(matches, maxlen=1)), None)


def _progress(line: Mapping[str, Any]) -> str:
    """Return the finished parts of a pull as text, without the steps of progress bars."""
    if "progressDetail" in line and line.get("progressDetail"):
        return ""
    return f"{line['id']}: {line['status']}\n" if "id" in line else f"{line['status']}\n" if "status" in line else ""


class NoAnswer(RunnerUnavailable):
    """The Engine has not begun to answer in time."""


class _ResponseLines:
    """The lines of an answer. A thread reads them, because a blocking read cannot be interrupted."""

    def __init__(
        self, client: Any, path: str, parameters: Mapping[str, Any], data: bytes, headers: Mapping[str, str]
    ) -> None:
        self._lines: queue.Queue[bytes | Exception | None] = queue.Queue(QUEUED_LINES)
        self._is_closed = threading.Event()
        self._answer: requests.Response | None = None
        arguments = (client, path, parameters, data, headers)
        self._thread = threading.Thread(target=self._read, args=arguments, name="docker-build", daemon=True)
        self._thread.start()

    def next(self, seconds: float) -> bytes | None:
        """Return the next line, or None if there is none within `seconds`.

        Raises StopIteration at the end, APIError if the Engine refuses the call, RunnerUnavailable if it breaks off.
        """
        try:
            line = self._lines.get(timeout=seconds)
        except queue.Empty:
            return None
        if line is None:
            raise StopIteration
        if isinstance(line, APIError):
            raise line
        if isinstance(line, requests.Timeout):
            raise NoAnswer(f"The Docker Engine did not begin to answer within {ANSWER_TIMEOUT_SECONDS} seconds.")
        if isinstance(line, Exception):
            raise RunnerUnavailable(f"The Docker Engine broke off: {line}.")
        return line

    def close(self) -> None:
        """Close the connection, so that the Engine stops working on the call. Idempotent.

        Only the reading thread closes the answer. If two threads released the connection, the next request could get it
        while it is still in use.
        """
        self._is_closed.set()
        if self._answer is not None:
            _shut_down(self._answer)
            self._thread.join(CLOSE_TIMEOUT_SECONDS)

    def _read(
        self, client: Any, path: str, parameters: Mapping[str, Any], data: bytes, headers: Mapping[str, str]
    ) -> None:
        try:
            self._answer = answer = client.post(
                client._url(path),
                params=dict(parameters),
                headers={"Content-Type": "application/x-tar", **headers},
                data=data,
                stream=True,
                timeout=ANSWER_TIMEOUT_SECONDS,
            )
            if self._is_closed.is_set():
                return
            client._raise_for_status(answer)
            connection = _socket(answer)
            if connection is not None:
                connection.settimeout(None)  # a build step can be silent for any time
            for line in answer.iter_lines():
                if line.strip():
                    self._put(line)
            self._put(None)
        except Exception as error:
            self._put(error)
        finally:
            if self._answer is not None:
                self._answer.close()

    def _put(self, line: bytes | Exception | None) -> None:
        while not self._is_closed.is_set():
            with contextlib.suppress(queue.Full):
                self._lines.put(line, timeout=POLL_SECONDS)
                return


def _socket(answer: requests.Response) -> socket.socket | None:
    connection: socket.socket | None = getattr(getattr(answer.raw, "_connection", None), "sock", None)
    return connection


def _shut_down(answer: requests.Response) -> None:
    connection = _socket(answer)
    if connection is not None:
        with contextlib.suppress(OSError):
            connection.shutdown(socket.SHUT_RDWR)
