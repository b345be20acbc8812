"""What the Docker Engine is told of a job's container, and what it says of its end. Nothing is remembered here."""

from __future__ import annotations

import base64
import contextlib
import datetime
import json
import signal
from collections.abc import Iterator, Mapping
from typing import Any

import docker
from docker.errors import NotFound

from runners.archives import END_OF_ARCHIVE, given
from runners.base import Exit, JobSpec, Reason, StartFailed
from runners.docker_logs import BEGIN
from runners.dockerfile import FOLDER

OUTPUTS = "/polyjob/outputs"
LOGS = "/polyjob/logs"
SHELL = "/bin/sh"
FOLDERS = (OUTPUTS, LOGS)
_BEGIN = f'exec 2>&1; printf "%s\\n" "{BEGIN.decode().strip()}"; '
_COMMAND = f'if command -v bash >/dev/null 2>&1; then exec bash -c "$1"; else exec {SHELL} -c "$1"; fi'
LAUNCH = _BEGIN + _COMMAND
"""One stream for both, or their order would be lost; bash where the image has one."""
LAUNCH_IN_NEW_FOLDERS = f"{_BEGIN}mkdir -p {' '.join(FOLDERS)}; {_COMMAND}"
NO_SHELL = f"The image has no `{SHELL}`, which runs the command."
MOST_CHANGES = 4 << 20
"""Bytes of the list of changes in a container that are looked through."""
IN_THE_WAY = ("not a directory", "too many links")
"""What the Engine says of a path that leads through a file, or in a circle."""
FOLDER_BIT = 1 << 31
"""Of a file mode as Go writes it."""
LOG_FILES = 12
"""Of each job, of half the log's limit each: the Engine counts some thirty bytes more for each line."""


def image_of(spec: JobSpec, artifact: str | None) -> str:
    """The image that the job runs in. Raises StartFailed where none is named."""
    image = json.loads(artifact)["image"] if artifact else spec.image
    if not image:
        raise StartFailed("A job in a container needs an image: set `build.image`.", Reason.IMAGE)
    return str(image)


def host_config(client: Any, spec: JobSpec) -> Any:
    """The bounds of the job's container: the Engine's first process, no restart, no new privileges, a bounded log."""
    asked = spec.resources
    indices = list(map(str, asked.gpus))
    gpus = [docker.types.DeviceRequest(device_ids=indices, capabilities=[["gpu"]])] if indices else None
    size = max(1 << 20, spec.log_limit // 2)
    return client.create_host_config(
        init=True,
        auto_remove=False,
        restart_policy={"Name": "no"},
        security_opt=["no-new-privileges"],
        mem_limit=asked.memory,
        pids_limit=asked.pids,
        nano_cpus=int(asked.cpu * 1e9) if asked.cpu else None,
        device_requests=gpus,
        log_config=docker.types.LogConfig(type="local", config={"max-size": str(size), "max-file": str(LOG_FILES)}),
    )


def inspected(client: Any, image: str) -> dict[str, Any] | None:
    """What the Engine knows of an image; None where it is not there. Raises APIError."""
    try:
        found: dict[str, Any] = client.inspect_image(image)
        return found
    except NotFound:
        return None


def is_root(image: Mapping[str, Any] | None) -> bool:
    """Whether commands run as root in it, and so may make folders anywhere."""
    return image is not None and image["Config"].get("User") in (None, "", "0", "root", "0:0", "root:root")


def files_of(spec: JobSpec) -> Iterator[bytes]:
    """An archive of what a container finds: code in the working folder, earlier outputs in the folder of outputs. All
    may write to the folders that are polyjob's."""
    yield from given(spec, FOLDERS, code=FOLDER, outputs=OUTPUTS)
    yield END_OF_ARCHIVE


def kind_of(client: Any, identity: str, path: str, seconds: float) -> str | None:
    """`folder`, or `other` for a link, a file and what else there is; None where the container has nothing there.
    Raises NotFound where there is no such container."""
    asked = {"url": client._url("/containers/{0}/archive", identity), "params": {"path": path}, "timeout": seconds}
    with client.head(**asked) as answer:
        if answer.status_code == 404:
            client.inspect_container(identity)
            return None
        if answer.status_code == 500:
            with client.get(**asked, stream=True) as why:  # a head has no words
                if why.status_code == 500 and any(word in why.text for word in IN_THE_WAY):
                    return None
        client._raise_for_status(answer)
        told = json.loads(base64.b64decode(answer.headers["X-Docker-Container-Path-Stat"]))
    return "folder" if told["mode"] & FOLDER_BIT else "other"


def has_nothing_in(client: Any, identity: str, folder: str, seconds: float) -> bool:
    """Whether a folder that was made in the container is empty, by the list of its changes; no where that does not
    tell: of a folder of the image or of a volume, behind the first changes, or where the Engine cannot list them. An
    archive would cost the Engine some ten times as much."""
    made, filled = (f'"Path":"{folder}{end}'.encode() for end in ('"', "/"))
    is_made, rest, size = False, b"", 0
    with client.get(client._url("/containers/{0}/changes", identity), stream=True, timeout=seconds) as answer:
        if answer.status_code == 500:
            return False
        client._raise_for_status(answer)
        for piece in answer.iter_content(1 << 16):
            rest, size = rest[-len(filled) :] + piece, size + len(piece)
            is_made = is_made or made in rest
            if filled in rest or size > MOST_CHANGES:
                return False
    return is_made


def exit_of(state: Mapping[str, Any], booted_at: float | None = None) -> Exit:
    """How a container has ended, by the state that the Engine tells of it; `booted_at` is when the Engine's machine
    started, where that has started since the job.

    Of what was running when its machine went down, the Engine says that it ended when it found out, and a code that
    nobody has seen.
    """
    code = int(state["ExitCode"])
    if booted_at and moment_of(state["StartedAt"]) < booted_at <= moment_of(state["FinishedAt"]):
        return Exit(Reason.LOST, message="The machine of the Docker Engine went down while the job ran.")
    message = "A process of the job needed more memory than it may have." if state.get("OOMKilled") else None
    if state.get("OOMKilled") and code == 128 + signal.SIGKILL:
        return Exit(Reason.OOM, code=code, signal=signal.SIGKILL, message=message)
    if state.get("StartedAt", "").startswith("0001"):
        return Exit(Reason.START, code=code, message=state.get("Error") or "The container could not be started.")
    number = code - 128
    if 0 < number <= 64 and number in {item.value for item in signal.Signals}:
        return Exit(Reason.SIGNALLED, code=code, signal=number, message=message)
    return Exit(Reason.EXITED, code=code, message=message)


def moment_of(text: str) -> float:
    """The Unix time of one that the Engine tells, with up to nine digits, in UTC."""
    whole, _, fraction = text.removesuffix("Z").partition(".")
    return datetime.datetime.fromisoformat(f"{whole}+00:00").timestamp() + float(f"0.{fraction or 0}")


def boot_time() -> float | None:
    """When this machine started, as Unix time; None where it does not say."""
    with contextlib.suppress(OSError, ValueError), open("/proc/stat") as file:
        for line in file:
            if line.startswith("btime "):
                return float(line.split()[1])
    return None


def boot_id() -> str:
    """Which boot of this machine it is; another one after each."""
    with open("/proc/sys/kernel/random/boot_id") as file:
        return file.read().strip()
