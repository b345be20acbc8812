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
from collections.abc import Callable, Iterator, Mapping
from typing import Any, BinaryIO

import requests
from docker.errors import APIError, ImageNotFound

from runners.base import BuildFailed, BuildSpec, RunnerUnavailable
from runners.docker_streams import context
from runners.dockerfile import render_dockerfile

LARGEST_FILE = 16 << 20
"""Bytes of one requirement file."""
KEY = "polyjob.key"
_CODE = re.compile(r"returned a non-zero code: (\d+)")
_STEP = re.compile(r"Step (\d+)/(\d+) : RUN\b")


def build_image(
    client: Any, spec: BuildSpec, log: BinaryIO, cancelled: Callable[[], bool], labels: Mapping[str, str]
) -> str:
    """See `Runner.build`. The artifact names the image, and the digest of the base that it was made from."""
    if spec.image is None:
        raise BuildFailed("A build of an image needs a base: set `build.image`.")
    base = _base(client, spec.image, log, cancelled)
    if not (spec.steps or spec.env or spec.files):
        return _artifact(spec.image, base)
    tag = f"polyjob:{spec.key[:24]}-{base.rpartition(':')[2][:12]}"
    if not spec.nocache:
        try:
            client.inspect_image(tag)
            log.write(f"The image {tag} is there already.\n".encode())
            return _artifact(tag, base)
        except ImageNotFound:
            pass
    dockerfile = render_dockerfile(spec, {**labels, KEY: spec.key})
    data = context(dockerfile, _files(spec))
    parameters = {"t": tag, "nocache": spec.nocache, "rm": True, "forcerm": True}
    headers = {"Content-Type": "application/x-tar"}
    deadline = time.monotonic() + spec.timeout
    _follow(client, client._url("/build"), parameters, headers, data, log, _ending(cancelled, deadline))
    return _artifact(tag, base)


def _artifact(image: str, base: str) -> str:
    return json.dumps({"v": 1, "image": image, "base": base})


def _ending(cancelled: Callable[[], bool], deadline: float) -> Callable[[], str | None]:
    def why() -> str | None:
        if cancelled():
            return "The build was cancelled."
        return "The build took longer than it may." if time.monotonic() > deadline else None

    return why


def _base(client: Any, image: str, log: BinaryIO, cancelled: Callable[[], bool]) -> str:
    """The id of the base image, pulled where it is not there: what is there decides, and nothing is pulled again."""
    try:
        return str(client.inspect_image(image)["Id"])
    except ImageNotFound:
        pass
    log.write(f"Pulling {image}\n".encode())
    name, _, tag = image.partition("@") if "@" in image else _split(image)
    parameters = {"fromImage": name, "tag": tag}
    try:
        _follow(client, client._url("/images/create"), parameters, {}, b"", log, _ending(cancelled, float("inf")))
        return str(client.inspect_image(image)["Id"])
    except ImageNotFound:
        raise BuildFailed(f"The image `{image}` does not exist, or may not be pulled.") from None
    except APIError as error:
        raise _no_image(image, str(error.explanation)) from None


def _split(image: str) -> tuple[str, str, str]:
    head, colon, tag = image.rpartition(":")
    return (head, colon, tag) if colon and "/" not in tag else (image, ":", "latest")


def _no_image(image: str, text: str) -> BuildFailed:
    if "invalid reference format" in text:
        return BuildFailed(f"`{image}` is no name of an image.")
    if any(word in text for word in ("no such host", "connection refused", "timeout", "i/o", "dial tcp", "TLS")):
        return BuildFailed(f"The registry of `{image}` cannot be reached: {text}")
    return BuildFailed(f"The image `{image}` does not exist, or may not be pulled: {text}")


def _files(spec: BuildSpec) -> Iterator[tuple[str, bytes]]:
    if not spec.files or spec.code is None:
        return
    with tarfile.open(spec.code, "r:gz") as archive:
        for member in archive:
            name = member.name.removeprefix("./")
            if name in spec.files and member.isreg():
                content = archive.extractfile(member)
                assert content is not None
                yield name, content.read(LARGEST_FILE)


def _follow(
    client: Any,
    url: str,
    parameters: Mapping[str, Any],
    headers: Mapping[str, str],
    data: bytes,
    log: BinaryIO,
    ending: Callable[[], str | None],
) -> None:
    """Have the Engine do it, writing what it says to the log as it comes. Ends the connection, and with it the work,
    where `ending` says why. Raises BuildFailed."""
    answer = client.post(url, params=parameters, headers=dict(headers), data=data, stream=True, timeout=None)
    client._raise_for_status(answer)
    lines: queue.Queue[bytes | Exception | None] = queue.Queue()
    threading.Thread(target=_read, args=(answer, lines), name="docker-build", daemon=True).start()
    step, run = 0, 0
    try:
        while True:
            try:
                line = lines.get(timeout=0.2)
            except queue.Empty:
                why = ending()
                if why is not None:
                    raise BuildFailed(why) from None
                continue
            if line is None:
                return
            if isinstance(line, Exception):
                raise RunnerUnavailable(f"The Docker Engine broke off: {line}.")
            said = json.loads(line)
            text = said.get("stream") or _progress(said)
            if text:
                log.write(text.encode())
                run += bool(_STEP.match(text))
                step = run
            if "error" in said:
                log.write(f"{said['error']}\n".encode())
                raise _failed(said, step)
    finally:
        _end(answer)


def _progress(said: Mapping[str, Any]) -> str:
    """Of a pull: what is done, not each step of every bar."""
    if "progressDetail" in said and said.get("progressDetail"):
        return ""
    return f"{said['id']}: {said['status']}\n" if "id" in said else f"{said['status']}\n" if "status" in said else ""


def _failed(said: Mapping[str, Any], step: int) -> BuildFailed:
    text = str(said["error"])
    code = (said.get("errorDetail") or {}).get("code")
    match = _CODE.search(text)
    number = int(match[1]) if match else code
    if number is not None and step:
        return BuildFailed(f"step {step} ended with exit code {number}", step, int(number))
    return BuildFailed(text)


def _read(answer: requests.Response, lines: queue.Queue[bytes | Exception | None]) -> None:
    try:
        for line in answer.iter_lines():
            if line.strip():
                lines.put(line)
        lines.put(None)
    except Exception as error:
        lines.put(error)


def _end(answer: requests.Response) -> None:
    """The Engine gives up what it does for a client that hangs up."""
    connection = getattr(answer.raw, "_connection", None)
    held = getattr(connection, "sock", None)
    if held is not None:
        with contextlib.suppress(OSError):
            held.shutdown(socket.SHUT_RDWR)
    answer.close()
