"""The states of containers, and how each one ended."""

from __future__ import annotations

import dataclasses
import signal
from collections.abc import Callable, Mapping
from typing import Any

from docker.errors import APIError

from runners.base import Exit, Exited, Missing, Pending, Reason, Running, State, Unknown
from runners.docker.connection import Connection
from runners.docker.containers import boot_time, container_exit, start_failure, unix_time
from runners.docker.engine import ANOTHER_ENGINE, TRANSFER_SECONDS, container_state, error_text
from runners.docker.images import inspect_image
from runners.machine_faults import is_machine_fault

ENDED_STATES = ("exited", "stopped", "dead")
"""Docker's states of a container that does not run any more."""


class ContainerStates:
    """Translates what the Engine reports about containers into states of jobs, and remembers the final ones.

    The first end of a container counts, even if somebody has started it again since.
    """

    def __init__(self, connection: Connection, has_stopped: Callable[[str], bool]) -> None:
        """`has_stopped(job_uuid)` returns whether polyjob itself has sent a signal to the job."""
        self._connection = connection
        self._has_stopped = has_stopped
        self._exits: dict[str, Exited] = {}

    def forget(self, container: str) -> None:
        self._exits.pop(container, None)

    def state(self, handle: Mapping[str, Any], listed: Mapping[str, Any]) -> State | None:
        """Return the state of one job; None if it cannot be determined now.

        `listed` is the Engine's list, by container id.

        If the Engine refuses to report on this container, the state is Unknown, so that other jobs are not affected.
        Raises what the client raises if the Engine cannot be reached.
        """
        try:
            return self._state(handle, listed)
        except APIError as error:
            return Unknown(f"The Docker Engine answers: {error_text(error)}")

    def _state(self, handle: Mapping[str, Any], listed: Mapping[str, Any]) -> State | None:
        container = handle["id"]
        if not container:
            return Missing()
        item = listed.get(container)
        if item is None:
            if not self._connection.info.owns(handle):
                return Unknown(ANOTHER_ENGINE)
            return Missing() if container_state(self._connection.client(), container) is None else None
        if item["State"] == "created":
            return Pending()
        exit_code = self._connection.exit_codes.get(container)
        if container not in self._exits and (exit_code is not None or item["State"] in ENDED_STATES):
            exited = self._exited(container, handle, exit_code)
            if exited is not None:
                self._exits[container] = exited
        if container in self._exits:
            return self._exits[container]
        if item["State"] in (*ENDED_STATES, "removing"):
            return None
        return Running(self._connection.info.node, handle.get("note"))

    def _exited(self, container: str, handle: Mapping[str, Any], exit_code: str | None) -> Exited | None:
        """Return how a container ended; None if it still runs. `exit_code` is that of the `die` event, if any."""
        node, note = self._connection.info.node, handle.get("note")
        if exit_code == "0" and container not in self._connection.out_of_memory:
            return Exited(Exit(Reason.EXITED, code=0, message=note), node)
        # After the event of the end, this call waits until the container has really ended.
        details = self._connection.client().inspect_container(container)
        state = details["State"]
        if state["Status"] not in ENDED_STATES:
            if not exit_code or not state["Running"]:
                return None
            state["ExitCode"] = int(exit_code)
        if state["ExitCode"]:
            message = self._start_failure(container, details["Image"])
            if message is not None:
                return Exited(Exit(Reason.START, code=state["ExitCode"], message=message), node)
        result = self._exit(handle, details)
        return Exited(dataclasses.replace(result, message=result.message or note), node)

    def _exit(self, handle: Mapping[str, Any], details: Mapping[str, Any]) -> Exit:
        state, boot = details["State"], self._connection.info.boot
        has_rebooted = boot is not None and handle["boot"] != boot
        result = container_exit(state, boot_time() if has_rebooted else None)
        if result.reason is not Reason.SIGNALLED or result.signal not in (signal.SIGTERM, signal.SIGKILL):
            return result
        has_memory_limit = bool(details["HostConfig"].get("Memory"))
        message = self._killer(handle["uuid"], state, has_memory_limit and result.signal == signal.SIGKILL)
        return dataclasses.replace(result, message=result.message or message)

    def _start_failure(self, container: str, image: str) -> str | None:
        """Return the reason why the command never ran; None if it ran.

        Also returns None if the Engine cannot read the log that has the reason, so that the job can end anyway.
        """
        client = self._connection.client()
        try:
            return start_failure(
                client, container, inspect_image(client, image), self._connection.info, TRANSFER_SECONDS
            )
        except APIError as error:
            if is_machine_fault(error_text(error)):
                raise
            return None

    def _killer(self, uuid: str, state: Mapping[str, Any], may_be_out_of_memory: bool) -> str | None:
        """Return a sentence on who may have ended a job by TERM or KILL; None if polyjob did.

        Not every Engine reports that the kernel killed a container for its memory limit.
        """
        if self._has_stopped(uuid):
            return None
        if self._connection.was_away(unix_time(state["FinishedAt"])):
            return "The Docker Engine was stopped or restarted, and ended the job"
        kernel = "the kernel for the job's memory limit, " if may_be_out_of_memory else ""
        return f"Not by polyjob: {kernel}the job itself, another user, or the Docker Engine when it was stopped"
