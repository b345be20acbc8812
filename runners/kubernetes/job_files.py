"""The outputs of jobs: fetched from the job's own pod or from a claim, and removed from the claim."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from runners.base import Exited, HandleNotFound, RunnerRefused, RunnerUnavailable
from runners.kubernetes import files, pod_status, pods
from runners.kubernetes.api import Api
from runners.kubernetes.carriers import Carriers
from runners.kubernetes.exec import CommandFailed, CommandNotRun
from runners.kubernetes.job_states import JobStates
from runners.kubernetes.manifests import CLAIM, HELPER, HOME, JOB
from runners.kubernetes.namespace import Handle
from runners.kubernetes.options import Options
from runners.kubernetes.pod_status import Pod
from runners.kubernetes.pod_tracker import PodTrackers
from runners.kubernetes.sweeper import PodSweeper
from runners.machine_faults import is_machine_fault


class JobFiles:
    """The files of jobs in one namespace, and the removal of their pods."""

    def __init__(
        self, api: Api, options: Options, states: JobStates, trackers: PodTrackers, sweeper: PodSweeper,
        carriers: Carriers,
    ) -> None:  # fmt: skip
        self._api = api
        self._options = options
        self._states = states
        self._trackers = trackers
        self._sweeper = sweeper
        self._carriers = carriers

    def outputs(self, handle: Handle) -> Iterator[bytes]:
        """Yield a job's outputs, as `RemoteRunner.outputs` does. Raises ApiRefused, too."""
        pod = pods.find(self._api, handle.pod_name, handle.pod_uid) if handle.pod_uid else None
        if pod is None and self._states.never_ran(handle):
            return
        name, home = self._location(handle, pod)
        try:
            with self._sweeper.keep(name):
                yield from files.fetch(self._api, name, home)
        except (CommandNotRun, CommandFailed) as error:
            kind = RunnerUnavailable if is_machine_fault(str(error)) else RunnerRefused
            raise kind(f"The outputs cannot be fetched from the job's pod: {error}") from None

    def remove(self, handle: Handle) -> None:
        """Delete a job's pod, and its files in the claim. Idempotent. Raises ApiRefused, RunnerUnavailable."""
        pod = pods.find(self._api, handle.pod_name, handle.pod_uid) if handle.pod_uid else None
        has_files = self._may_have_files_in_claim(handle, pod)
        if pod is not None:
            has_files = not self._remove_pod(pod) and has_files
            pods.wait_until_deleted(self._api, pod["metadata"]["name"], handle.pod_uid)
        if has_files:
            self._carriers.clear(handle.uuid)

    def _location(self, handle: Handle, pod: Pod | None) -> tuple[str, str]:
        """Return the name of the pod whose helper has the job's files, and their folder in it. Raises as `outputs`."""
        runs = pod_status.container_runs(pod, HELPER) if pod is not None else False
        if runs is not False and pod is not None:
            timer = self._trackers.get(pod["metadata"]["uid"]).helper_timer
            if runs is None and timer.is_late(HELPER, self._options.patience):
                raise HandleNotFound("The helper container of the job's pod cannot be started.")
            return pod["metadata"]["name"], HOME
        if self._options.claim and handle.pod_uid:
            return self._carriers.pod(handle.uuid), f"{CLAIM}/{handle.uuid}"
        if pod is None:
            raise HandleNotFound("The job's pod no longer exists.")
        raise HandleNotFound(f"{pod_status.end_of(pod, HELPER)}.")

    def _may_have_files_in_claim(self, handle: Handle, pod: Pod | None) -> bool:
        is_unscheduled = pod is not None and not _is_scheduled(pod)
        return (
            bool(self._options.claim and handle.pod_uid) and not is_unscheduled and not self._states.never_ran(handle)
        )

    def _remove_pod(self, pod: Pod) -> bool:
        """Delete a pod. Return whether its helper removed the job's files in the claim before.

        The pod gets no grace if the job does not run in it, because no process has to end first.
        """
        is_over, is_cleared = isinstance(pod_status.pod_view(pod).state, Exited), False
        if self._options.claim and is_over and pod_status.container_runs(pod, HELPER):
            with contextlib.suppress(CommandNotRun, CommandFailed):
                files.remove_all(self._api, pod["metadata"]["name"], pod["metadata"]["labels"][JOB])
                is_cleared = True
        pods.delete(self._api, pod, 0 if is_over or not _is_scheduled(pod) else 1)
        return is_cleared


def _is_scheduled(pod: Pod) -> bool:
    return bool((pod.get("spec") or {}).get("nodeName"))
