"""The Docker Engine: connect to it, identify it, find out what it can do, and interpret its errors.

Docker Engine and Podman's service have the same API, but differ in log drivers, limits, status codes and messages. So
this module asks for each feature, or judges a call by its effect, instead of asking which program answers.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import resource
import socket
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import docker
import requests
from docker.errors import APIError, DockerException, NotFound
from docker.utils import kwargs_from_env, version_lt

from runners.base import HandleNotFound, RunnerError, RunnerRefused, RunnerUnavailable, StartFailed
from runners.machine_faults import is_machine_fault

log = logging.getLogger("polyjob.docker")

INSTALLATION, JOB, ENGINE = "polyjob.installation", "polyjob.job", "polyjob.engine"
"""Labels of everything that polyjob creates. The last one holds the Engine's identity."""
SECRETS = "polyjob.secrets"
"""Label of a container: the names of its secret variables, with commas."""
CALL_SECONDS = 60
TRANSFER_SECONDS = 600
"""Time limits of an ordinary call, and of one that transfers files."""
PODMAN_LIST_FAULTS, LIST_ATTEMPTS = ("image not known", "no such process", "no such container"), 5
STATE_CHECKS, STATE_CHECK_SECONDS = 5, 0.1
"""Number of checks of a container's state after a refused call, and seconds between two checks."""
DEFAULT_SOCKET = "unix:///var/run/docker.sock"
MIN_API_VERSION = "1.41"
LOG_DRIVERS = ("local", "json-file", "k8s-file")
"""Log drivers whose logs can be read through the API, the best one first: `json-file` replaces bytes that are not
UTF-8.
"""
AMBIGUOUS_NETWORK = "is ambiguous"
"""Text in the Engine's answer if two networks have the same name."""
ICC, MTU = "com.docker.network.bridge.enable_icc", "com.docker.network.driver.mtu"
"""Options of a network: whether its containers can reach each other, and its packet size."""
LIMIT_KEYS = {"memory": "MemoryLimit", "cpu": "CpuCfsQuota", "pids": "PidsLimit"}
"""Part of `environment.resources` → the key of `/info` that says whether the Engine can limit it."""
SAFE_ULIMITS = {"nofile": (1024, 4096), "nproc": (16_384, 16_384)}
"""(soft, hard) limits that ordinary Linux machines allow."""
TRANSIENT_STATUSES = (404, 408, 429, 502, 503, 504)
"""HTTP statuses that are not about the job: something has just been removed, or the Engine is unavailable."""
JOB_FAULTS = (
    "could not select device driver", "oci runtime create failed", "is not a directory", "unable to find user",
    "unable to find group", "max depth exceeded",
)  # fmt: skip
"""Texts, in lower case, of 5xx answers about a job that the Engine will never start.

A refusal that is not recognized here ends the job too, but only after several attempts.
"""
ANOTHER_ENGINE = (
    "The job is on another Docker Engine than the one that DOCKER_HOST names now, "
    "or polyjob's volume was removed from this Engine."
)
ACCESS_ADVICE = "Add it to the group of that socket (usermod -aG docker NAME) and restart polyjob."
INSTALL_ADVICE = "Start one (on Debian: apt install docker.io), or set DOCKER_HOST to its address."


@dataclass(frozen=True)
class EngineInfo:
    """The identity and the features of an Engine."""

    identities: frozenset[str]
    """The names of polyjob's identity volumes in the Engine: one, unless two were created at the same moment."""
    own_id: str
    """The Engine's own id. Cloned machines share it, and some Engines change it with each answer."""
    node: str
    architecture: str
    log_driver: str
    missing_limits: frozenset[str]
    """Parts of `environment.resources` that the Engine cannot limit."""
    limits_swap: bool
    lists_changes: bool
    """The Engine can list the changes in a container without comparing all its files."""
    network: str | None
    """polyjob's own network, in which containers cannot reach each other; None = the Engine's default one."""
    boot: str | None
    """The boot id of the Engine's machine; None if that is another machine."""
    shares_files: bool
    """polyjob sees the files of the Engine's machine: it runs there, and not in a container."""

    @property
    def identity(self) -> str:
        return min(self.identities)

    def owns(self, handle: Mapping[str, Any]) -> bool:
        """Return whether a job's handle was made on this Engine."""
        return handle["engine"] in (self.identities if handle["v"] > 1 else {self.own_id})

    def handle(self, uuid: str, container: str, note: str = "") -> str:
        """Return the handle of a job's container. The container is empty for a start that was prevented.

        `note` is what the user should know about the running job.
        """
        fields = {"v": 2, "uuid": uuid, "id": container, "engine": self.identity, "boot": self.boot}
        return json.dumps(fields | ({"note": note} if note else {}))


