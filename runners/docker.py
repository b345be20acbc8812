"""Jobs in containers of a Docker Engine, wherever it is: nothing but the Engine's API is used, no file is shared.

A container bears the job's fixed name and the labels that find and adopt it. What was started is written down in the
runner's own folder, `<data>/docker/<job uuid>`, under a lock: so a job whose container somebody removed is `Missing`
and never runs again, and a container that has exited is never started a second time.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import signal
import socket
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

import docker
import requests
from docker.errors import APIError, DockerException, NotFound
from docker.utils import kwargs_from_env

from runners.archives import END_OF_ARCHIVE, below, renamed
from runners.base import (
    BuildSpec,
    Exit,
    Exited,
    Gone,
    JobSpec,
    Missing,
    Outdated,
    Pending,
    Reason,
    RemoteRunner,
    RunnerSettings,
    RunnerUnavailable,
    Running,
    StartFailed,
    State,
    Unknown,
    mark,
)
from runners.docker_builds import GONE, build_image, held_images, outdated
from runners.docker_containers import (
    LAUNCH,
    LAUNCH_IN_NEW_FOLDERS,
    LOGS,
    NO_SHELL,
    OUTPUTS,
    SHELL,
    boot_id,
    boot_time,
    exit_of,
    files_of,
    has_nothing_in,
    host_config,
    image_of,
    inspected,
    is_root,
    kind_of,
    moment_of,
)
from runners.docker_logs import NOT_BEGUN, LogCursor, Logs
from runners.dockerfile import FOLDER
from runners.records import Records, write

INSTALLATION, JOB = "polyjob.installation", "polyjob.job"
"""Labels of everything that is ours."""
CALL = 60
TRANSFER = 600
"""Seconds that a call may take: one that asks, and one that carries files."""
CONFLICT = 409
ENDED = ("exited", "dead")
"""States of a container that does not run any more."""
NO_COMMAND = 127
"""The exit code of the Engine's own first process where there is nothing to run."""
FAULTS_OF_THE_JOB = ("could not select device driver", "OCI runtime create failed", "is not a directory")
"""What the Engine answers with a status of its own faults, and is none."""
FAULTS_OF_THE_MACHINE = ("no space left", "temporarily unavailable", "cannot allocate memory", "too many open files")
"""What is none of the job's, whatever it comes with."""
LOCAL = "unix:///var/run/docker.sock"
ANOTHER_ENGINE = "The job is on another Docker Engine than the one that DOCKER_HOST names now."
HOW_TO_GET_IN = "Add it to the group of that socket (usermod -aG docker NAME), and start polyjob again."
HOW_TO_GET_ONE = "Start one (on Debian: apt install docker.io), or say by DOCKER_HOST where it is."


