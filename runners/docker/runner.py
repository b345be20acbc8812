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
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import requests
from docker.errors import APIError, DockerException, NotFound

from runners.base import (
    ArtifactMissing,
    BuildSpec,
    Exit,
    Exited,
    JobSpec,
    Missing,
    Pending,
    Reason,
    RemoteRunner,
    RunnerRefused,
    RunnerSettings,
    RunnerUnavailable,
    Running,
    StartFailed,
    State,
    Unknown,
    marker_variable,
)
from runners.common.dockerfile import FOLDER
from runners.common.ledger import Records, write
from runners.common.tarstream import END_OF_ARCHIVE, below, renamed
from runners.docker.builds import build_image
from runners.docker.containers import (
    LAUNCH,
    LAUNCH_IN_NEW_FOLDERS,
    LOGS,
    NO_GPUS,
    OUTPUTS,
    SHELL,
    boot_time,
    exit_of,
    files_of,
    gives_gpus,
    has_nothing_in,
    host_config,
    ignored_limits,
    is_root,
    kind_of,
    link_in_place,
    moment_of,
    never_began,
    proxies_beside,
)
from runners.docker.engine import (
    AMBIGUOUS,
    ANOTHER_ENGINE,
    ENGINE,
    INSTALLATION,
    JOB,
    TRANSFER_SECONDS,
    Facts,
    connect,
    contract_errors,
    look_up,
    own_ulimits,
    reading,
    refusal,
    state_of,
    text_of,
    unless,
    usable,
)
from runners.docker.images import MISSING, find, held_images, image_of, inspected, outdated, remove_image, tag_of
from runners.docker.logs import LogCursor, Logs
from runners.machine_faults import is_machine_fault

ENDED = ("exited", "stopped", "dead")
"""States of a container that does not run any more."""
SHM_BYTES = 1 << 30
"""Of `/dev/shm` of a job without a memory limit, unless the settings say otherwise."""
RLIMIT = "rlimit"
"""What an Engine says of limits that its machine does not let it set."""


