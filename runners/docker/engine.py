"""The Engine itself: connect to it, find out who it is and what it can do, and judge its errors.

Nothing here depends on which program answers. Docker Engine and Podman's service speak the same API and differ in log
drivers, limits, status codes and texts, so each of these is looked up or judged by its effect.
"""

from __future__ import annotations

import contextlib
import logging
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
"""Labels of everything that is ours. Containers and the mark have the Engine's identity in the last one."""
CALL_SECONDS = 60
TRANSFER_SECONDS = 600
"""How long a call may take: one that asks, and one that carries files."""
LOOKS, LOOK_SECONDS = 5, 0.1
"""Number of looks at a container after a refused call, and the seconds between two of them."""
LOCAL = "unix:///var/run/docker.sock"
OLDEST_API = "1.41"
LOG_DRIVERS = ("local", "json-file", "k8s-file")
"""Log drivers whose logs the Engine's API gives back, the best one first: `json-file` replaces bytes that are not
UTF-8."""
AMBIGUOUS = "is ambiguous"
"""Text in the Engine's answer if two networks have the name."""
ICC, MTU = "com.docker.network.bridge.enable_icc", "com.docker.network.driver.mtu"
"""Options of a network: whether its containers reach each other, and the size of its packets."""
LIMITS = {"memory": "MemoryLimit", "cpu": "CpuCfsQuota", "pids": "PidsLimit"}
"""Part of `environment.resources` → the key of `/info` that says whether the Engine can limit it."""
ULIMITS = {"nofile": (1024, 4096), "nproc": (16_384, 16_384)}
"""Soft and hard limits that every Linux machine of some size lets an account set."""
PASSING = (404, 408, 429, 502, 503, 504)
"""Statuses that say nothing about the job: what it needs was removed just now, or the Engine does not serve."""
JOB_FAULTS = (
    "could not select device driver", "oci runtime create failed", "is not a directory", "unable to find user",
    "unable to find group", "max depth exceeded",
)  # fmt: skip
"""What an Engine says, in lower case, with a status of its own faults, of a job that it will never start. A refusal
that is not recognized here ends the job too, but only after several tries."""
ANOTHER_ENGINE = (
    "The job is on another Docker Engine than the one that DOCKER_HOST names now, "
    "or somebody removed polyjob's volume from this one."
)
ACCESS_HINT = "Add it to the group of that socket (usermod -aG docker NAME), and start polyjob again."
INSTALL_HINT = "Start one (on Debian: apt install docker.io), or say by DOCKER_HOST where it is."


@dataclass(frozen=True)
class Facts:
    """What the runner knows of the Engine that answers now."""

    marks: frozenset[str]
    """The Engine's identities, by polyjob's own volumes and containers in it."""
    own_id: str
    """The Engine's own word for who it is. Cloned machines share it, and some Engines change it with each answer."""
    node: str
    architecture: str
    log_driver: str
    missing_limits: frozenset[str]
    """Parts of `environment.resources` that the Engine cannot limit."""
    limits_swap: bool
    lists_changes: bool
    """The Engine can say what has changed in a container without comparing all of it."""
    network: str | None
    """A network of our own in which containers do not reach each other; None: the Engine's default one."""
    boot: str | None
    """The boot of the Engine's machine; None if that is not this one."""

    @property
    def mark(self) -> str:
        return min(self.marks)

    def has(self, handle: Mapping[str, Any]) -> bool:
        """Return whether a job's handle was made on this Engine."""
        return handle["engine"] in (self.marks if handle["v"] > 1 else {self.own_id})


def connect() -> Any:
    """Return a client of the Engine that DOCKER_HOST names, else of this machine's. Raises OSError, DockerException."""
    named = kwargs_from_env()
    knock(named.get("base_url") or LOCAL)
    client = docker.APIClient(version="auto", timeout=CALL_SECONDS, **named)
    client.trust_env = not is_local(client)  # a socket has no proxy
    return client


