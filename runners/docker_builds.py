"""Builds of the Docker runner: an image made from the base, the steps and the requirement files, found by its key."""

from __future__ import annotations

import contextlib
import json
import queue
import re
import socket
import tarfile
import threading
import time
import zlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any, BinaryIO

import docker.auth
import requests
from docker.errors import APIError, ImageNotFound

from runners.archives import context
from runners.base import BuildFailed, BuildSpec, RunnerUnavailable
from runners.build_log import BuildLog
from runners.dockerfile import first_step, render_dockerfile

LARGEST_FILE = 16 << 20
"""Bytes of one requirement file."""
KEY, BASE = "polyjob.key", "polyjob.base"
"""Labels of an image: what it was made for, and the id of what it was made from."""
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
GONE = "its image is not there any more"
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
_CODE = re.compile(r"returned a non-zero code: (\d+)")
_STEP = re.compile(r"Step (\d+)/(\d+) : ")


def build_image(
    client: Any, spec: BuildSpec, file: BinaryIO, cancelled: Callable[[], bool], labels: Mapping[str, str]
) -> str:
    """See `Runner.build`. The artifact names the image, and the id of the base that it was made from."""
    if spec.image is None:
        raise BuildFailed("A build of an image needs a base: set `build.image`.")
    log = BuildLog(file, spec.log_limit)
    talk = _Talk(client, log, _ending(cancelled, time.monotonic() + spec.timeout), first_step(spec))
    try:
        base = _base(client, spec.image, talk)
        if not (spec.steps or spec.env or spec.files):
            return artifact_of(spec.image, spec.image, base)
        tag = f"polyjob:{spec.key[:24]}-{base.rpartition(':')[2][:12]}-{spec.installation[:12]}"
        if not spec.nocache and image_id(client, tag):
            log.say(f"The image {tag} is there already.")
        else:
            dockerfile = render_dockerfile(spec, {**labels, KEY: spec.key, BASE: base})
            _build(talk, tag, spec.nocache, context(dockerfile, _files(spec)))
        return artifact_of(tag, spec.image, base)
    finally:
        log.end()


def _build(talk: _Talk, tag: str, nocache: bool, sent: bytes) -> None:
    for left in reversed(range(TRIES)):
        try:
            talk.have_done("/build", {"t": tag, "nocache": nocache, "rm": True, "forcerm": True}, sent)
            return
        except _TakenAway:
            if not left:
                raise
            nocache = True
            talk.begin_again("A layer of the cache was removed meanwhile. The build begins again, without the cache.")
        except APIError as error:
            if error.is_server_error():
                raise
            raise BuildFailed(f"The Docker Engine refuses the build: {error.explanation or error}") from None


def artifact_of(image: str, name: str, base: str) -> str:
    """`image` to run, made from what was called `name` and had the id `base`."""
    return json.dumps({"v": 1, "image": image, "name": name, "base": base})


def outdated(client: Any, artifact: str, image: Mapping[str, Any] | None) -> str | None:
    """Why a build with this artifact has to be made anew, its image being as the Engine tells it (None = not there);
    None where it serves. A base that is not there any more says nothing against what was made from it."""
    told = json.loads(artifact)
    if image is None:
        return GONE
    base = image_id(client, told["name"]) if told["image"] != told["name"] else str(image["Id"])
    return f"the image {told['name']} is another one now" if base not in (None, told["base"]) else None


def held_images(client: Any, labels: Mapping[str, str]) -> dict[str, int]:
    """Tag (or id, where it has none) → bytes, of the images with these labels; without those of the base."""
    sizes = {item["Id"]: int(item["Size"]) for item in client.images()}
    found = {}
    for item in client.images(filters={"label": [f"{name}={value}" for name, value in labels.items()]}):
        tags = [tag for tag in item["RepoTags"] or [] if tag.startswith("polyjob:")]
        own = max(0, int(item["Size"]) - sizes.get(item["Labels"].get(BASE), 0))
        found[tags[0] if tags else item["Id"]] = own
    return found


def image_id(client: Any, name: str) -> str | None:
    """None where there is no image of that name. Raises APIError."""
    try:
        return str(client.inspect_image(name)["Id"])
    except ImageNotFound:
        return None


def _ending(cancelled: Callable[[], bool], deadline: float) -> Callable[[], str | None]:
    def why() -> str | None:
        if cancelled():
            return "The build was cancelled."
        return "The build took longer than it may." if time.monotonic() > deadline else None

    return why


