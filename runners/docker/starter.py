"""Starts jobs: creates their containers, or adopts those that earlier starts have created.

A start has three steps, so that a crash between any two of them cannot make a job run twice: create the container,
write its record, start it.
"""

from __future__ import annotations

import contextlib
import json
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from docker.errors import APIError, NotFound

from runners.base import (
    ArtifactMissing,
    JobSpec,
    Reason,
    RunnerRefused,
    RunnerSettings,
    RunnerUnavailable,
    StartFailed,
    inputs_variables,
    marker_variable,
    volume_variables,
)
from runners.common.dockerfile import WORKING_FOLDER
from runners.common.ledger import Ledger, write_record
from runners.docker.connection import Connection
from runners.docker.containers import (
    GPUS_UNSUPPORTED,
    INPUTS,
    LAUNCH,
    LAUNCH_IN_NEW_FOLDERS,
    LOGS,
    OUTPUTS,
    SHELL,
    client_proxies,
    has_gpu_request,
    host_config,
    job_files,
    runs_as_root,
    unsupported_limits,
)
from runners.docker.engine import (
    AMBIGUOUS_NETWORK,
    ENGINE,
    INSTALLATION,
    JOB,
    SECRETS,
    TRANSFER_SECONDS,
    container_state,
    error_text,
    ignore_errors_if,
    start_error,
)
from runners.docker.images import IMAGE_MISSING, find_artifact, find_image, inspect_image, stale_reason
from runners.docker.volumes import missing_volume, missing_volume_here

DEFAULT_SHM_BYTES = 1 << 30
"""Size of `/dev/shm` of a job without a memory limit, unless a setting changes it."""
RLIMIT_TEXT = "rlimit"
"""Text in an Engine's answer if its machine does not allow the limits of a container."""


class ContainerStarter:
    """Starts the jobs of one runner. A job's record is locked meanwhile."""

    def __init__(self, connection: Connection, records: Ledger, settings: RunnerSettings) -> None:
        self._connection = connection
        self._records = records
        self._settings = settings

    def start(self, spec: JobSpec, artifact: str | None) -> str:
        """Start a job, as `Runner.start` does. Raises what the client raises, too."""
        with self._records.locked(spec.uuid) as record:
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
        has_files = bool(spec.upload or spec.inputs or spec.job_outputs)
        creates_folders = image is not None and runs_as_root(image) and not has_files
        fault = missing_volume_here(spec) if self._connection.info.shares_files else None
        config = None if reason or fault or image is None else self._config(client, spec, image, creates_folders)
        created = self._create(client, spec, config)
        if created is None:
            existing = self._adopt(client, spec)
            if existing is not None:
                write_record(record, self._handle(spec, existing))
                return self._handle(spec, existing)
            if fault is not None:
                raise StartFailed(fault)
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
                self._copy_files(client, container, job_files(spec))
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
        if labels.get(INSTALLATION) != self._settings.installation:
            raise StartFailed(f"There is a container named {spec.name} that does not belong to this polyjob.")
        if container["State"]["Status"] != "created":
            return str(container["Id"])
        client.remove_container(spec.name, force=True, v=True)
        return None

    def _config(self, client: Any, spec: JobSpec, image: Mapping[str, Any], creates_folders: bool) -> Any:
        """Return the configuration of the container. It names the image by id, because tags can move."""
        name, value = marker_variable(spec.uuid)
        own = {"PYTHONUNBUFFERED": "1", name: value, "POLYAXON_RUN_OUTPUTS_PATH": OUTPUTS, "POLYAXON_LOGS_PATH": LOGS}
        own |= volume_variables({volume.name: volume.mount_path for volume in spec.volumes})
        own |= inputs_variables(INPUTS, [outputs.name for outputs in spec.job_outputs])
        variables = {**spec.env, **spec.secrets}
        proxies = client_proxies(client, variables)
        launch = LAUNCH_IN_NEW_FOLDERS if creates_folders else LAUNCH
        shm_bytes = int(self._settings.options.get("docker_shm", DEFAULT_SHM_BYTES))
        engine, ulimits = self._connection.info, self._connection.ulimits
        return client.create_container_config(
            image=image["Id"],
            entrypoint=[SHELL, "-c", launch, "sh"],
            command=[spec.cmd],
            environment={**proxies, **variables, **own, "TINI_KILL_PROCESS_GROUP": "1"},
            working_dir=WORKING_FOLDER,
            healthcheck={"test": ["NONE"]},
            labels={
                INSTALLATION: spec.installation,
                JOB: spec.uuid,
                ENGINE: engine.identity,
                **({SECRETS: ",".join(spec.secrets)} if spec.secrets else {}),
            },
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
            fault = missing_volume(spec, error_text(error))
            refused = StartFailed(fault) if fault else start_error(error)
            if refused is None:
                raise
            raise refused from None

    def _copy_files(self, client: Any, container: str, chunks: Iterator[bytes]) -> None:
        with tempfile.TemporaryFile(dir=self._records.folder) as file:
            for chunk in chunks:
                file.write(chunk)
            file.seek(0)
            url = client._url("/containers/{0}/archive", container)
            client._raise_for_status(client.put(url, params={"path": "/"}, data=file, timeout=TRANSFER_SECONDS))

    def _handle(self, spec: JobSpec, container: str, warnings: Sequence[str] = ()) -> str:
        """Return the handle of a job's container, with a note on the limits that the Engine has not set."""
        engine = self._connection.info
        notes = [*unsupported_limits(spec, engine), *(f"The Docker Engine warns: {text}" for text in warnings)]
        return engine.handle(spec.uuid, container, " ".join(notes))


def _find_image(client: Any, name: str | None) -> dict[str, Any] | None:
    if not name:
        raise StartFailed("A job in a container needs an image: set `build.image`.", Reason.IMAGE)
    return find_image(client, name)


def _missing_image_message(spec: JobSpec, artifact: str | None) -> str:
    if artifact is None:
        return f"The image `{spec.image}` does not exist on the Docker Engine."
    return f"The image of its build, `{json.loads(artifact)['image']}`, does not exist any more."
