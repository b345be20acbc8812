"""Builds of the Docker runner: an image made from the base, the steps and the requirement files, found by its key."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import queue
import re
import socket
import tarfile
import threading
import time
import zlib
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from typing import Any, BinaryIO

import docker.auth
import requests
from docker.errors import APIError

from runners.base import BuildFailed, BuildSpec, RunnerError, RunnerUnavailable
from runners.common.build_log import BuildLog
from runners.common.dockerfile import FOLDER, OPEN_FOLDER, SEPARATE_STEPS, first_step, render_dockerfile
from runners.common.tarstream import context
from runners.docker.containers import proxies_beside
from runners.docker.images import (
    BASE,
    BUILD,
    KEY,
    REPOSITORY,
    artifact_of,
    exact_name,
    find,
    full_names,
    inspected,
    is_reserved,
)
from runners.machine_faults import is_machine_fault

LARGEST_FILE = 16 << 20
"""Bytes of one requirement file."""
LOOK = 0.2
"""Seconds between two looks whether the build is to end."""
SILENCE = 60
"""Seconds that the Engine may take to begin its answer."""
TRIES = 3
"""How often a build is begun whose layers others take away under it."""
LETTING_GO = 5.0
"""Seconds that a thread gets to let go of an answer that was hung up on."""
WAITING = 1000
"""Lines of the Engine that may wait to be written; then it has to wait."""
UNREACHED = (
    "no such host", "refused", "timeout", "deadline", "dial tcp", "tls", "eof", "did not answer",
    "unexpected http status: 5",
)  # fmt: skip
"""What the Engine says of a registry that it does not get at."""
TAKEN_AWAY = (
    "failed to get digest sha256:", "no such image: sha256:", "unable to find image \"sha256:", "layer does not exist",
    "unknown parent image",
)  # fmt: skip
"""What the Engine says where a layer that it takes from its cache is removed with somebody else's image meanwhile."""
KILLED = (137, 143)
"""Exit codes that a step also has if its Engine is stopped; a moment later, that does not answer any more."""
DEPTH = "max depth exceeded"
_CODE = re.compile(r"returned a non-zero code: (\d+)|exit status (\d+)\s*$")
_STEP = re.compile(r"(?:Step|STEP) (\d+)/(\d+) ?: ")
_JOINED = re.compile(r"polyjob: step (\d+) ended with exit code (\d+)\s*$", re.MULTILINE)


def build_image(
    client: Any, spec: BuildSpec, file: BinaryIO, cancelled: Callable[[], bool], labels: Mapping[str, str]
) -> str:
    """Build as `Runner.build` says. The artifact has the id of the image, and of the base that it was made from."""
    if spec.image is None:
        raise BuildFailed("A build of an image needs a base: set `build.image`.")
    if is_reserved(spec.image):
        raise BuildFailed(f"`{spec.image}` belongs to another build of polyjob; name the image that it is made from.")
    log = BuildLog(file, spec.log_limit)
    ending = _ending(cancelled, time.monotonic() + spec.timeout)
    talk = BuildStream(client, log, ending, first_step(spec, labels, has_open_folder=True))
    try:
        base = _base(client, spec.image, spec.nocache, talk)
        if not (spec.build_steps or spec.env or spec.requirement_files):
            return artifact_of(spec.image, base)
        tag = f"{REPOSITORY}:{spec.uuid}"
        image = inspected(client, tag)
        if image is not None and (image["Config"]["Labels"] or {}).get(BUILD) == spec.uuid:
            log.say(f"The image {tag} is there already.")
            return artifact_of(spec.image, base, tag, image["Id"])
        if spec.build_steps:
            _warn_of_volumes(base, log)
        told = dataclasses.replace(spec, image=exact_name(spec.image, base))
        last = {KEY: spec.key, BASE: base["Id"], BUILD: spec.uuid}
        dockerfile = render_dockerfile(told, labels, last, has_open_folder=True)
        sent = context(dockerfile, _files(spec), folder=f"{OPEN_FOLDER}{FOLDER}")
        _build(talk, tag, spec.nocache, proxies_beside(client, spec.env), sent)
        image = inspected(client, tag)
        if image is None:
            raise RunnerUnavailable(f"The image {tag} was removed as soon as it was built.")
        return artifact_of(spec.image, base, tag, image["Id"])
    finally:
        log.end()


def _build(talk: BuildStream, tag: str, nocache: bool, variables: Mapping[str, str], sent: bytes) -> None:
    for left in reversed(range(TRIES)):
        try:
            options = {"t": tag, "nocache": nocache, "rm": True, "forcerm": True, "buildargs": json.dumps(variables)}
            talk.have_done("/build", options, sent)
            return
        except BaseImageRemoved:
            if not left:
                raise
            nocache = True
            talk.begin_again("A layer of the cache was removed meanwhile. The build begins again, without the cache.")
        except EngineRefused as error:
            if is_machine_fault(str(error)):
                raise RunnerUnavailable(f"The Docker Engine could not build: {error}") from None
            raise
        except APIError as error:
            if error.is_server_error():
                raise
            raise BuildFailed(f"The Docker Engine refuses the build: {error.explanation or error}") from None