def _base(client: Any, image: str, talk: _Talk) -> str:
    """The id of the base image, pulled where it is not there: what is there decides, and nothing is pulled again."""
    try:
        found = image_id(client, image)
    except APIError as error:
        if error.is_server_error():
            raise
        raise _no_image(image, str(error.explanation or error)) from None
    if found is None:
        talk.log.say(f"Pulling {image}")
        name, _, tag = image.partition("@") if "@" in image else _split(image)
        try:
            talk.have_done("/images/create", {"fromImage": name, "tag": tag}, b"", _credentials(client, image))
        except APIError as error:
            raise _no_image(image, str(error.explanation or error)) from None
        except _Told as error:
            raise _no_image(image, str(error)) from None
        except _Silent:
            raise _no_image(image, f"it did not answer for {SILENCE} seconds") from None
        found = image_id(client, image)
    if found is None:
        raise BuildFailed(f"The image `{image}` does not exist, or may not be pulled.")
    return found


def _credentials(client: Any, image: str) -> dict[str, str]:
    """The header with what `docker login` has kept for the image's registry, in the folder that DOCKER_CONFIG names."""
    registry, _ = docker.auth.resolve_repository_name(image.partition("@")[0])
    header = docker.auth.get_config_header(client, registry)
    return {"X-Registry-Auth": header.decode() if isinstance(header, bytes) else header} if header else {}


def _split(image: str) -> tuple[str, str, str]:
    head, colon, tag = image.rpartition(":")
    return (head, colon, tag) if colon and "/" not in tag else (image, ":", "latest")


def _no_image(image: str, text: str) -> BuildFailed:
    if "invalid reference format" in text or "invalid checksum digest" in text:
        return BuildFailed(f"`{image}` is no name of an image.")
    told = text.replace(image, "").replace(_split(image.partition("@")[0])[0], "").lower()
    if any(word in told for word in UNREACHED):
        return BuildFailed(f"The registry of `{image}` cannot be reached: {text}")
    return BuildFailed(f"The image `{image}` does not exist, or may not be pulled: {text}")


def _files(spec: BuildSpec) -> Iterator[tuple[str, bytes, int]]:
    if not spec.files or spec.code is None:
        return
    try:
        with tarfile.open(spec.code, "r:gz") as archive:
            for member in archive:
                name = member.name.removeprefix("./")
                content = archive.extractfile(member) if name in spec.files and member.isreg() else None
                if content is None:
                    continue
                if member.size > LARGEST_FILE:
                    raise BuildFailed(f"`{name}` is larger than {LARGEST_FILE >> 20} MiB")
                yield name, content.read(), 0o755 if member.mode & 0o111 else 0o644
    except (tarfile.TarError, zlib.error, EOFError, FileNotFoundError) as error:
        raise BuildFailed(f"the uploaded code cannot be read: {error}") from error


class _Told(BuildFailed):
    """The Engine's own words for why it does not go on, and no step to blame."""


class _TakenAway(_Told):
    """What the build stood on was removed under it."""


class _Talk:
    """What the Engine is asked to do for one build, and says of it."""

    def __init__(self, client: Any, log: BuildLog, ending: Callable[[], str | None], first_step: int) -> None:
        self.log = log
        self._client = client
        self._ending = ending
        self._first_step = first_step
        self._number = self._total = 0
        """The instruction that is under way, and of how many."""

    def begin_again(self, why: str) -> None:
        """The next thing to be done has instructions of its own; the log says why."""
        self._number = self._total = 0
        self.log.say(why)

    def have_done(
        self, path: str, parameters: Mapping[str, Any], data: bytes, headers: Mapping[str, str] | None = None
    ) -> None:
        """Have the Engine do it, writing what it says to the log as it comes. Hangs up, which ends the work, where
        `ending` says why. Raises BuildFailed, RunnerUnavailable, and APIError where it does not begin."""
        said = _Answer(self._client, path, parameters, data, headers or {})
        try:
            looked_at = time.monotonic()
            while True:
                line = said.next(LOOK)
                if line is None or time.monotonic() - looked_at >= LOOK:
                    looked_at = time.monotonic()
                    why = self._ending()
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
            if step and int(step[1]) == self._number + 1 and int(step[2]) == (self._total or int(step[2])):
                self._number, self._total = int(step[1]), int(step[2])
        if "error" in said:
            self.log.say(said["error"])
            raise self._failed(said)

    def _failed(self, said: Mapping[str, Any]) -> BuildFailed:
        text = str(said["error"])
        match = _CODE.search(text)
        code = match[1] if match else (said.get("errorDetail") or {}).get("code")
        step = self._number - self._first_step + 1
        if code is not None and step > 0:
            return BuildFailed(f"step {step} ended with exit code {code}", step, int(code))
        return (_TakenAway if any(word in text.lower() for word in TAKEN_AWAY) else _Told)(text)


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