def is_local(client: Any) -> bool:
    return bool(client.base_url.startswith("http+docker://"))


def knock(url: str) -> None:
    """Raise OSError if nobody listens at a socket of this machine, RunnerUnavailable if this account is not let in."""
    if not url.startswith("unix://"):
        return
    path = url.removeprefix("unix://")
    with socket.socket(socket.AF_UNIX) as door:
        door.settimeout(CALL_SECONDS)
        try:
            door.connect(path)
        except PermissionError:
            raise RunnerUnavailable(
                f"The Docker Engine at {path} does not let this account in. {ACCESS_HINT}"
            ) from None
        except OSError as error:
            raise OSError(f"nobody answers at {path} ({error.strerror or error})") from None


def usable(client: Any) -> tuple[dict[str, Any], str]:
    """Return what the Engine says of itself, and the log driver that jobs use. Raises RunnerUnavailable for an Engine
    that lacks something necessary, and what the client raises."""
    info = client.info()
    drivers = (info.get("Plugins") or {}).get("Log") or ()
    log_driver = next((driver for driver in LOG_DRIVERS if driver in drivers), None)
    if version_lt(client.api_version, OLDEST_API):
        raise RunnerUnavailable(
            f"The Docker Engine speaks API version {client.api_version}, and polyjob needs {OLDEST_API} "
            "(Docker Engine 20.10) or newer: upgrade it."
        )
    if info.get("OSType", "linux") != "linux":
        raise RunnerUnavailable("The Docker Engine runs Windows containers; polyjob needs one for Linux containers.")
    if log_driver is None:
        raise RunnerUnavailable(
            f"The Docker Engine has none of the log drivers {', '.join(LOG_DRIVERS)}: polyjob could not read the logs."
        )
    return info, log_driver


def look_up(client: Any, installation: str) -> Facts:
    """Find out who the Engine is and what it can do. Marks an Engine that is met for the first time. Raises as
    `usable`."""
    info, log_driver = usable(client)
    return Facts(
        marks=_marks(client, installation),
        own_id=info.get("ID") or "",
        node=info["Name"],
        architecture=info.get("Architecture") or "",
        log_driver=log_driver,
        missing_limits=frozenset(part for part, key in LIMITS.items() if not info.get(key, True)),
        limits_swap=bool(info.get("SwapLimit")),
        lists_changes=info["Driver"] == "overlay2",
        network=_network(client, installation),
        boot=boot_id() if is_local(client) else None,
    )


def _marks(client: Any, installation: str) -> frozenset[str]:
    """The names of polyjob's marks in the Engine, of which there is one unless two were made at once.

    The mark is an empty volume with a random name. Should somebody remove it (`docker volume prune`), the containers
    still know its name, and it is made again.
    """
    ours = {"label": f"{INSTALLATION}={installation}"}
    marks = {item["Name"] for item in client.volumes(filters=ours)["Volumes"] or () if ENGINE in item["Labels"]}
    if not marks:
        containers = client.containers(all=True, filters=ours)
        marks = {item["Labels"][ENGINE] for item in containers if ENGINE in item["Labels"]}
        marks = marks or {f"polyjob-engine-{uuid.uuid4().hex}"}
        for name in marks:
            client.create_volume(name, labels={INSTALLATION: installation, ENGINE: name})
    return frozenset(marks)


