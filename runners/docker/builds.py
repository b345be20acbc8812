"""Builds of the Docker runner: an image from a base image, build steps and requirement files."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import queue
import re
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from typing import Any, BinaryIO

import docker.auth
import requests
from docker.errors import APIError

from runners.base import BuildFailed, BuildSpec, RunnerError, RunnerUnavailable
from runners.common.build_log import BuildLog
from runners.common.dockerfile import OPEN_FOLDER, STEP_LAYERS, WORKING_FOLDER, first_step, render_dockerfile
from runners.common.requirement_files import read_requirement_files
from runners.common.tarstream import build_context
from runners.docker.containers import client_proxies
from runners.docker.images import (
    BASE,
    BUILD,
    KEY,
    REPOSITORY,
    exact_name,
    find_image,
    full_names,
    inspect_image,
    is_reserved,
    make_artifact,
)
from runners.machine_faults import is_machine_fault

POLL_SECONDS = 0.2
"""Seconds between two checks whether the build has to stop."""
ANSWER_TIMEOUT_SECONDS = 60
"""Seconds that the Engine may take to begin its answer."""
BUILD_ATTEMPTS = 3
"""Attempts of a build whose cached layers are removed meanwhile."""
CLOSE_TIMEOUT_SECONDS = 5.0
"""Seconds that a thread gets to close an answer after its connection was shut down."""
QUEUED_LINES = 1000
"""Lines of the answer that wait to be written to the log. When there are more, reading pauses."""
UNREACHABLE_REGISTRY = (
    "no such host", "refused", "timeout", "deadline", "dial tcp", "tls", "eof", "did not answer",
    "unexpected http status: 5",
)  # fmt: skip
"""Texts in the Engine's answer if it cannot reach a registry."""
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


def build_image(
    client: Any, spec: BuildSpec, file: BinaryIO, cancelled: Callable[[], bool], labels: Mapping[str, str]
) -> str:
    """Build as `Runner.build` does. The artifact has the ids of the image and of its base image."""
    if spec.image is None:
        raise BuildFailed("A build of an image needs a base image: set `build.image`.")
    if is_reserved(spec.image):
        raise BuildFailed(f"`{spec.image}` is the image of another build; name its base image instead.")
    log = BuildLog(file, spec.log_limit)
    stop_reason = _stop_reason(cancelled, time.monotonic() + spec.timeout)
    stream = BuildStream(client, log, stop_reason, first_step(spec, labels, has_open_folder=True))
    try:
        base = _base(client, spec.image, spec.nocache, stream)
        if not (spec.build_steps or spec.env or spec.requirement_files):
            return make_artifact(spec.image, base)
        tag = f"{REPOSITORY}:{spec.uuid}"
        image = inspect_image(client, tag)
        if image is not None and (image["Config"]["Labels"] or {}).get(BUILD) == spec.uuid:
            log.say(f"The image {tag} exists already.")
            return make_artifact(spec.image, base, tag, image["Id"])
        if spec.build_steps:
            _warn_of_volumes(base, log)
        resolved = dataclasses.replace(spec, image=exact_name(spec.image, base))
        final_labels = {KEY: spec.key, BASE: base["Id"], BUILD: spec.uuid}
        dockerfile = render_dockerfile(resolved, labels, final_labels, has_open_folder=True)
        context = build_context(dockerfile, read_requirement_files(spec), f"{OPEN_FOLDER}{WORKING_FOLDER}")
        _build(stream, tag, spec.nocache, client_proxies(client, spec.env), context)
        image = inspect_image(client, tag)
        if image is None:
            raise RunnerUnavailable(f"The image {tag} was removed right after it was built.")
        return make_artifact(spec.image, base, tag, image["Id"])
    finally:
        log.end()


def _build(stream: BuildStream, tag: str, nocache: bool, variables: Mapping[str, str], build_context: bytes) -> None:
    for remaining in reversed(range(BUILD_ATTEMPTS)):
        try:
            options = {"t": tag, "nocache": nocache, "rm": True, "forcerm": True, "buildargs": json.dumps(variables)}
            stream.run("/build", options, build_context)
            return
        except BaseImageRemoved:
            if not remaining:
                raise
            nocache = True
            stream.restart("A cached layer was removed meanwhile. The build starts again without the cache.")
        except EngineRefused as error:
            if is_machine_fault(str(error)):
                raise RunnerUnavailable(f"The Docker Engine could not build: {error}") from None
            raise
        except APIError as error:
            if error.is_server_error():
                raise
            raise BuildFailed(f"The Docker Engine refused the build: {error.explanation or error}") from None


def _warn_of_volumes(base: Mapping[str, Any], log: BuildLog) -> None:
    """Note in the log that each build step gets fresh volumes, which the Engine removes with the step's container."""
    config = base["Config"]
    triggers = (line.split(None, 1) for line in config.get("OnBuild") or ())
    volumes = [*(config.get("Volumes") or ()), *(words[-1] for words in triggers if words[0].upper() == "VOLUME")]
    if volumes:
        log.say(f"The base image declares volumes. Files that build steps write there are lost: {', '.join(volumes)}")