def _warn_of_volumes(base: Mapping[str, Any], log: BuildLog) -> None:
    """A build step has each volume as the image has it, and the Engine removes it with the step's container."""
    config = base["Config"]
    triggers = (line.split(None, 1) for line in config.get("OnBuild") or ())
    volumes = [*(config.get("Volumes") or ()), *(words[-1] for words in triggers if words[0].upper() == "VOLUME")]
    if volumes:
        log.say(f"The base image declares volumes, and loses what build steps write there: {', '.join(volumes)}")


def _ending(cancelled: Callable[[], bool], deadline: float) -> Callable[[], str | None]:
    def why() -> str | None:
        if cancelled():
            return "The build was cancelled."
        return "The build took longer than it may." if time.monotonic() > deadline else None

    return why


def _base(client: Any, image: str, is_fresh: bool, talk: BuildStream) -> dict[str, Any]:
    """The base image as the Engine knows it. It is pulled if it is not there, and with `is_fresh` also if it is: then
    one that cannot be pulled is used as it is."""
    try:
        found = find(client, image)
    except APIError as error:
        if error.is_server_error():
            raise
        raise _no_image(image, str(error.explanation or error)) from None
    if found is not None and not is_fresh:
        return found
    try:
        _pull(client, image, talk)
    except BuildFailed as error:
        if found is None or talk.ending() is not None:
            raise
        talk.log.say(f"The image on the Docker Engine is used, as a newer one could not be pulled. {error}")
        talk.begin_again()
        return found
    found = find(client, image)
    if found is None:
        raise BuildFailed(f"The image `{image}` does not exist, or may not be pulled.")
    return found


def _pull(client: Any, image: str, talk: BuildStream) -> None:
    """Raises BuildFailed, RunnerUnavailable."""
    talk.log.say(f"Pulling {image}")
    repository, at, digest = full_names(image)[0].partition("@")
    name, _, tag = (repository, at, digest) if at else repository.rpartition(":")
    try:
        talk.have_done("/images/create", {"fromImage": name, "tag": tag}, b"", _credentials(client, image))
    except APIError as error:
        raise _no_image(image, str(error.explanation or error)) from None
    except EngineRefused as error:
        raise _no_image(image, str(error)) from None
    except _Silent:
        raise _no_image(image, f"it did not answer for {SILENCE} seconds") from None


def _credentials(client: Any, image: str) -> dict[str, str]:
    """The header with what `docker login` has kept for the image's registry, in the folder that DOCKER_CONFIG names."""
    registry, _ = docker.auth.resolve_repository_name(image.partition("@")[0])
    header = docker.auth.get_config_header(client, registry)
    return {"X-Registry-Auth": header.decode() if isinstance(header, bytes) else header} if header else {}


def _no_image(image: str, text: str) -> RunnerError:
    if "invalid reference format" in text or "invalid checksum digest" in text:
        return BuildFailed(f"`{image}` is no name of an image.")
    told = text
    for name in (full_names(image)[0], image):
        told = told.replace(name, "").replace(name.partition("@")[0].rpartition(":")[0] or name, "")
    told = told.lower()
    if any(word in told for word in UNREACHED):
        return BuildFailed(f"The registry of `{image}` cannot be reached: {text}")
    if is_machine_fault(told):
        return RunnerUnavailable(f"The Docker Engine could not pull `{image}`: {text}")
    return BuildFailed(f"The image `{image}` does not exist, or may not be pulled: {text}")


def _files(spec: BuildSpec) -> Iterator[tuple[str, bytes, int]]:
    if not spec.requirement_files or spec.upload is None:
        return
    try:
        with tarfile.open(spec.upload, "r:gz") as archive:
            for member in archive:
                name = member.name.removeprefix("./")
                content = archive.extractfile(member) if name in spec.requirement_files and member.isreg() else None
                if content is None:
                    continue
                if member.size > LARGEST_FILE:
                    raise BuildFailed(f"`{name}` is larger than {LARGEST_FILE >> 20} MiB")
                yield name, content.read(), 0o755 if member.mode & 0o111 else 0o644
    except (tarfile.TarError, zlib.error, EOFError, FileNotFoundError) as error:
        raise BuildFailed(f"the uploaded code cannot be read: {error}") from error


class EngineRefused(BuildFailed):
    """The Engine's own words for why it does not go on, and no step to blame."""


class BaseImageRemoved(EngineRefused):
    """What the build stood on was removed under it."""