class DockerRunner(RemoteRunner):
    """See the module."""

    def __init__(self, settings: RunnerSettings, wake: Callable[[], None]) -> None:
        super().__init__(settings, wake)
        self._folder = Path(settings.data_dir) / "docker"
        self._records = Records(self._folder)
        self._lock = threading.Lock()
        self._client: Any = None
        self._facts: Facts | None = None
        self._is_known = False
        """Nothing has happened since that could have put another Engine in its place."""
        self._ulimits: Sequence[Any] = ()
        """Limits of open files and processes, for an Engine that asks for more than its machine allows."""
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
        """The client, made once; asks who the Engine is, also after it was away. Raises RunnerUnavailable."""
        with self._lock:
            with contract_errors():
                client = self._client or connect()
                if not self._is_known:
                    self._facts, self._ulimits = look_up(client, self.settings.installation), ()
                    self._is_known = True
            if self._client is None:
                self._client = client
                threading.Thread(target=self._listen, args=(client,), name="docker-events", daemon=True).start()
            return client

    @property
    def _engine(self) -> Facts:
        """What is known of the Engine; `_api` comes first."""
        assert self._facts is not None
        return self._facts

    def _listen(self, client: Any) -> None:
        """Containers that end wake the engine; where the stream breaks, its own tick does."""
        filters = {"label": f"{INSTALLATION}={self.settings.installation}", "type": "container"}
        away_since = None
        while not self._is_closed:
            with contextlib.suppress(DockerException, requests.RequestException, OSError, ValueError):
                events = client.events(filters=filters, decode=True)
                if away_since is not None:
                    self._outages.append((away_since, time.time()))
                    away_since = None
                self.wake()
                for event in events:
                    self._hear(event)
            away_since, self._is_known = away_since or time.time(), False
            if not self._is_closed:
                threading.Event().wait(0.5)

    def _hear(self, event: Mapping[str, Any]) -> None:
        """Events are chosen here: an Engine that does not know the name of one sends none at all if asked for it."""
        if event["Action"] == "oom":
            self._starved.add(event["id"])
        elif event["Action"] == "die":
            self._dying[event["id"]] = event["Actor"]["Attributes"].get("exitCode", "")
            self.wake()

    def check(self) -> None:
        with contract_errors():
            self._api().ping()

    def probe(self) -> None:
        with contract_errors():
            client = connect()
            try:
                usable(client)
            finally:
                client.close()

    def close(self) -> None:
        self._is_closed = True
        self._logs.close()

    # Building.

    def build(self, spec: BuildSpec, log: BinaryIO, cancelled: Callable[[], bool]) -> str | None:
        with contract_errors():
            return build_image(self._api(), spec, log, cancelled, {INSTALLATION: self.settings.installation})

    artifact_kind = "image"

    def cached_artifacts(self) -> dict[str, int]:
        with contract_errors():
            return held_images(self._api(), {INSTALLATION: self.settings.installation})

    def artifact_name(self, artifact: str) -> str | None:
        return tag_of(artifact)

    def remove_artifact(self, name: str) -> None:
        with contract_errors():
            remove_image(self._api(), name)

    # Starting.

    def start(self, spec: JobSpec, artifact: str | None) -> str:
        with contract_errors(), self._records.alone(spec.uuid) as record:
            client = self._api()
            try:
                return self._started(client, record) or self._start(client, spec, artifact, record)
            except RunnerRefused as error:
                if RLIMIT not in str(error) or self._ulimits:
                    raise
                self._ulimits = own_ulimits(client)
                return self._start(client, spec, artifact, record)

    def _started(self, client: Any, record: Path) -> str | None:
        """The recorded handle, its container having been started; None if nothing is recorded."""
        if not record.exists():
            return None
        handle = record.read_text()
        self._begin(client, json.loads(handle)["id"], record)
        return handle

    def _start(self, client: Any, spec: JobSpec, artifact: str | None, record: Path) -> str:
        """Start a job of which nothing is recorded."""
        image = image_of(client, artifact) if artifact else _image_named(client, spec.image)
        may_be_outdated = artifact is not None and not spec.is_pinned
        reason = outdated(client, str(artifact), image) if may_be_outdated else None
        if image is None and not may_be_outdated:
            raise StartFailed(_no_image(spec, artifact), Reason.IMAGE)
        makes_folders = image is not None and is_root(image) and not (spec.upload or spec.inputs)
        config = None if reason or image is None else self._config(client, spec, image, makes_folders)
        created = self._create(client, spec, config)
        if created is None:
            existing = self._adopted(client, spec)
            if existing is not None:
                write(record, self._handle(spec, existing))
                return self._handle(spec, existing)
            if reason is not None or config is None:
                raise ArtifactMissing(reason or MISSING)
            created = self._create(client, spec, config)
            if created is None:
                raise RunnerUnavailable(f"The name {spec.name} is taken by a container that is being removed.")
        identity, warnings = str(created["Id"]), created.get("Warnings") or ()
        with self._nothing_left(client, identity, record):
            if spec.resources.gpus and not gives_gpus(client, identity):
                client.remove_container(identity, force=True, v=True)
                raise StartFailed(NO_GPUS)
            if not makes_folders:
                self._put(client, identity, files_of(spec))
        handle = self._handle(spec, identity, warnings)
        write(record, handle)
        self._begin(client, identity, record, is_new=True)
        return handle

    def _begin(self, client: Any, identity: str, record: Path, is_new: bool = False) -> None:
        """Start a container that is recorded, unless it has run or is gone; a crash may have come before the start."""
        if not identity:
            return
        state = {"Status": "created"} if is_new else state_of(client, identity)
        if state is not None and state["Status"] == "created":
            with self._nothing_left(client, identity, record), unless(lambda: state_of(client, identity) is None):
                client.start(identity)

    @contextlib.contextmanager
    def _nothing_left(self, client: Any, identity: str, record: Path) -> Iterator[None]:
        """Remove a container that the Engine refuses to start. Raises StartFailed, RunnerRefused."""
        try:
            yield
        except APIError as error:
            refused = refusal(error)
            is_of_network = isinstance(error, NotFound) or AMBIGUOUS in text_of(error)
            if refused is None and not is_of_network:
                raise
            client.remove_container(identity, force=True, v=True)
            record.unlink(missing_ok=True)
            self._is_known = False  # our network may be gone, or there twice
            raise refused or error from None

    def _adopted(self, client: Any, spec: JobSpec) -> str | None:
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

    def _config(self, client: Any, spec: JobSpec, image: Mapping[str, Any], makes_folders: bool) -> Any:
        """The new container. The image is named by its id: a tag may be another image's by now."""
        name, value = marker_variable(spec.uuid)
        own = {"PYTHONUNBUFFERED": "1", name: value, "POLYAXON_RUN_OUTPUTS_PATH": OUTPUTS, "POLYAXON_LOGS_PATH": LOGS}
        proxies = proxies_beside(client, spec.env)
        launch = LAUNCH_IN_NEW_FOLDERS if makes_folders else LAUNCH
        shm_bytes = int(self.settings.options.get("docker_shm", SHM_BYTES))
        return client.create_container_config(
            image=image["Id"],
            entrypoint=[SHELL, "-c", launch, "sh"],
            command=[spec.cmd],
            environment={**proxies, **spec.env, **own, "TINI_KILL_PROCESS_GROUP": "1"},
            working_dir=FOLDER,
            healthcheck={"test": ["NONE"]},
            labels={INSTALLATION: spec.installation, JOB: spec.uuid, ENGINE: self._engine.mark},
            host_config=host_config(client, spec, self._engine, shm_bytes, self._ulimits),
        )

    def _create(self, client: Any, spec: JobSpec, config: Any) -> dict[str, Any] | None:
        """What the Engine says of the new container; None if there is one of that name or nothing to create. Raises
        ArtifactMissing, StartFailed, RunnerRefused, APIError."""
        if config is None:
            return None
        try:
            created: dict[str, Any] = client.create_container_from_config(config, spec.name)
            return created
        except APIError as error:
            if state_of(client, spec.name) is not None:
                return None
            if inspected(client, config["Image"]) is None:  # it was removed just now
                gone = StartFailed(f"The job cannot start: {MISSING}.", Reason.IMAGE)
                raise gone if spec.is_pinned else ArtifactMissing(MISSING) from None
            refused = refusal(error)
            if refused is None:
                raise
            raise refused from None

    def _put(self, client: Any, identity: str, pieces: Iterator[bytes]) -> None:
        with tempfile.TemporaryFile(dir=self._folder) as file:
            for piece in pieces:
                file.write(piece)
            file.seek(0)
            url = client._url("/containers/{0}/archive", identity)
            client._raise_for_status(client.put(url, params={"path": "/"}, data=file, timeout=TRANSFER_SECONDS))

    # Watching.

    def poll(self, handles: Sequence[str]) -> dict[str, State]:
        if not handles:
            return {}
        with contract_errors():
            listed = {item["Id"]: item for item in self._list()}
            states = {handle: self._state_or_unknown(json.loads(handle), listed) for handle in handles}
            return {handle: state for handle, state in states.items() if state is not None}

    def _state_or_unknown(self, handle: dict[str, Any], listed: Mapping[str, Any]) -> State | None:
        """The state of one job; a refusal that concerns its container alone says nothing of the other jobs."""
        try:
            return self._state(handle, listed)
        except APIError as error:
            return Unknown(f"The Docker Engine answers: {text_of(error)}")

    def _state(self, handle: dict[str, Any], listed: Mapping[str, Any]) -> State | None:
        identity = handle["id"]
        if not identity:
            return Missing()
        item = listed.get(identity)
        if item is None:
            if not self._engine.has(handle):
                return Unknown(ANOTHER_ENGINE)
            return Missing() if state_of(self._api(), identity) is None else None
        if item["State"] == "created":
            return Pending()
        code = self._dying.get(identity)
        if identity not in self._exits and (code is not None or item["State"] in ENDED):
            ended = self._ended(identity, handle, code)
            if ended is not None:
                self._exits[identity] = ended
        if identity in self._exits:
            return self._exits[identity]
        is_between = item["State"] in (*ENDED, "removing")
        return None if is_between else Running(self._engine.node, handle.get("note"))

    def _ended(self, identity: str, handle: Mapping[str, Any], code: str | None) -> Exited | None:
        """How it did, where it has; `code` is what the Engine said as it ended. The first end counts, also where
        somebody has started the container again since."""
        node, note = self._engine.node, handle.get("note")
        if code == "0" and identity not in self._starved:
            return Exited(Exit(Reason.EXITED, code=0, message=note), node)
        container = self._api().inspect_container(identity)  # waits for an end that was told
        state = container["State"]
        if state["Status"] not in ENDED:
            if not code or not state["Running"]:
                return None
            state["ExitCode"] = int(code)
        if state["ExitCode"]:
            message = self._why_never_began(identity, container["Image"])
            if message is not None:
                return Exited(Exit(Reason.START, code=state["ExitCode"], message=message), node)
        has_rebooted = self._engine.boot is not None and handle["boot"] != self._engine.boot
        end = exit_of(state, boot_time() if has_rebooted else None)
        if end.reason is Reason.SIGNALLED and end.signal in (signal.SIGTERM, signal.SIGKILL):
            is_bounded = end.signal == signal.SIGKILL and bool(container["HostConfig"].get("Memory"))
            end = dataclasses.replace(end, message=end.message or self._who_ended(handle["uuid"], state, is_bounded))
        return Exited(dataclasses.replace(end, message=end.message or note), node)

    def _why_never_began(self, identity: str, image: str) -> str | None:
        """None also if the Engine does not give the log, which would say it: that must not keep the job from ending."""
        try:
            found = inspected(self._api(), image)
            return never_began(self._api(), identity, found, self._engine, TRANSFER_SECONDS)
        except APIError as error:
            if is_machine_fault(text_of(error)):
                raise
            return None

    def _who_ended(self, uuid: str, state: Mapping[str, Any], is_bounded: bool) -> str | None:
        """Of a job that TERM or KILL has ended; None where we sent it. `is_bounded`: the kernel may have done it, as
        not every Engine tells."""
        if (self._folder / f"{uuid}.stop").exists():
            return None
        if self._was_away(moment_of(state["FinishedAt"])):
            return "The Docker Engine was stopped or restarted, and ended the job"
        kernel = "the kernel for the job's memory limit, " if is_bounded else ""
        return f"Not by polyjob: {kernel}the job itself, somebody else, or the Docker Engine as it was stopped"

    def _was_away(self, moment: float) -> bool:
        return any(begin - 1.0 <= moment <= end for begin, end in self._outages)

    def _list(self) -> list[dict[str, Any]]:
        filters = {"label": f"{INSTALLATION}={self.settings.installation}"}
        found: list[dict[str, Any]] = self._api().containers(all=True, filters=filters)
        return [item for item in found if JOB in item["Labels"]]

    def inventory(self) -> dict[str, str]:
        with contract_errors():
            there = {item["Labels"][JOB]: self._listed(item["Labels"][JOB], item["Id"]) for item in self._list()}
            return there | {uuid: text for uuid, text in self._records.old() if not json.loads(text)["id"]}

    def _listed(self, uuid: str, identity: str) -> str:
        """The handle of a container; that of `start` where it is recorded."""
        recorded = self._records.read(uuid)
        is_same = recorded is not None and json.loads(recorded)["id"] == identity
        return str(recorded) if is_same else self._handle_of(uuid, identity)

    # Ending.

    def stop(self, handle: str, force: bool) -> None:
        identity = self._own_id(handle)
        if identity:
            with contract_errors(), unless(lambda: self._has_ended(identity)):
                self._folder.joinpath(f"{json.loads(handle)['uuid']}.stop").touch()
                self._api().kill(identity, signal.SIGKILL if force else signal.SIGTERM)

    def _has_ended(self, identity: str) -> bool:
        state = state_of(self._api(), identity)
        return state is None or not state["Running"]

    def clean(self, handle: str) -> None:
        identity = self._own_id(handle)
        if identity:
            with contract_errors(), unless(lambda: self._is_going(identity)):
                self._api().remove_container(identity, force=True, v=True)
        self._exits.pop(identity, None)
        self._dying.pop(identity, None)
        self._starved.discard(identity)
        self._logs.forget(identity)
        self._records.remove(json.loads(handle)["uuid"], ".stop")

    def _is_going(self, identity: str) -> bool:
        state = state_of(self._api(), identity)
        return state is None or state["Status"] == "removing"

    def prevent_start(self, uuid: str) -> str | None:
        with contract_errors(), self._records.alone(uuid) as record:
            self._api()
            found = record.read_text() if record.exists() else self.inventory().get(uuid)
            identity = json.loads(found)["id"] if found else ""
            if not identity or self._remove_what_never_ran(identity):
                found = None
            write(record, found or self._handle_of(uuid, ""))
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
        identity = self._own_id(handle) or "none"
        with contract_errors(), reading(self._api(), identity, "the log"):
            position = LogCursor.read(cursor)
            data, position = self._logs.read(self._api(), identity, position, limit, TRANSFER_SECONDS)
        return data, position.text() if data else cursor

    def outputs(self, handle: str) -> Iterator[bytes]:
        container = self._own_id(handle) or "none"
        with contract_errors(), reading(self._api(), container, "the outputs"):
            client = self._api()
            kind = kind_of(client, container, OUTPUTS, TRANSFER_SECONDS)
            if kind is None:
                return
            if kind == "link":
                yield from link_in_place()
                return
            is_folder = kind == "folder"
            if (
                is_folder
                and self._engine.lists_changes
                and has_nothing_in(client, container, OUTPUTS, TRANSFER_SECONDS)
            ):
                return
            root = None if is_folder else "."
            url = client._url("/containers/{0}/archive", container)
            with client.get(url, params={"path": OUTPUTS}, stream=True, timeout=TRANSFER_SECONDS) as answer:
                client._raise_for_status(answer)
                yield from renamed(answer.iter_content(1 << 16), lambda name: below(name, 1) or root)
                yield END_OF_ARCHIVE

    # Records.

    def _own_id(self, handle: str) -> str:
        """The container's id; empty for a start that was prevented. Raises RunnerUnavailable for another Engine's."""
        fields = json.loads(handle)
        self._api()
        if fields["id"] and not self._engine.has(fields):
            raise RunnerUnavailable(ANOTHER_ENGINE)
        return str(fields["id"])

    def _handle(self, spec: JobSpec, identity: str, warnings: Sequence[str] = ()) -> str:
        """The handle of a job's container; the limits that the Engine has not set become a note of the running job."""
        said = [f"The Docker Engine warns: {text}" for text in warnings]
        return self._handle_of(spec.uuid, identity, " ".join([*ignored_limits(spec, self._engine), *said]))

    def _handle_of(self, uuid: str, identity: str, note: str = "") -> str:
        engine = self._engine
        fields = {"v": 2, "uuid": uuid, "id": identity, "engine": engine.mark, "boot": engine.boot}
        return json.dumps(fields | ({"note": note} if note else {}))


def _image_named(client: Any, name: str | None) -> dict[str, Any] | None:
    if not name:
        raise StartFailed("A job in a container needs an image: set `build.image`.", Reason.IMAGE)
    return find(client, name)


def _no_image(spec: JobSpec, artifact: str | None) -> str:
    if artifact is None:
        return f"The image `{spec.image}` is not there."
    return f"The image of its build, `{json.loads(artifact)['image']}`, is not there any more."
