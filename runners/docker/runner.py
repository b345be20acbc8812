"""Jobs in containers of a Docker Engine, on this machine or another. Only the Engine's API is used; no file is shared.

A container has the job's fixed name, and labels by which it is found and adopted. Every start is recorded in the
runner's own folder, `<data>/docker/<job uuid>`, under a lock. So a job whose container somebody has removed is
`Missing` and never runs again, and a container that has exited is never started a second time.
"""

from __future__ import annotations

import contextlib
import json
import signal
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from docker.errors import APIError, NotFound

from runners.base import (
    ArtifactMissing,
    BuildSpec,
    JobSpec,
    Reason,
    RemoteRunner,
    RunnerRefused,
    RunnerSettings,
    RunnerUnavailable,
    StartFailed,
    State,
    marker_variable,
)
from runners.common.dockerfile import WORKING_FOLDER
from runners.common.ledger import Ledger, write_record
from runners.common.tar_names import path_below
from runners.common.tarstream import END_OF_TARBALL, rename_members
from runners.docker.builds import build_image
from runners.docker.connection import Connection
from runners.docker.containers import (
    GPUS_UNSUPPORTED,
    LAUNCH,
    LAUNCH_IN_NEW_FOLDERS,
    LOGS,
    OUTPUTS,
    SHELL,
    client_proxies,
    has_gpu_request,
    host_config,
    is_known_empty,
    job_files,
    link_tar,
    path_kind,
    runs_as_root,
    unsupported_limits,
)
from runners.docker.engine import (
    AMBIGUOUS_NETWORK,
    ANOTHER_ENGINE,
    ENGINE,
    INSTALLATION,
    JOB,
    TRANSFER_SECONDS,
    check_usable,
    connect,
    container_state,
    error_text,
    ignore_errors_if,
    start_error,
    translate_errors,
    translate_read_errors,
)
from runners.docker.images import (
    IMAGE_MISSING,
    cached_images,
    find_artifact,
    find_image,
    image_tag,
    inspect_image,
    remove_image,
    stale_reason,
)
from runners.docker.logs import LogCursor, LogReader
from runners.docker.states import ContainerStates

DEFAULT_SHM_BYTES = 1 << 30
"""Size of `/dev/shm` of a job without a memory limit, unless a setting changes it."""
RLIMIT_TEXT = "rlimit"
"""Text in an Engine's answer if its machine does not allow the limits of a container."""