class BuildStream:
    """What the Engine is asked to do for one build, and says of it."""

    def __init__(self, client: Any, log: BuildLog, ending: Callable[[], str | None], first_step: int) -> None:
        self.client = client
        self.log = log
        self.ending = ending
        self._first_step = first_step
        self._number = self._total = 0
        """The instruction that is under way, and of how many."""
        self._triggers = 0
        """`ONBUILD` instructions of the base, if the Engine counts them: it does so after the first instruction."""
        self._joined: re.Match[str] | None = None
        """What the instruction of several steps has said of the one that failed."""

    def begin_again(self, why: str = "") -> None:
        """The next thing to be done has instructions of its own; the log says why."""
        self._number = self._total = self._triggers = 0
        self._joined = None
        if why:
            self.log.say(why)

    def have_done(
        self, path: str, parameters: Mapping[str, Any], data: bytes, headers: Mapping[str, str] | None = None
    ) -> None:
        """Have the Engine do it, writing what it says to the log as it comes. Hangs up, which ends the work, where
        `ending` says why. Raises BuildFailed, RunnerUnavailable, and APIError where it does not begin."""
        said = _Answer(self.client, path, parameters, data, headers or {})
        try:
            looked_at = time.monotonic()
            while True:
                line = said.next(LOOK)
                if line is None or time.monotonic() - looked_at >= LOOK:
                    looked_at = time.monotonic()
                    why = self.ending()
                    if why is not None:
                        raise BuildFailed(why)
                if line is not None:
                    self._hear(json.loads(line))
        except StopIteration:
            return
        finally:
            said.hang_up()

    def _hear(self, said: Mapping[str, Any]) -> None:
        text = said.get("stream") or _progress(said)
        if text:
            self.log.write(text.encode())
            step = _STEP.match(text)
            if step:
                self._begin(int(step[1]), int(step[2]))
            self._joined = _last(_JOINED.finditer(text)) or self._joined
        if "error" in said:
            self.log.say(str(said["error"]).strip())
            raise self._failed(said)

    def _begin(self, number: int, total: int) -> None:
        """Take down an instruction that the Engine begins, not one that a step only writes about."""
        if number != self._number + 1 or (self._number > 1 and total != self._total):
            return
        if self._number == 1:
            self._triggers = total - self._total
        self._number, self._total = number, total
        self._joined = None

    def _failed(self, said: Mapping[str, Any]) -> BuildFailed:
        text = str(said["error"]).strip()
        match = _CODE.search(text)
        code = match[1] or match[2] if match else (said.get("errorDetail") or {}).get("code")
        step = self._number - self._triggers - self._first_step + 1
        if code is not None and step > 0:
            if int(code) in KILLED:
                self.client.ping()
            return self._step_failed(step, int(code))
        if any(word in text.lower() for word in TAKEN_AWAY):
            return BaseImageRemoved(text)
        if DEPTH in text:
            return BuildFailed(f"The image has more layers than the Docker Engine can stack: {text}")
        return EngineRefused(text)

    def _step_failed(self, step: int, code: int) -> BuildFailed:
        if step >= SEPARATE_STEPS and self._joined is not None and int(self._joined[2]) == code:
            step = max(step, int(self._joined[1]))
        return BuildFailed(f"step {step} ended with exit code {code}", step, code)


def _last(matches: Iterator[re.Match[str]]) -> re.Match[str] | None:
    return next(iter(deque(matches, maxlen=1)), None)


def _progress(said: Mapping[str, Any]) -> str:
    """Of a pull: what is done, not each step of every bar."""
    if "progressDetail" in said and said.get("progressDetail"):
        return ""
    return f"{said['id']}: {said['status']}\n" if "id" in said else f"{said['status']}\n" if "status" in said else ""


class _Silent(RunnerUnavailable):
    """The Engine has not begun to answer."""


class _Answer:
    """The lines of an answer, read by a thread, since nothing else could be hung up on."""

    def __init__(
        self, client: Any, path: str, parameters: Mapping[str, Any], data: bytes, headers: Mapping[str, str]
    ) -> None:
        self._lines: queue.Queue[bytes | Exception | None] = queue.Queue(WAITING)
        self._is_over = threading.Event()
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
            raise _Silent(f"The Docker Engine did not begin to answer within {SILENCE} seconds.")
        if isinstance(line, Exception):
            raise RunnerUnavailable(f"The Docker Engine broke off: {line}.")
        return line

    def hang_up(self) -> None:
        """The Engine gives up what it does for a client that is gone. Idempotent. The thread alone closes the answer:
        a connection that two threads let go of would be given to the next request as it is."""
        self._is_over.set()
        if self._answer is not None:
            _shut(self._answer)
            self._thread.join(LETTING_GO)

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
                timeout=SILENCE,
            )
            if self._is_over.is_set():
                return
            client._raise_for_status(answer)
            connection = _socket(answer)
            if connection is not None:
                connection.settimeout(None)  # a step may say nothing for as long as it likes
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
        while not self._is_over.is_set():
            with contextlib.suppress(queue.Full):
                self._lines.put(line, timeout=LOOK)
                return


def _socket(answer: requests.Response) -> socket.socket | None:
    held: socket.socket | None = getattr(getattr(answer.raw, "_connection", None), "sock", None)
    return held


def _shut(answer: requests.Response) -> None:
    connection = _socket(answer)
    if connection is not None:
        with contextlib.suppress(OSError):
            connection.shutdown(socket.SHUT_RDWR)