def connect() -> Any:
    """Return a client of the Engine that DOCKER_HOST names, else of this machine's. Raises OSError, DockerException."""
    named = kwargs_from_env()
    check_socket(named.get("base_url") or DEFAULT_SOCKET)
    client = docker.APIClient(version="auto", timeout=CALL_SECONDS, **named)
    client.trust_env = not is_local(client)  # a socket needs no proxy
    return client


def is_local(client: Any) -> bool:
    return bool(client.base_url.startswith("http+docker://"))


def check_socket(url: str) -> None:
    """Raise OSError if no server listens on a socket, and RunnerUnavailable if this account may not connect to it."""
    if not url.startswith("unix://"):
        return
    path = url.removeprefix("unix://")
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(CALL_SECONDS)
        try:
            connection.connect(path)
        except PermissionError:
            raise RunnerUnavailable(
                f"This account may not connect to the Docker Engine at {path}. {ACCESS_ADVICE}"
            ) from None
        except OSError as error:
            raise OSError(f"no server answers at {path} ({error.strerror or error})") from None


def check_usable(client: Any) -> tuple[dict[str, Any], str]:
    """Return the Engine's `/info`, and the log driver for jobs.

    Raises RunnerUnavailable for an Engine that lacks something necessary, and what the client raises.
    """
    info = client.info()
    drivers = (info.get("Plugins") or {}).get("Log") or ()
    log_driver = next((driver for driver in LOG_DRIVERS if driver in drivers), None)
    if version_lt(client.api_version, MIN_API_VERSION):
        raise RunnerUnavailable(
            f"The Docker Engine has API version {client.api_version}, but polyjob needs {MIN_API_VERSION} "
            "(Docker Engine 20.10) or newer. Upgrade it."
        )
    if info.get("OSType", "linux") != "linux":
        raise RunnerUnavailable("The Docker Engine runs Windows containers, but polyjob needs Linux containers.")
    if log_driver is None:
        raise RunnerUnavailable(
            f"The Docker Engine has none of the log drivers {', '.join(LOG_DRIVERS)}, so polyjob cannot read logs."
        )
    return info, log_driver


def identify_engine(client: Any, installation: str) -> EngineInfo:
    """Return the identity and the features of the Engine.

    Creates polyjob's volume and network in an Engine that does not have them. Raises as `check_usable`.
    """
    info, log_driver = check_usable(client)
    return EngineInfo(
        identities=_engine_identities(client, installation),
        own_id=info.get("ID") or "",
        node=info["Name"],
        architecture=info.get("Architecture") or "",
        log_driver=log_driver,
        missing_limits=frozenset(part for part, key in LIMIT_KEYS.items() if not info.get(key, True)),
        limits_swap=bool(info.get("SwapLimit")),
        lists_changes=info["Driver"] == "overlay2",
        network=_job_network(client, installation),
        boot=boot_id() if is_local(client) else None,
        shares_files=is_local(client) and os.path.isdir(info.get("DockerRootDir") or ""),
    )


def _engine_identities(client: Any, installation: str) -> frozenset[str]:
    """Return the names of polyjob's identity volumes in the Engine, and create one if there is none.

    The volume is empty and has a random name. If somebody removes it (`docker volume prune`), its name is still in the
    labels of the containers, and the volume is created again.
    """
    own = {"label": f"{INSTALLATION}={installation}"}
    names = {item["Name"] for item in client.volumes(filters=own)["Volumes"] or () if ENGINE in item["Labels"]}
    if not names:
        containers = list_objects(lambda: client.containers(all=True, filters=own))
        names = {item["Labels"][ENGINE] for item in containers if ENGINE in item["Labels"]}
        names = names or {f"polyjob-engine-{uuid.uuid4().hex}"}
        for name in names:
            client.create_volume(name, labels={INSTALLATION: installation, ENGINE: name})
    return frozenset(names)