def _network(client: Any, installation: str) -> str | None:
    """The name of our own network, made if it is missing; None if the Engine's default network lets no containers reach
    each other already, or if the Engine does not know that option.

    Two processes may each make one at the same moment. The Engine starts no container in a network whose name is there
    twice, so the younger one is removed.
    """
    try:
        default = client.inspect_network("bridge")
    except NotFound:
        return None
    if (default["Options"] or {}).get(ICC) != "true":
        return None
    name, ours = f"polyjob-{installation[:12]}", _networks(client, installation)
    if not ours:
        labels = {INSTALLATION: installation}
        options = {key: value for key, value in default["Options"].items() if key == MTU} | {ICC: "false"}
        try:
            client.create_network(name, "bridge", options=options, check_duplicate=True, labels=labels)
        except APIError as error:  # no more addresses, say, or made by another process just now
            log.warning("the Docker Engine makes no network for jobs: %s", text_of(error))
        ours = _networks(client, installation)
    for younger in ours[1:]:
        with contextlib.suppress(APIError):  # a container uses it
            client.remove_network(younger)
    return name if ours else None


def _networks(client: Any, installation: str) -> list[str]:
    """The ids of our own networks, the oldest first."""
    found = client.networks(filters={"label": f"{INSTALLATION}={installation}"})
    return [network["Id"] for network in sorted(found, key=lambda network: (network["Created"], network["Id"]))]


def own_ulimits(client: Any) -> list[Any]:
    """Limits of open files and processes that the Engine's machine lets a container have, for an Engine that asks for
    more by itself than its machine allows."""
    limits = ULIMITS
    if is_local(client):
        _, files = resource.getrlimit(resource.RLIMIT_NOFILE)
        limits = limits | {"nofile": (files, files)}
    return [docker.types.Ulimit(name=name, soft=soft, hard=hard) for name, (soft, hard) in limits.items()]


# Errors.


def text_of(error: APIError) -> str:
    return str(error.explanation or error)


def refusal(error: APIError) -> RunnerError | None:
    """Return what the Engine's refusal to start a job means for it; None if it blames the machine or the Engine."""
    text = text_of(error)
    if is_machine_fault(text) or error.status_code in PASSING or AMBIGUOUS in text:
        return None
    sentence = f"The Docker Engine refused to start the job: {text}"
    if not error.is_server_error() or any(word in text.lower() for word in JOB_FAULTS):
        return StartFailed(sentence)
    return RunnerRefused(sentence)


@contextlib.contextmanager
def contract_errors() -> Iterator[None]:
    """Turn whatever the client raises into the contract's errors."""
    try:
        yield
    except (APIError, DockerException, requests.RequestException, OSError) as error:
        if isinstance(error, APIError):
            raise RunnerUnavailable(f"The Docker Engine answers: {text_of(error)}") from None
        raise RunnerUnavailable(f"The Docker Engine cannot be reached: {error}. {INSTALL_HINT}") from None


@contextlib.contextmanager
def reading(client: Any, identity: str, what: str) -> Iterator[None]:
    """Tell a container that is gone, or of which the Engine does not give `what`, from an Engine that is away. Raises
    HandleNotFound, RunnerRefused."""
    try:
        yield
    except NotFound:
        raise HandleNotFound("The container is not there any more.") from None
    except APIError as error:
        if is_machine_fault(text_of(error)) or state_of(client, identity) is None:
            raise
        raise RunnerRefused(f"The Docker Engine does not give {what}: {text_of(error)}") from None


@contextlib.contextmanager
def unless(is_over: Callable[[], bool]) -> Iterator[None]:
    """Ignore an error of the Engine if what the call was to reach is there; status codes differ between Engines.

    Podman refuses calls, even inspections, while a container passes from one state to the next: it is asked again for
    half a second.
    """
    try:
        yield
    except APIError:
        for _ in range(LOOKS):
            with contextlib.suppress(APIError):
                if is_over():
                    return
            time.sleep(LOOK_SECONDS)
        raise


def state_of(client: Any, identity: str) -> dict[str, Any] | None:
    """Return the state of a container, None if there is none of this id or name. Raises APIError."""
    try:
        state: dict[str, Any] = client.inspect_container(identity)["State"]
    except NotFound:
        return None
    return state


def boot_id() -> str:
    """Return which boot of this machine it is; another one after each."""
    with open("/proc/sys/kernel/random/boot_id") as file:
        return file.read().strip()
