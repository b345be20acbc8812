"""Jobs in containers of a Docker Engine, on this machine or another. Only the Engine's API is used; no file is shared.

A container has the job's fixed name, and labels by which it is found and adopted. Every start is recorded in the
runner's own folder, `<data>/docker/<job uuid>`, under a lock. So a job whose container somebody has removed is
`Missing` and never runs again, and a container that has exited is never started a second time.
"""

from __future__ import annotations

import json
import signal
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from docker.errors import NotFound

from runners.base import (
    BuildSpec,
    JobSpec,
    RemoteRunner,
    RunnerSettings,
    RunnerUnavailable,
    State,
)
from runners.common.ledger import Ledger, write_record
from runners.common.log_times import Times
from runners.common.tar_names import path_below
from runners.common.tarstream import END_OF_TARBALL, rename_members
from runners.docker.builds import build_image
from runners.docker.connection import Connection
from runners.docker.containers import (
    OUTPUTS,
    is_known_empty,
    link_tar,
    path_kind,
)
from runners.docker.engine import (
    ANOTHER_ENGINE,
    INSTALLATION,
    JOB,
    SECRETS,
    TRANSFER_SECONDS,
    check_usable,
    connect,
    container_state,
    ignore_errors_if,
    list_objects,
    translate_errors,
    translate_read_errors,
)
from runners.docker.images import (
    cached_images,
    image_tag,
    remove_image,
)
from runners.docker.logs import LogCursor, LogReader
from runners.docker.starter import ContainerStarter
from runners.docker.states import ContainerStates


class DockerRunner(RemoteRunner):
    """Runs each job in a container of the Docker Engine that DOCKER_HOST names."""

    def __init__(self, settings: RunnerSettings, wake: Callable[[], None]) -> None:
        super().__init__(settings, wake)
        self._folder = Path(settings.data_dir) / "docker"
        self._records = Ledger(self._folder)
        self._connection = Connection(settings.installation, wake)
        self._states = ContainerStates(self._connection, lambda uuid: self._stop_marker(uuid).exists())
        self._log_reader = LogReader()
        self._starter = ContainerStarter(self._connection, self._records, settings)

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
        with translate_errors():
            return self._starter.start(spec, artifact)

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
        client = self._connection.client()
        containers = list_objects(lambda: client.containers(all=True, filters=filters))
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
        return self._connection.info.handle(uuid, container)

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
            write_record(record, handle or self._connection.info.handle(uuid, ""))
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
        return self.timed_logs(handle, cursor, limit)[:2]

    def timed_logs(self, handle: str, cursor: str | None, limit: int) -> tuple[bytes, str | None, Times]:
        container = self._own_container(handle) or "none"
        with translate_errors(), translate_read_errors(self._connection.client(), container, "the log"):
            position = LogCursor.read(cursor)
            data, position, times = self._log_reader.read(
                self._connection.client(), container, position, limit, TRANSFER_SECONDS
            )
        return data, position.text() if data else cursor, times

    def secret_values(self, handle: str) -> Sequence[str]:
        container = self._own_container(handle) or "none"
        with translate_errors(), translate_read_errors(self._connection.client(), container, "the log"):
            config = self._connection.client().inspect_container(container)["Config"]
        names = ((config["Labels"] or {}).get(SECRETS) or "").split(",")
        variables = dict(variable.partition("=")[::2] for variable in config["Env"] or ())
        return [variables[name] for name in names if name in variables]

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