class DockerRunner(RemoteRunner):
    """See the module."""

    def __init__(self, settings: RunnerSettings, wake: Callable[[], None]) -> None:
        super().__init__(settings, wake)
        self._folder = Path(settings.data_dir) / "docker"
        self._records = Records(self._folder)
        self._lock = threading.Lock()
        self._client: Any = None
        self._engine = self._node = ""
        self._is_known = False
        """Nothing has happened since that could have put another Engine in its place."""
        self._boot: str | None = None
        """The boot of the Engine's machine; None where that is another."""
        self._tells_changes = False
        """The Engine can say what has changed in a container without comparing all of it."""
        self._exits: dict[str, Exited] = {}
        self._dying: dict[str, str] = {}
        """Exit codes of containers that the Engine lists as running for a moment after it has said that they ended."""
        self._starved: set[str] = set()
        """Containers in which a process was killed for its memory."""
        self._logs = Logs()
        self._outages: deque[tuple[float, float]] = deque(maxlen=20)
        """When the Engine was away while we listened: Unix times of begin and end."""
        self._is_closed = False

    # The Engine.

    def _api(self) -> Any:
        """The client, made once; asks who the Engine is, also where it was away since. Raises RunnerUnavailable."""
        with self._lock:
            with _said():
                client = self._client or self._connected()
                if not self._is_known:
                    told = client.info()
                    self._engine, self._node = told["ID"], told["Name"]
                    self._tells_changes = told["Driver"] == "overlay2"
                    self._boot = None if client.trust_env else boot_id()
                    self._is_known = True
            if self._client is None:
                self._client = client
                threading.Thread(target=self._listen, args=(client,), name="docker-events", daemon=True).start()
            return client

    def _connected(self) -> Any:
        named = kwargs_from_env()
        _knock(named.get("base_url") or LOCAL)
        client = docker.APIClient(version="auto", timeout=CALL, **named)
        client.trust_env = not client.base_url.startswith("http+docker://")  # a socket has no proxy
        return client

    def _listen(self, client: Any) -> None:
        """Containers that end wake the engine; where the stream breaks, its own tick does."""
        filters = {"label": f"{INSTALLATION}={self.settings.installation}", "event": ["die", "oom"]}
        away_since = None
        while not self._is_closed:
            with contextlib.suppress(DockerException, requests.RequestException, OSError, ValueError):
                events = client.events(filters={**filters, "type": "container"}, decode=True)
                if away_since is not None:
                    self._outages.append((away_since, time.time()))
                    away_since = None
                self.wake()
                for event in events:
                    if event["Action"] == "oom":
                        self._starved.add(event["id"])
                        continue
                    self._dying[event["id"]] = event["Actor"]["Attributes"].get("exitCode", "")
                    self.wake()
            away_since, self._is_known = away_since or time.time(), False
            if not self._is_closed:
                threading.Event().wait(0.5)

    def check(self) -> None:
        with _said():
            self._api().ping()

    def close(self) -> None:
        self._is_closed = True
        self._logs.close()

    # Building.

    def build(self, spec: BuildSpec, log: BinaryIO, cancelled: Callable[[], bool]) -> str | None:
        with _said():
            return build_image(self._api(), spec, log, cancelled, {INSTALLATION: self.settings.installation})

    holds = "image"

    def held(self) -> dict[str, int]:
        with _said():
            return held_images(self._api(), {INSTALLATION: self.settings.installation})

    def held_by(self, artifact: str) -> str | None:
        told = json.loads(artifact)
        return str(told["image"]) if told["image"] != told["name"] else None

    def drop(self, name: str) -> None:
        with _said():
            client = self._api()
            try:
                with _fine_if_over():
                    client.remove_image(name)
            except APIError:  # gone meanwhile, which the Engine tells in several ways
                if inspected(client, name) is not None:
                    raise

    # Starting.

    def start(self, spec: JobSpec, artifact: str | None) -> str:
        with _said(), self._records.alone(spec.uuid) as record:
            self._api()
            known = record.read_text() if record.exists() else None
            if known is not None:
                self._begin(self._api(), json.loads(known)["id"], record)
                return known
            client, image = self._api(), image_of(spec, artifact)
            here = inspected(client, image)
            may_be_outdated = artifact is not None and not spec.is_pinned
            why = outdated(client, str(artifact), here) if may_be_outdated else None
            makes_folders = is_root(here) and not (spec.code or spec.inputs)
            launch = LAUNCH_IN_NEW_FOLDERS if makes_folders else LAUNCH
            try:
                identity = None if why else self._create(client, spec, image, launch)
            except StartFailed as error:
                if may_be_outdated and error.reason is Reason.IMAGE:  # it went just now
                    raise Outdated(GONE) from None
                raise
            if identity is None:
                found = self._found(client, spec)
                if found is not None:
                    write(record, self._handle(spec.uuid, found))
                    return self._handle(spec.uuid, found)
                if why is not None:
                    raise Outdated(why)
                identity = self._create(client, spec, image, launch)
                if identity is None:
                    raise RunnerUnavailable(f"The name {spec.name} is taken by a container that goes just now.")
            if not makes_folders:
                self._put(client, identity, files_of(spec))
            write(record, self._handle(spec.uuid, identity))
            self._begin(client, identity, record, is_new=True)
            return self._handle(spec.uuid, identity)

    def _begin(self, client: Any, identity: str, record: Path, is_new: bool = False) -> None:
        """Start a container that is recorded, unless it has run or is gone; a crash may have come before the start."""
        if not identity:
            return
        try:
            if is_new or client.inspect_container(identity)["State"]["Status"] == "created":
                client.start(identity)
        except NotFound as error:
            if "No such container" not in str(error.explanation):
                self._give_up(client, identity, record, error)
        except APIError as error:
            if not _is_fault_of_the_job(error):
                raise
            self._give_up(client, identity, record, error)

    def _give_up(self, client: Any, identity: str, record: Path, error: APIError) -> NoReturn:
        client.remove_container(identity, force=True, v=True)
        record.unlink()
        raise _start_failed(error) from None

    def _found(self, client: Any, spec: JobSpec) -> str | None:
        """The id of a container of this job that has run, whose record was lost; one that a crash left half-made is
        removed, for it never ran."""
        try:
            found = client.inspect_container(spec.name)
        except NotFound:
            return None
        labels = found["Config"]["Labels"] or {}
        if labels.get(INSTALLATION) != self.settings.installation:
            raise StartFailed(f"A container named {spec.name} is there, and is not of this polyjob.")
        if found["State"]["Status"] != "created":
            return str(found["Id"])
        client.remove_container(spec.name, force=True, v=True)
        return None

    def _create(self, client: Any, spec: JobSpec, image: str, launch: str) -> str | None:
        """The new container's id; None where there is one of that name. Raises StartFailed, APIError."""
        name, value = mark(spec.uuid)
        own = {"PYTHONUNBUFFERED": "1", name: value, "POLYAXON_RUN_OUTPUTS_PATH": OUTPUTS, "POLYAXON_LOGS_PATH": LOGS}
        environment = {**spec.env, **own, "TINI_KILL_PROCESS_GROUP": "1"}
        config = client.create_container_config(
            image=image,
            entrypoint=[SHELL, "-c", launch, "sh"],
            command=[spec.cmd],
            environment=environment,
            working_dir=FOLDER,
            labels={INSTALLATION: spec.installation, JOB: spec.uuid},
            host_config=host_config(client, spec),
        )
        try:
            return str(client.create_container_from_config(config, spec.name)["Id"])
        except NotFound as error:
            raise StartFailed(f"The image `{image}` is not there: {error.explanation}", Reason.IMAGE) from None
        except APIError as error:
            if not _is_fault_of_the_job(error):
                raise
            if error.status_code == CONFLICT:
                return None
            raise _start_failed(error) from None

    def _put(self, client: Any, identity: str, pieces: Iterator[bytes]) -> None:
        with tempfile.TemporaryFile(dir=self._folder) as file:
            for piece in pieces:
                file.write(piece)
            file.seek(0)
            url = client._url("/containers/{0}/archive", identity)
            client._raise_for_status(client.put(url, params={"path": "/"}, data=file, timeout=TRANSFER))

    # Watching.

    def poll(self, handles: Sequence[str]) -> dict[str, State]:
        if not handles:
            return {}
        with _said():
            listed = {item["Id"]: item for item in self._list()}
            return {
                handle: state for handle in handles if (state := self._state(json.loads(handle), listed)) is not None
            }

    def _state(self, handle: dict[str, Any], listed: Mapping[str, Any]) -> State | None:
        identity = handle["id"]
        if not identity:
            return Missing()
        if handle["engine"] != self._engine:
            return Unknown(ANOTHER_ENGINE)
        item = listed.get(identity)
        if item is None:
            with contextlib.suppress(NotFound):
                self._api().inspect_container(identity)
                return None
            return Missing()
        if item["State"] == "created":
            return Pending()
        code = self._dying.get(identity)
        if identity not in self._exits and (code is not None or item["State"] in ENDED):
            ended = self._ended(identity, handle, code)
            if ended is not None:
                self._exits[identity] = ended
        if identity in self._exits:
            return self._exits[identity]
        return None if item["State"] in (*ENDED, "removing") else Running(self._node)

    def _ended(self, identity: str, handle: Mapping[str, Any], code: str | None) -> Exited | None:
        """How it did, where it has; `code` is what the Engine said as it ended. The first end counts, also where
        somebody has started the container again since."""
        if code == "0" and identity not in self._starved:
            return Exited(Exit(Reason.EXITED, code=0), self._node)
        state = self._api().inspect_container(identity)["State"]  # waits for an end that was told
        if state["Status"] not in ENDED:
            if not code or not state["Running"]:
                return None
            state["ExitCode"] = int(code)
        if state["ExitCode"] == NO_COMMAND and self._api().logs(identity, tail=2).startswith(NOT_BEGUN):
            return Exited(Exit(Reason.START, code=NO_COMMAND, message=NO_SHELL), self._node)
        has_rebooted = self._boot is not None and handle["boot"] != self._boot
        end = exit_of(state, boot_time() if has_rebooted else None)
        if end.reason is Reason.SIGNALLED and end.signal in (signal.SIGTERM, signal.SIGKILL):
            end = dataclasses.replace(end, message=end.message or self._who_ended(handle["uuid"], state))
        return Exited(end, self._node)

    def _who_ended(self, uuid: str, state: Mapping[str, Any]) -> str | None:
        """Of a job that TERM or KILL has ended; None where we sent it."""
        if (self._folder / f"{uuid}.stop").exists():
            return None
        if self._was_away(moment_of(state["FinishedAt"])):
            return "The Docker Engine was stopped or restarted, and ended the job"
        return "Not by polyjob: the job itself, somebody else, or the Docker Engine as it was stopped"

    def _was_away(self, moment: float) -> bool:
        return any(begin - 1.0 <= moment <= end for begin, end in self._outages)

    def _list(self) -> list[dict[str, Any]]:
        filters = {"label": f"{INSTALLATION}={self.settings.installation}"}
        found: list[dict[str, Any]] = self._api().containers(all=True, filters=filters)
        return [item for item in found if JOB in item["Labels"]]

    def inventory(self) -> dict[str, str]:
        with _said():
            there = {item["Labels"][JOB]: self._handle(item["Labels"][JOB], item["Id"]) for item in self._list()}
            return there | {uuid: text for uuid, text in self._records.old() if not json.loads(text)["id"]}

    # Ending.

    def stop(self, handle: str, force: bool) -> None:
        identity = self._mine(handle)
        if identity:
            with _said(), _fine_if_over():
                self._folder.joinpath(f"{json.loads(handle)['uuid']}.stop").touch()
                self._api().kill(identity, signal.SIGKILL if force else signal.SIGTERM)

    def clean(self, handle: str) -> None:
        identity = self._mine(handle)
        if identity:
            with _said(), _fine_if_over():
                self._api().remove_container(identity, force=True, v=True)
        self._exits.pop(identity, None)
        self._dying.pop(identity, None)
        self._starved.discard(identity)
        self._logs.forget(identity)
        self._records.remove(json.loads(handle)["uuid"], ".stop")

    def fence(self, uuid: str) -> str | None:
        with _said(), self._records.alone(uuid) as record:
            self._api()
            found = record.read_text() if record.exists() else self.inventory().get(uuid)
            identity = json.loads(found)["id"] if found else ""
            if not identity or self._remove_what_never_ran(identity):
                found = None
            write(record, found or self._handle(uuid, ""))
            return found

    def _remove_what_never_ran(self, identity: str) -> bool:
        """Whether it was such a container."""
        try:
            if self._api().inspect_container(identity)["State"]["Status"] != "created":
                return False
            self._api().remove_container(identity, v=True)
        except NotFound:
            return False
        return True

    # Files.

    def logs(self, handle: str, cursor: str | None, limit: int) -> tuple[bytes, str | None]:
        identity = self._mine(handle)
        with _said(), _gone():
            data, position = self._logs.read(self._api(), identity or "none", LogCursor.read(cursor), limit, TRANSFER)
        return data, position.text() if data else cursor

    def outputs(self, handle: str) -> Iterator[bytes]:
        identity = self._mine(handle)
        with _said(), _gone():
            client, container = self._api(), identity or "none"
            kind = kind_of(client, container, OUTPUTS, TRANSFER)
            if kind is None:
                return
            is_folder = kind == "folder"
            if is_folder and self._tells_changes and has_nothing_in(client, container, OUTPUTS, TRANSFER):
                return
            root = None if is_folder else "."
            url = client._url("/containers/{0}/archive", container)
            with client.get(url, params={"path": OUTPUTS}, stream=True, timeout=TRANSFER) as answer:
                client._raise_for_status(answer)
                yield from renamed(answer.iter_content(1 << 16), lambda name: below(name, 1) or root)
                yield END_OF_ARCHIVE

    # Records.

    def _mine(self, handle: str) -> str:
        """The container's id; nothing for a start that was fenced. Raises RunnerUnavailable for another Engine's."""
        told = json.loads(handle)
        self._api()
        if told["id"] and told["engine"] != self._engine:
            raise RunnerUnavailable(ANOTHER_ENGINE)
        return str(told["id"])

    def _handle(self, uuid: str, identity: str) -> str:
        return json.dumps({"v": 1, "uuid": uuid, "id": identity, "engine": self._engine, "boot": self._boot})


