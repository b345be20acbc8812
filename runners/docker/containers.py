"""What the Docker Engine is told of a job's container, and what it says of its end. Nothing is remembered here."""

from __future__ import annotations

import base64
import contextlib
import datetime
import json
import signal
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import docker

from runners.base import DOCKER_HOST_ALIAS, Exit, JobSpec, Reason
from runners.common.dockerfile import FOLDER
from runners.common.tarstream import END_OF_ARCHIVE, given
from runners.docker.engine import Facts
from runners.docker.logs import BEGIN, NOT_BEGUN, first_frame

OUTPUTS = "/polyjob/outputs"
LOGS = "/polyjob/logs"
SHELL = "/bin/sh"
FOLDERS = (OUTPUTS, LOGS, FOLDER)
"""Folders that every user of the container may write to."""
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
"""Where our own part of the launch looks for its commands; the job's `PATH` may lead anywhere."""
_BEGIN = f'exec 2>&1; printf "%s\\n" "{BEGIN.decode().strip()}"; '
_MAKE = f"(PATH={PATH}; umask 0; mkdir -p {' '.join(FOLDERS)}; chmod 777 {' '.join(FOLDERS)}); "
_COMMAND = f'if command -v bash >/dev/null 2>&1; then exec bash -c "$1"; else exec {SHELL} -c "$1"; fi'
LAUNCH = _BEGIN + _COMMAND
"""One stream for both, or their order would be lost; bash where the image has one."""
LAUNCH_IN_NEW_FOLDERS = _BEGIN + _MAKE + _COMMAND
NO_SHELL = f"The image has no `{SHELL}`, which runs the command."
NO_GPUS = "The job asks for GPUs, and this Docker Engine does not give containers any."
FORMAT_ERROR = "exec format error"
MACHINES = {"x86_64": "amd64", "aarch64": "arm64", "armv7l": "arm", "armv6l": "arm", "i686": "386", "i386": "386"}
"""Architectures as the kernel names them → as images do."""
MAX_CHANGES_BYTES = 4 << 20
"""Bytes of the list of changes in a container that are looked through."""
IN_THE_WAY = ("not a directory", "too many links", "too many levels of symbolic links")
"""What the Engine says of a path that leads through a file, or in a circle."""
FOLDER_BIT, LINK_BIT = 1 << 31, 1 << 27
"""Of a file mode as Go writes it."""
LOG_FILES = 12
"""Of each job, of half the log's limit each: the Engine counts some thirty bytes more for each line."""
MAX_PROCESSES = 4096
"""Processes and threads of a job that does not ask for another limit."""
OOM_SCORE_ADJ = 500
"""How much sooner than others the kernel kills a job's processes for memory, of 1000: before polyjob and the Engine."""


def proxies_beside(client: Any, own: Mapping[str, str]) -> dict[str, str]:
    """Return the proxy variables of the Docker client's configuration, without those that a job sets itself. A name in
    capitals and the same in small letters are one variable."""
    names = {name.lower() for name in own}
    found: dict[str, str] = client._proxy_configs.get_environment()
    return {name: value for name, value in found.items() if name.lower() not in names}


def host_config(client: Any, spec: JobSpec, engine: Facts, shm_bytes: int, ulimits: Sequence[Any]) -> Any:
    """The bounds of the job's container: the Engine's first process, no restart, no new privileges, a bounded log."""
    asked = spec.resources
    indices = list(map(str, asked.gpus))
    gpus = [docker.types.DeviceRequest(device_ids=indices, capabilities=[["gpu"]])] if indices else None
    memory = None if "memory" in engine.missing_limits else asked.memory
    pids = None if "pids" in engine.missing_limits else asked.pids or MAX_PROCESSES
    cpu = None if "cpu" in engine.missing_limits else asked.cpu
    return client.create_host_config(
        init=True,
        auto_remove=False,
        restart_policy={"Name": "no"},
        network_mode=engine.network or "default",
        security_opt=["no-new-privileges"],
        cap_drop=["NET_RAW"],
        oom_score_adj=OOM_SCORE_ADJ,
        mem_limit=memory,
        memswap_limit=memory if engine.limits_swap else None,
        shm_size=asked.memory // 2 if asked.memory else shm_bytes,
        pids_limit=pids,
        nano_cpus=int(cpu * 1e9) if cpu else None,
        device_requests=gpus,
        ulimits=list(ulimits) or None,
        log_config=log_config(engine.log_driver, spec.log_limit),
        extra_hosts={DOCKER_HOST_ALIAS: "host-gateway"}
        if DOCKER_HOST_ALIAS in spec.env.get("POLYAXON_API", "")
        else None,
    )


