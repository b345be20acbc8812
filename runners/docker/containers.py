"""Containers of jobs: their configuration, their files and how they ended. This module keeps no state."""

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
from runners.common.dockerfile import WORKING_FOLDER
from runners.common.tarstream import END_OF_TARBALL, files_for_job
from runners.docker.engine import EngineInfo
from runners.docker.logs import BEGIN_LINE, INIT_ERRORS, first_frame
from runners.docker.volumes import volume_mounts

OUTPUTS = "/polyjob/outputs"
INPUTS = "/polyjob/inputs"
LOGS = "/polyjob/logs"
SHELL = "/bin/sh"
WRITABLE_FOLDERS = (OUTPUTS, LOGS, WORKING_FOLDER)
"""Folders that every user in the container can write to."""
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
"""The search path of polyjob's own commands in the launch script, because the job can set any `PATH`."""
_BEGIN = f'exec 2>&1; printf "%s\\n" "{BEGIN_LINE.decode().strip()}"; '
_MAKE_FOLDERS = (
    f"(PATH={PATH}; umask 0; mkdir -p {' '.join(WRITABLE_FOLDERS)}; chmod 777 {' '.join(WRITABLE_FOLDERS)}); "
)
_COMMAND = f'if command -v bash >/dev/null 2>&1; then exec bash -c "$1"; else exec {SHELL} -c "$1"; fi'
LAUNCH = _BEGIN + _COMMAND
"""Stdout and stderr share one stream to keep their order. The command runs in bash if the image has it."""
LAUNCH_IN_NEW_FOLDERS = _BEGIN + _MAKE_FOLDERS + _COMMAND
SHELL_MISSING = f"The image has no `{SHELL}`, which runs the command."
GPUS_UNSUPPORTED = "The job asks for GPUs, but this Docker Engine cannot assign GPUs to containers."
FORMAT_ERROR = "exec format error"
IMAGE_ARCHITECTURES = {
    "x86_64": "amd64",
    "aarch64": "arm64",
    "armv7l": "arm",
    "armv6l": "arm",
    "i686": "386",
    "i386": "386",
}
"""The kernel's names of architectures → the names in images."""
MAX_CHANGES_BYTES = 4 << 20
"""Maximum size of the list of changes in a container; the rest is not read."""
UNREACHABLE_PATH = ("not a directory", "too many links", "too many levels of symbolic links")
"""Texts in the Engine's answer for a path that leads through a file, or through a circle of links."""
FOLDER_BIT, LINK_BIT = 1 << 31, 1 << 27
"""Bits of a file mode in Go's encoding."""
LOG_FILES = 12
"""Number of log files per job, each of half the log's limit. The Engine counts about thirty extra bytes per line."""
MAX_PROCESSES = 4096
"""Processes and threads of a job that does not ask for another limit."""
OOM_SCORE_ADJ = 500
"""Makes the kernel kill processes of jobs before polyjob and the Engine when memory runs out; the scale ends at 1000.
"""


def client_proxies(client: Any, variables: Mapping[str, str]) -> dict[str, str]:
    """Return the proxy variables of the Docker client's configuration, without those in `variables`.

    A name in capitals and the same name in small letters count as one variable.
    """
    names = {name.lower() for name in variables}
    proxies: dict[str, str] = client._proxy_configs.get_environment()
    return {name: value for name, value in proxies.items() if name.lower() not in names}


def host_config(client: Any, spec: JobSpec, engine: EngineInfo, shm_bytes: int, ulimits: Sequence[Any]) -> Any:
    """Return the host configuration of a job's container: init process, no restart, no new privileges, limits."""
    resources = spec.resources
    indices = list(map(str, resources.gpus))
    gpus = [docker.types.DeviceRequest(device_ids=indices, capabilities=[["gpu"]])] if indices else None
    memory = None if "memory" in engine.missing_limits else resources.memory
    pids = None if "pids" in engine.missing_limits else resources.pids or MAX_PROCESSES
    cpu = None if "cpu" in engine.missing_limits else resources.cpu
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
        shm_size=resources.memory // 2 if resources.memory else shm_bytes,
        pids_limit=pids,
        nano_cpus=int(cpu * 1e9) if cpu else None,
        device_requests=gpus,
        ulimits=list(ulimits) or None,
        mounts=volume_mounts(spec, engine.shares_files) or None,
        log_config=log_config(engine.log_driver, spec.log_limit),
        extra_hosts={DOCKER_HOST_ALIAS: "host-gateway"}
        if DOCKER_HOST_ALIAS in spec.env.get("POLYAXON_API", "")
        else None,
    )