def _stop_reason(cancelled: Callable[[], bool], deadline: float) -> Callable[[], str | None]:
    def reason() -> str | None:
        if cancelled():
            return "The build was cancelled."
        return "The build exceeded its time limit." if time.monotonic() > deadline else None

    return reason


def _base(client: Any, image: str, is_fresh: bool, stream: BuildStream) -> dict[str, Any]:
    """Return the Engine's description of the base image, which is pulled if it is missing.

    With `is_fresh`, an existing image is pulled too, and used as it is if that fails.
    """
    try:
        base = find_image(client, image)
    except APIError as error:
        if error.is_server_error():
            raise
        raise _pull_error(image, str(error.explanation or error)) from None
    if base is not None and not is_fresh:
        return base
    try:
        _pull(client, image, stream)
    except BuildFailed as error:
        if base is None or stream.stop_reason() is not None:
            raise
        stream.log.say(f"The existing image is used, because a newer one could not be pulled. {error}")
        stream.restart()
        return base
    base = find_image(client, image)
    if base is None:
        raise BuildFailed(f"The image `{image}` does not exist or cannot be pulled.")
    return base


def _pull(client: Any, image: str, stream: BuildStream) -> None:
    """Pull an image. Raises BuildFailed, RunnerUnavailable."""
    stream.log.say(f"Pulling {image}")
    repository, at, digest = full_names(image)[0].partition("@")
    name, _, tag = (repository, at, digest) if at else repository.rpartition(":")
    try:
        stream.run("/images/create", {"fromImage": name, "tag": tag}, b"", _credentials(client, image))
    except APIError as error:
        raise _pull_error(image, str(error.explanation or error)) from None
    except EngineRefused as error:
        raise _pull_error(image, str(error)) from None
    except _NoAnswer:
        raise _pull_error(image, f"it did not answer for {ANSWER_TIMEOUT_SECONDS} seconds") from None


def _credentials(client: Any, image: str) -> dict[str, str]:
    """Return the header with the credentials that `docker login` has stored for the image's registry."""
    registry, _ = docker.auth.resolve_repository_name(image.partition("@")[0])
    header = docker.auth.get_config_header(client, registry)
    return {"X-Registry-Auth": header.decode() if isinstance(header, bytes) else header} if header else {}


def _pull_error(image: str, text: str) -> RunnerError:
    if "invalid reference format" in text or "invalid checksum digest" in text:
        return BuildFailed(f"`{image}` is not a valid image name.")
    reason = text
    for name in (full_names(image)[0], image):
        reason = reason.replace(name, "").replace(name.partition("@")[0].rpartition(":")[0] or name, "")
    reason = reason.lower()
    if any(word in reason for word in UNREACHABLE_REGISTRY):
        return BuildFailed(f"The registry of `{image}` cannot be reached: {text}")
    if is_machine_fault(reason):
        return RunnerUnavailable(f"The Docker Engine could not pull `{image}`: {text}")
    return BuildFailed(f"The image `{image}` does not exist or cannot be pulled: {text}")


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
        self._number = self._total = 0
        """The number of the current instruction, and of all instructions."""
        self._triggers = 0
        """The number of `ONBUILD` instructions of the base image, which some Engines add after the first instruction.
        """
        self._failed_step: re.Match[str] | None = None
        """The failed build step that an instruction with several steps has reported."""

    def restart(self, reason: str = "") -> None:
        """Forget the instructions of the last call, and write the reason to the log."""
        self._number = self._total = self._triggers = 0
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

    def _begin(self, number: int, total: int) -> None:
        """Record that the Engine begins an instruction, unless a build step has only written such a line."""
        if number != self._number + 1 or (self._number > 1 and total != self._total):
            return
        if self._number == 1:
            self._triggers = total - self._total
        self._number, self._total = number, total
        self._failed_step = None

    def _error(self, line: Mapping[str, Any]) -> BuildFailed:
        text = str(line["error"]).strip()
        match = _EXIT_CODE.search(text)
        code = match[1] or match[2] if match else (line.get("errorDetail") or {}).get("code")
        step = self._number - self._triggers - self._first_step + 1
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


class _NoAnswer(RunnerUnavailable):
    """The Engine has not begun to answer in time."""


class _ResponseLines:
    """The lines of an answer. A thread reads them, because a blocking read could not be interrupted."""

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
        """None where there is none yet. Raises StopIteration at the end, APIError where the Engine refuses,
        RunnerUnavailable where it breaks off."""
        try:
            line = self._lines.get(timeout=seconds)
        except queue.Empty:
            return None
        if line is None:
            raise StopIteration
        if isinstance(line, APIError):
            raise line
        if isinstance(line, requests.Timeout):
            raise _NoAnswer(f"The Docker Engine did not begin to answer within {ANSWER_TIMEOUT_SECONDS} seconds.")
        if isinstance(line, Exception):
            raise RunnerUnavailable(f"The Docker Engine broke off: {line}.")
        return line

    def close(self) -> None:
        """Close the connection, so that the Engine stops working on the call. Idempotent.

        Only the reading thread closes the answer. If two threads released the connection, it would be given to the next
        request in its present state.
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