# The Engine.


def _knock(url: str) -> None:
    """Raises OSError where nobody listens at a socket of this machine, and RunnerUnavailable where this account may not
    speak to it."""
    if url.startswith("unix://"):
        path = url.removeprefix("unix://")
        with socket.socket(socket.AF_UNIX) as door:
            door.settimeout(CALL)
            try:
                door.connect(path)
            except PermissionError:
                raise RunnerUnavailable(
                    f"The Docker Engine at {path} does not let this account in. {HOW_TO_GET_IN}"
                ) from None
            except OSError as error:
                raise OSError(f"nobody answers at {path} ({error.strerror or error})") from None


def _is_fault_of_the_job(error: APIError) -> bool:
    """Whether the same start would be refused each time."""
    text = str(error.explanation)
    if not error.is_server_error():
        return True
    return any(word in text for word in FAULTS_OF_THE_JOB) and not any(word in text for word in FAULTS_OF_THE_MACHINE)


def _start_failed(error: APIError) -> StartFailed:
    text = str(error.explanation or error)
    return StartFailed(f"The Docker Engine refused to start the job: {text}")


@contextlib.contextmanager
def _said() -> Iterator[None]:
    """Whatever the client raises, in the contract's words."""
    try:
        yield
    except (APIError, DockerException, requests.RequestException, OSError) as error:
        if isinstance(error, APIError):
            raise RunnerUnavailable(f"The Docker Engine answers: {error.explanation or error}") from None
        raise RunnerUnavailable(f"The Docker Engine cannot be reached: {error}. {HOW_TO_GET_ONE}") from None


@contextlib.contextmanager
def _gone() -> Iterator[None]:
    try:
        yield
    except NotFound:
        raise Gone("The container is not there any more.") from None


@contextlib.contextmanager
def _fine_if_over() -> Iterator[None]:
    """Gone, not running, or being removed already."""
    try:
        yield
    except APIError as error:
        if error.status_code not in (404, 409):
            raise