def log_config(driver: str, limit: int) -> Any:
    """Return a log configuration for a few times `limit` bytes: half of the limit in each file if there are several."""
    size = max(1 << 20, limit // 2)
    files = {} if driver == "k8s-file" else {"max-file": str(LOG_FILES)}
    config = {"max-size": str(size if files else size * LOG_FILES), **files}
    return docker.types.LogConfig(type=driver, config=config)


def unsupported_limits(spec: JobSpec, engine: EngineInfo) -> list[str]:
    """Return a sentence for each limit that the job sets and the Engine does not support."""
    limits = {"memory": spec.resources.memory, "cpu": spec.resources.cpu, "pids": spec.resources.pids}
    names = {"memory": "memory", "cpu": "CPU", "pids": "processes"}
    return [
        f"Ignored `environment.resources.{part}`: this Docker Engine cannot limit {names[part]}."
        for part, value in limits.items()
        if value and part in engine.missing_limits
    ]


def has_gpu_request(client: Any, container: str) -> bool:
    """Return whether the Engine has kept the request for GPUs. Some Engines ignore it."""
    return bool(client.inspect_container(container)["HostConfig"].get("DeviceRequests"))


def runs_as_root(image: Mapping[str, Any]) -> bool:
    """Return whether commands in the image run as root, so that they can create folders anywhere."""
    return image["Config"].get("User") in (None, "", "0", "root", "0:0", "root:root")


def job_files(spec: JobSpec) -> Iterator[bytes]:
    """Yield a tarball with the files of a new container: the upload, and outputs of earlier jobs.

    Every user in the container can write to polyjob's folders.
    """
    yield from files_for_job(
        spec, WRITABLE_FOLDERS, upload_folder=WORKING_FOLDER, outputs_folder=OUTPUTS, inputs_folder=INPUTS
    )
    yield END_OF_TARBALL


def start_failure(
    client: Any, container: str, image: Mapping[str, Any] | None, engine: EngineInfo, seconds: float
) -> str | None:
    """Return why the command of an ended container never ran; None if it ran.

    If it ran, the first line of the log is polyjob's own. Raises APIError.
    """
    output = first_frame(client, container, seconds)
    if not output.startswith(INIT_ERRORS):
        return None
    if path_kind(client, container, SHELL, seconds) is None:
        return SHELL_MISSING
    text = output.decode(errors="replace").strip()
    message = f"`{SHELL}` of the image could not be run: {text}"
    if FORMAT_ERROR in text.lower() and image is not None:
        machine = IMAGE_ARCHITECTURES.get(engine.architecture, engine.architecture)
        message += f" (the image is for {image.get('Architecture')}, the Docker Engine's machine is {machine})"
    return message


def path_kind(client: Any, container: str, path: str, seconds: float) -> str | None:
    """Return `folder`, `link` or `other` for a path in a container; None if the path does not exist.

    Raises NotFound if there is no such container.
    """
    request = {"url": client._url("/containers/{0}/archive", container), "params": {"path": path}, "timeout": seconds}
    with client.head(**request) as answer:
        if answer.status_code == 404:
            client.inspect_container(container)
            return None
        if answer.status_code == 500:
            with client.get(**request, stream=True) as error:  # an answer to HEAD has no text
                if error.status_code == 500 and any(word in error.text for word in UNREACHABLE_PATH):
                    return None
        client._raise_for_status(answer)
        status = json.loads(base64.b64decode(answer.headers["X-Docker-Container-Path-Stat"]))
    if status["mode"] & LINK_BIT or status.get("linkTarget") not in (None, "", path):  # Podman follows links
        return "link"
    return "folder" if status["mode"] & FOLDER_BIT else "other"


def link_tar() -> Iterator[bytes]:
    """Yield a tar of a single link, for a link in place of a folder."""
    member = tarfile.TarInfo(".")
    member.type = tarfile.SYMTYPE
    yield member.tobuf()
    yield END_OF_TARBALL


def is_known_empty(client: Any, container: str, folder: str, seconds: float) -> bool:
    """Return whether a folder that was created in the container is empty, by the list of the container's changes.

    False if the list does not show it: for a folder of the image or of a volume, after the first `MAX_CHANGES_BYTES`,
    and on an Engine that cannot list changes. The list costs the Engine about a tenth of what an archive of the folder
    does.
    """
    created, filled = (f'"Path":"{folder}{end}'.encode() for end in ('"', "/"))
    is_created, rest, size = False, b"", 0
    with client.get(client._url("/containers/{0}/changes", container), stream=True, timeout=seconds) as answer:
        if answer.status_code == 500:
            return False
        client._raise_for_status(answer)
        for chunk in answer.iter_content(1 << 16):
            rest, size = rest[-len(filled) :] + chunk, size + len(chunk)
            is_created = is_created or created in rest
            if filled in rest or size > MAX_CHANGES_BYTES:
                return False
    return is_created


def container_exit(state: Mapping[str, Any], booted_at: float | None = None) -> Exit:
    """Return how a container has ended, from the Engine's `State`.

    `booted_at` is the time at which the Engine's machine was started, if that was after the start of the job. For a
    container that ran when the machine went down, the Engine reports the time at which it noticed that, and an
    unreliable exit code.
    """
    code = int(state["ExitCode"])
    if booted_at and unix_time(state["StartedAt"]) < booted_at <= unix_time(state["FinishedAt"]):
        return Exit(Reason.LOST, message="The machine of the Docker Engine went down while the job ran.")
    message = "A process of the job exceeded the memory limit." if state.get("OOMKilled") else None
    if state.get("OOMKilled") and code == 128 + signal.SIGKILL:
        return Exit(Reason.OOM, code=code, signal=signal.SIGKILL, message=message)
    if state.get("StartedAt", "").startswith("0001"):
        return Exit(Reason.START, code=code, message=state.get("Error") or "The container could not be started.")
    signal_number = code - 128
    if 0 < signal_number <= 64 and signal_number in {item.value for item in signal.Signals}:
        return Exit(Reason.SIGNALLED, code=code, signal=signal_number, message=message)
    return Exit(Reason.EXITED, code=code, message=message)


def unix_time(text: str) -> float:
    """Return a time of the Engine, which has up to nine digits, as Unix time."""
    text, zone = (text[:-1], "+00:00") if text.endswith("Z") else (text[:-6], text[-6:])
    seconds, _, fraction = text.partition(".")
    return datetime.datetime.fromisoformat(f"{seconds}{zone}").timestamp() + float(f"0.{fraction or 0}")


def boot_time() -> float | None:
    """Return the Unix time at which this machine was started; None if the kernel does not tell."""
    with contextlib.suppress(OSError, ValueError), open("/proc/stat") as file:
        for line in file:
            if line.startswith("btime "):
                return float(line.split()[1])
    return None