def _job_network(client: Any, installation: str) -> str | None:
    """Return the name of polyjob's own network, and create it if it is missing.

    Returns None if containers cannot reach each other in the Engine's default network either, and if the Engine does
    not know that option. Two processes may create the network at the same moment. The Engine starts no container in a
    network whose name exists twice, so the younger one is removed.
    """
    try:
        default = client.inspect_network("bridge")
    except NotFound:
        return None
    if (default["Options"] or {}).get(ICC) != "true":
        return None
    name, own = f"polyjob-{installation[:12]}", _own_networks(client, installation)
    if not own:
        labels = {INSTALLATION: installation}
        options = {key: value for key, value in default["Options"].items() if key == MTU} | {ICC: "false"}
        try:
            client.create_network(name, "bridge", options=options, check_duplicate=True, labels=labels)
        except APIError as error:  # for example: no more addresses, or another process has just created it
            log.warning("the Docker Engine does not create a network for jobs: %s", error_text(error))
        own = _own_networks(client, installation)
    for younger in own[1:]:
        with contextlib.suppress(APIError):  # a container uses it
            client.remove_network(younger)
    return name if own else None


def _own_networks(client: Any, installation: str) -> list[str]:
    """Return the ids of polyjob's networks, the oldest first."""
    networks = client.networks(filters={"label": f"{INSTALLATION}={installation}"})
    return [network["Id"] for network in sorted(networks, key=lambda network: (network["Created"], network["Id"]))]


def safe_ulimits(client: Any) -> list[Any]:
    """Return limits of open files and processes that the Engine's machine allows for a container.

    Some Engines set limits by default that their own machine does not allow.
    """
    limits = SAFE_ULIMITS
    if is_local(client):
        _, files = resource.getrlimit(resource.RLIMIT_NOFILE)
        limits = limits | {"nofile": (files, files)}
    return [docker.types.Ulimit(name=name, soft=soft, hard=hard) for name, (soft, hard) in limits.items()]


# Errors.


def error_text(error: APIError) -> str:
    return str(error.explanation or error)


def start_error(error: APIError) -> RunnerError | None:
    """Return the contract's error for a refused start; None if the machine or the Engine is at fault, not the job."""
    text = error_text(error)
    if is_machine_fault(text) or error.status_code in TRANSIENT_STATUSES or AMBIGUOUS_NETWORK in text:
        return None
    sentence = f"The Docker Engine refused to start the job: {text}"
    if not error.is_server_error() or any(word in text.lower() for word in JOB_FAULTS):
        return StartFailed(sentence)
    return RunnerRefused(sentence)


@contextlib.contextmanager
def translate_errors() -> Iterator[None]:
    """Translate what the client raises into the errors of the runner contract."""
    try:
        yield
    except (APIError, DockerException, requests.RequestException, OSError) as error:
        if isinstance(error, APIError):
            raise RunnerUnavailable(f"The Docker Engine answers: {error_text(error)}") from None
        raise RunnerUnavailable(f"The Docker Engine cannot be reached: {error}. {INSTALL_ADVICE}") from None


@contextlib.contextmanager
def translate_read_errors(client: Any, container: str, subject: str) -> Iterator[None]:
    """Translate errors of reading `subject`, such as `the log`, of a container.

    Raises HandleNotFound for a missing container, and RunnerRefused if the Engine cannot read it. Errors of an Engine
    that is away pass through.
    """
    try:
        yield
    except NotFound:
        raise HandleNotFound("The container does not exist any more.") from None
    except APIError as error:
        if is_machine_fault(error_text(error)) or container_state(client, container) is None:
            raise
        raise RunnerRefused(f"The Docker Engine cannot read {subject}: {error_text(error)}") from None


@contextlib.contextmanager
def ignore_errors_if(is_done: Callable[[], bool]) -> Iterator[None]:
    """Ignore an error of the Engine if the aim of the call is reached, because status codes differ between Engines.

    Podman refuses calls, even inspections, while a container changes its state, so the aim is checked repeatedly for
    half a second.
    """
    try:
        yield
    except APIError:
        for _ in range(STATE_CHECKS):
            with contextlib.suppress(APIError):
                if is_done():
                    return
            time.sleep(STATE_CHECK_SECONDS)
        raise


def list_objects(call: Callable[[], list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """Return the result of a call that lists containers or images. Raises APIError.

    Podman refuses it while a listed container ends or another client removes a listed image, so it is repeated.
    """
    for _ in range(LIST_ATTEMPTS - 1):
        try:
            return call()
        except APIError as error:
            if not any(text in str(error) for text in PODMAN_LIST_FAULTS):
                raise
    return call()


def container_state(client: Any, container: str) -> dict[str, Any] | None:
    """Return the state of a container by id or name; None if there is no such container. Raises APIError."""
    try:
        state: dict[str, Any] = client.inspect_container(container)["State"]
    except NotFound:
        return None
    return state


def boot_id() -> str:
    """Return the boot id of this machine, which is different after each boot."""
    with open("/proc/sys/kernel/random/boot_id") as file:
        return file.read().strip()