class DockerRunner(RemoteRunner):
    """Runs each job in a container of the Docker Engine that DOCKER_HOST names."""

    def __init__(self, settings: RunnerSettings, wake: Callable[[], None]) -> None:
        super().__init__(settings, wake)
        self._folder = Path(settings.data_dir) / "docker"
        self._records = Ledger(self._folder)
        self._connection = Connection(settings.installation, wake)
        self._states = ContainerStates(self._connection, lambda uuid: self._stop_marker(uuid).exists())
        self._log_reader = LogReader()

    # The Engine.

    def check(self) -> None:
        with translate_errors():
            self._connection.client().ping()

    def probe(self) -> None:
        with translate_errors():
            client = connect()
            try:
                check_usable(client)
            finally:
                client.close()

    def close(self) -> None:
        self._connection.close()
        self._log_reader.close()

    # Building.

    def build(self, spec: BuildSpec, log: BinaryIO, cancelled: Callable[[], bool]) -> str | None:
        with translate_errors():
            return build_image(
                self._connection.client(), spec, log, cancelled, {INSTALLATION: self.settings.installation}
            )

    artifact_kind = "image"

    def cached_artifacts(self) -> dict[str, int]:
        with translate_errors():
            return cached_images(self._connection.client(), {INSTALLATION: self.settings.installation})

    def artifact_name(self, artifact: str) -> str | None:
        return image_tag(artifact)

    def remove_artifact(self, name: str) -> None:
        with translate_errors():
            remove_image(self._connection.client(), name)

    # Starting.

    def start(self, spec: JobSpec, artifact: str | None) -> str:
        with translate_errors(), self._records.locked(spec.uuid) as record:
            client = self._connection.client()
            try:
                return self._resume_start(client, record) or self._start(client, spec, artifact, record)
            except RunnerRefused as error:
                if RLIMIT_TEXT not in str(error) or self._connection.ulimits:
                    raise
                self._connection.lower_ulimits()
                return self._start(client, spec, artifact, record)

    def _resume_start(self, client: Any, record: Path) -> str | None:
        """Start the container of a recorded start, unless it has run, and return its handle; None without a record."""
        if not record.exists():
            return None
        handle = record.read_text()
        self._begin(client, json.loads(handle)["id"], record)
        return handle

    def _start(self, client: Any, spec: JobSpec, artifact: str | None, record: Path) -> str:
        """Start a job that has no record."""
        image = find_artifact(client, artifact) if artifact else _find_image(client, spec.image)
        may_be_stale = artifact is not None and not spec.is_pinned
        reason = stale_reason(client, str(artifact), image) if may_be_stale else None
        if image is None and not may_be_stale:
            raise StartFailed(_missing_image_message(spec, artifact), Reason.IMAGE)
        creates_folders = image is not None and runs_as_root(image) and not (spec.upload or spec.inputs)
        config = None if reason or image is None else self._config(client, spec, image, creates_folders)
        created = self._create(client, spec, config)
        if created is None:
            existing = self._adopt(client, spec)
            if existing is not None:
                write_record(record, self._handle(spec, existing))
                return self._handle(spec, existing)
            if reason is not None or config is None:
                raise ArtifactMissing(reason or IMAGE_MISSING)
            created = self._create(client, spec, config)
            if created is None:
                raise RunnerUnavailable(f"The name {spec.name} is taken by a container that is being removed.")
        container, warnings = str(created["Id"]), created.get("Warnings") or ()
        with self._removing_refused(client, container, record):
            if spec.resources.gpus and not has_gpu_request(client, container):
                client.remove_container(container, force=True, v=True)
                raise StartFailed(GPUS_UNSUPPORTED)
            if not creates_folders:
                self._put_files(client, container, job_files(spec))
        handle = self._handle(spec, container, warnings)
        write_record(record, handle)
        self._begin(client, container, record, is_new=True)
        return handle

    def _begin(self, client: Any, container: str, record: Path, is_new: bool = False) -> None:
        """Start a recorded container, unless it has run or is missing: a crash can come between record and start."""
        if not container:
            return
        state = {"Status": "created"} if is_new else container_state(client, container)
        if state is not None and state["Status"] == "created":
            is_missing = lambda: container_state(client, container) is None  # noqa: E731
            with self._removing_refused(client, container, record), ignore_errors_if(is_missing):
                client.start(container)

    @contextlib.contextmanager
    def _removing_refused(self, client: Any, container: str, record: Path) -> Iterator[None]:
        """Remove a container that the Engine refuses to start. Raises StartFailed, RunnerRefused."""
        try:
            yield
        except APIError as error:
            refused = start_error(error)
            concerns_network = isinstance(error, NotFound) or AMBIGUOUS_NETWORK in error_text(error)
            if refused is None and not concerns_network:
                raise
            client.remove_container(container, force=True, v=True)
            record.unlink(missing_ok=True)
            self._connection.identify_again()
            raise refused or error from None

    def _adopt(self, client: Any, spec: JobSpec) -> str | None:
        """Return the id of a container of this job that has run, but whose record was lost.

        A container that was created by a start that crashed has never run, and is removed.
        """
        try:
            container = client.inspect_container(spec.name)
        except NotFound:
            return None
        labels = container["Config"]["Labels"] or {}
        if labels.get(INSTALLATION) != self.settings.installation:
            raise StartFailed(f"There is a container named {spec.name} that does not belong to this polyjob.")
        if container["State"]["Status"] != "created":
            return str(container["Id"])
        client.remove_container(spec.name, force=True, v=True)
        return None

    def _config(self, client: Any, spec: JobSpec, image: Mapping[str, Any], creates_folders: bool) -> Any:
        """Return the configuration of the container. It names the image by id, because tags can move."""
        name, value = marker_variable(spec.uuid)
        own = {"PYTHONUNBUFFERED": "1", name: value, "POLYAXON_RUN_OUTPUTS_PATH": OUTPUTS, "POLYAXON_LOGS_PATH": LOGS}
        proxies = client_proxies(client, spec.env)
        launch = LAUNCH_IN_NEW_FOLDERS if creates_folders else LAUNCH
        shm_bytes = int(self.settings.options.get("docker_shm", DEFAULT_SHM_BYTES))
        engine, ulimits = self._connection.info, self._connection.ulimits
        return client.create_container_config(
            image=image["Id"],
            entrypoint=[SHELL, "-c", launch, "sh"],
            command=[spec.cmd],
            environment={**proxies, **spec.env, **own, "TINI_KILL_PROCESS_GROUP": "1"},
            working_dir=WORKING_FOLDER,
            healthcheck={"test": ["NONE"]},
            labels={INSTALLATION: spec.installation, JOB: spec.uuid, ENGINE: engine.identity},
            host_config=host_config(client, spec, engine, shm_bytes, ulimits),
        )

    def _create(self, client: Any, spec: JobSpec, config: Any) -> dict[str, Any] | None:
        """Create the container and return the Engine's answer.

        Returns None if the name is taken, and if there is no config. Raises ArtifactMissing, StartFailed,
        RunnerRefused, APIError.
        """
        if config is None:
            return None
        try:
            created: dict[str, Any] = client.create_container_from_config(config, spec.name)
            return created
        except APIError as error:
            if container_state(client, spec.name) is not None:
                return None
            if inspect_image(client, config["Image"]) is None:  # it has just been removed
                failed = StartFailed(f"The job cannot start: {IMAGE_MISSING}.", Reason.IMAGE)
                raise failed if spec.is_pinned else ArtifactMissing(IMAGE_MISSING) from None
            refused = start_error(error)
            if refused is None:
                raise
            raise refused from None

    def _put_files(self, client: Any, container: str, pieces: Iterator[bytes]) -> None:
        with tempfile.TemporaryFile(dir=self._folder) as file:
            for piece in pieces:
                file.write(piece)
            file.seek(0)
            url = client._url("/containers/{0}/archive", container)
            client._raise_for_status(client.put(url, params={"path": "/"}, data=file, timeout=TRANSFER_SECONDS))

    # Watching.

    def poll(self, handles: Sequence[str]) -> dict[str, State]:
        if not handles:
            return {}
        with translate_errors():
            listed = {item["Id"]: item for item in self._list()}
            states = {handle: self._states.state(json.loads(handle), listed) for handle in handles}
            return {handle: state for handle, state in states.items() if state is not None}

    def _list(self) -> list[dict[str, Any]]:
        filters = {"label": f"{INSTALLATION}={self.settings.installation}"}
        containers: list[dict[str, Any]] = self._connection.client().containers(all=True, filters=filters)
        return [item for item in containers if JOB in item["Labels"]]

    def inventory(self) -> dict[str, str]:
        with translate_errors():
            handles = {item["Labels"][JOB]: self._handle_of(item["Labels"][JOB], item["Id"]) for item in self._list()}
            return handles | {uuid: handle for uuid, handle in self._records.expired() if not json.loads(handle)["id"]}

    def _handle_of(self, uuid: str, container: str) -> str:
        """Return the handle of a listed container: the recorded one, if it has this container."""
        recorded = self._records.read(uuid)
        if recorded is not None and json.loads(recorded)["id"] == container:
            return recorded
        return self._new_handle(uuid, container)

    # Ending.

    def stop(self, handle: str, force: bool) -> None:
        container = self._own_container(handle)
        if container:
            with translate_errors(), ignore_errors_if(lambda: self._has_ended(container)):
                self._stop_marker(json.loads(handle)["uuid"]).touch()
                self._connection.client().kill(container, signal.SIGKILL if force else signal.SIGTERM)

    def _stop_marker(self, uuid: str) -> Path:
        """A file that exists once polyjob has sent a signal to the job."""
        return self._folder / f"{uuid}.stop"

    def _has_ended(self, container: str) -> bool:
        state = container_state(self._connection.client(), container)
        return state is None or not state["Running"]

    def clean(self, handle: str) -> None:
        container = self._own_container(handle)
        if container:
            with translate_errors(), ignore_errors_if(lambda: self._is_removed(container)):
                self._connection.client().remove_container(container, force=True, v=True)
        self._connection.forget(container)
        self._states.forget(container)
        self._log_reader.forget(container)
        self._records.remove(json.loads(handle)["uuid"], ".stop")

    def _is_removed(self, container: str) -> bool:
        state = container_state(self._connection.client(), container)
        return state is None or state["Status"] == "removing"

    def prevent_start(self, uuid: str) -> str | None:
        with translate_errors(), self._records.locked(uuid) as record:
            self._connection.client()
            handle = record.read_text() if record.exists() else self.inventory().get(uuid)
            container = json.loads(handle)["id"] if handle else ""
            if not container or self._remove_unstarted(container):
                handle = None
            write_record(record, handle or self._new_handle(uuid, ""))
            return handle

    def _remove_unstarted(self, container: str) -> bool:
        """Remove a container that has never run. Returns whether it was one."""
        try:
            if self._connection.client().inspect_container(container)["State"]["Status"] != "created":
                return False
            self._connection.client().remove_container(container, v=True)
        except NotFound:
            return False
        return True

    # Files.

    def logs(self, handle: str, cursor: str | None, limit: int) -> tuple[bytes, str | None]:
        container = self._own_container(handle) or "none"
        with translate_errors(), translate_read_errors(self._connection.client(), container, "the log"):
            position = LogCursor.read(cursor)
            data, position = self._log_reader.read(
                self._connection.client(), container, position, limit, TRANSFER_SECONDS
            )
        return data, position.text() if data else cursor

    def outputs(self, handle: str) -> Iterator[bytes]:
        container = self._own_container(handle) or "none"
        with translate_errors(), translate_read_errors(self._connection.client(), container, "the outputs"):
            client = self._connection.client()
            kind = path_kind(client, container, OUTPUTS, TRANSFER_SECONDS)
            if kind is None:
                return
            if kind == "link":
                yield from link_tar()
                return
            is_folder = kind == "folder"
            if (
                is_folder
                and self._connection.info.lists_changes
                and is_known_empty(client, container, OUTPUTS, TRANSFER_SECONDS)
            ):
                return
            root = None if is_folder else "."
            url = client._url("/containers/{0}/archive", container)
            with client.get(url, params={"path": OUTPUTS}, stream=True, timeout=TRANSFER_SECONDS) as answer:
                client._raise_for_status(answer)
                yield from rename_members(answer.iter_content(1 << 16), lambda name: path_below(name, 1) or root)
                yield END_OF_TARBALL

    # Handles.

    def _own_container(self, handle: str) -> str:
        """Return the container's id; an empty one for a start that was prevented.

        Raises RunnerUnavailable if the job is on another Engine.
        """
        fields = json.loads(handle)
        self._connection.client()
        if fields["id"] and not self._connection.info.owns(fields):
            raise RunnerUnavailable(ANOTHER_ENGINE)
        return str(fields["id"])

    def _handle(self, spec: JobSpec, container: str, warnings: Sequence[str] = ()) -> str:
        """Return the handle of a job's container, with a note on the limits that the Engine has not set."""
        notes = [f"The Docker Engine warns: {text}" for text in warnings]
        return self._new_handle(
            spec.uuid, container, " ".join([*unsupported_limits(spec, self._connection.info), *notes])
        )

    def _new_handle(self, uuid: str, container: str, note: str = "") -> str:
        engine = self._connection.info
        fields = {"v": 2, "uuid": uuid, "id": container, "engine": engine.identity, "boot": engine.boot}
        return json.dumps(fields | ({"note": note} if note else {}))


def _find_image(client: Any, name: str | None) -> dict[str, Any] | None:
    if not name:
        raise StartFailed("A job in a container needs an image: set `build.image`.", Reason.IMAGE)
    return find_image(client, name)


def _missing_image_message(spec: JobSpec, artifact: str | None) -> str:
    if artifact is None:
        return f"The image `{spec.image}` does not exist on the Docker Engine."
    return f"The image of its build, `{json.loads(artifact)['image']}`, does not exist any more."