def log_config(driver: str, limit: int) -> Any:
    """A log of several times the limit in bytes: half of it in each file if the driver keeps several."""
    size = max(1 << 20, limit // 2)
    files = {} if driver == "k8s-file" else {"max-file": str(LOG_FILES)}
    config = {"max-size": str(size if files else size * LOG_FILES), **files}
    return docker.types.LogConfig(type=driver, config=config)


def ignored_limits(spec: JobSpec, engine: Facts) -> list[str]:
    """One sentence for each limit that the job asks for and the Engine cannot set."""
    asked = {"memory": spec.resources.memory, "cpu": spec.resources.cpu, "pids": spec.resources.pids}
    names = {"memory": "memory", "cpu": "CPU", "pids": "processes"}
    return [
        f"Ignored `environment.resources.{part}`: this Docker Engine cannot limit {names[part]}."
        for part, value in asked.items()
        if value and part in engine.missing_limits
    ]


def gives_gpus(client: Any, identity: str) -> bool:
    """Whether the Engine has taken the request for GPUs; not every one knows it."""
    return bool(client.inspect_container(identity)["HostConfig"].get("DeviceRequests"))


def is_root(image: Mapping[str, Any]) -> bool:
    """Whether commands run as root in it, and so may make folders anywhere."""
    return image["Config"].get("User") in (None, "", "0", "root", "0:0", "root:root")


def files_of(spec: JobSpec) -> Iterator[bytes]:
    """An archive of what a container finds: code in the working folder, earlier outputs in the folder of outputs. All
    may write to the folders that are polyjob's."""
    yield from given(spec, FOLDERS, code=FOLDER, outputs=OUTPUTS)
    yield END_OF_ARCHIVE


def never_began(
    client: Any, identity: str, image: Mapping[str, Any] | None, engine: Facts, seconds: float
) -> str | None:
    """Return why the command of a container that has ended never ran, None if it ran: then the container's first words
    are our own. Raises APIError."""
    words = first_frame(client, identity, seconds)
    if not words.startswith(NOT_BEGUN):
        return None
    if kind_of(client, identity, SHELL, seconds) is None:
        return NO_SHELL
    text = words.decode(errors="replace").strip()
    message = f"`{SHELL}` of the image could not be run: {text}"
    if FORMAT_ERROR in text.lower() and image is not None:
        machine = MACHINES.get(engine.architecture, engine.architecture)
        message += f" (the image is for {image.get('Architecture')}, the Docker Engine's machine is {machine})"
    return message


def kind_of(client: Any, identity: str, path: str, seconds: float) -> str | None:
    """`folder`, `link`, or `other` for a file and what else there is; None where the container has nothing there.
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
    if told["mode"] & LINK_BIT or told.get("linkTarget") not in (None, "", path):  # Podman follows links
        return "link"
    return "folder" if told["mode"] & FOLDER_BIT else "other"


def link_in_place() -> Iterator[bytes]:
    """An archive that says that a link stands where a folder was looked for."""
    member = tarfile.TarInfo(".")
    member.type = tarfile.SYMTYPE
    yield member.tobuf()
    yield END_OF_ARCHIVE


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
            if filled in rest or size > MAX_CHANGES_BYTES:
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
    """The Unix time of one that the Engine tells, with up to nine digits."""
    text, zone = (text[:-1], "+00:00") if text.endswith("Z") else (text[:-6], text[-6:])
    whole, _, fraction = text.partition(".")
    return datetime.datetime.fromisoformat(f"{whole}{zone}").timestamp() + float(f"0.{fraction or 0}")


def boot_time() -> float | None:
    """When this machine started, as Unix time; None where it does not say."""
    with contextlib.suppress(OSError, ValueError), open("/proc/stat") as file:
        for line in file:
            if line.startswith("btime "):
                return float(line.split()[1])
    return None
