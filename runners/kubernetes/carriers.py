"""Carrier pods: they fetch and remove a job's files in a claim where the job's own pod cannot.

A carrier mounts the claim and waits. It is deleted with the job, or ten minutes after its creation if no fetch is going
on.
"""

from __future__ import annotations

import logging
import time

from runners.base import HandleNotFound, RunnerRefused, RunnerUnavailable, StartFailed
from runners.kubernetes import files, pod_status, pods, refusals
from runners.kubernetes.api import Api, ApiRefused
from runners.kubernetes.exec import CommandFailed, CommandNotRun
from runners.kubernetes.manifests import HELPER, carrier_pod
from runners.kubernetes.options import Options

log = logging.getLogger("polyjob.kubernetes")

COUNTED_PAUSE_SECONDS = 60.0
"""Time between two failed calls that counts at most. The engine calls more often while the API server answers."""
FILES_STAY = "the files of job %s stay in the claim: %s"

Failures = tuple[float, float]
"""(When a call failed last, seconds for which calls have failed)."""


class Carriers:
    """The carriers of one namespace.

    If its memory is lost, the patience with each job's files starts again.
    """

    def __init__(self, api: Api, options: Options, installation: str) -> None:
        self._api = api
        self._options = options
        self._installation = installation
        self._waits: dict[str, Failures] = {}
        """Uuid of a job → the calls that found no running carrier for its files."""
        self._removals: dict[str, Failures] = {}
        """Uuid of a job → the calls that could not remove its files, for whatever reason."""

    def pod(self, uuid: str) -> str:
        """Return the name of the carrier for a job's files; create it if there is none.

        Raises RunnerUnavailable until it runs, also while a quota has no room for it; RunnerRefused if the namespace
        does not admit it; HandleNotFound if it does not run within the patience; and ApiRefused.
        """
        name = _name(uuid)
        pod = pods.find(self._api, name)
        if pod is None:
            try:
                manifest = carrier_pod(name, uuid, self._installation, self._options)
                pod = pods.create(self._api, manifest)
            except ApiRefused as error:
                refusal = refusals.of_create(error)
                raise RunnerRefused(str(refusal)) if isinstance(refusal, StartFailed) else refusal from None
        runs = pod_status.container_runs(pod, HELPER) if pod is not None else None
        if runs:
            self._waits.pop(uuid, None)
            return name
        if runs is False and pod is not None:  # for example evicted; the next call creates another
            pods.delete(self._api, pod, 0)
        if self._is_late(self._waits, uuid):
            raise HandleNotFound("The job's files are in a claim, and the pod that mounts it cannot be started.")
        raise RunnerUnavailable("The job's files are in a claim, and a pod that mounts it is being started.")

    def clear(self, uuid: str) -> None:
        """Remove a job's files and their carrier. Idempotent.

        The files stay, and the server's log names the job, if no pod can mount the claim, if `rm` fails, or if the
        removal does not succeed within the patience. Raises RunnerUnavailable, RunnerRefused and ApiRefused.
        """
        try:
            self._remove_files(uuid)
        except (HandleNotFound, CommandFailed) as error:
            log.warning(FILES_STAY, uuid, error)
        except (RunnerUnavailable, RunnerRefused, ApiRefused) as error:
            if not self._is_late(self._removals, uuid):
                raise
            log.warning(FILES_STAY, uuid, error)
        pod = pods.find(self._api, _name(uuid))
        if pod is not None:
            pods.delete(self._api, pod, 0)
        self._waits.pop(uuid, None)
        self._removals.pop(uuid, None)

    def _remove_files(self, uuid: str) -> None:
        """Remove a job's files. Raises as `pod`, and CommandFailed."""
        try:
            files.remove_all(self._api, self.pod(uuid), uuid)
        except CommandNotRun as error:  # the carrier has just ended; the next call creates another
            raise RunnerUnavailable(f"The pod that removes the job's files does not run: {error}") from None

    def _is_late(self, failures: dict[str, Failures], uuid: str) -> bool:
        """Record one more failed call for a job. Return whether its calls have failed for longer than the patience.

        The time of an outage of the API server, in which no call gets this far, counts at most as one pause.
        """
        now, patience = time.monotonic(), self._options.patience
        last, seconds = failures.get(uuid, (now, 0.0))
        seconds += min(now - last, COUNTED_PAUSE_SECONDS, patience / 2)
        failures[uuid] = now, seconds
        return seconds > patience


def _name(uuid: str) -> str:
    return f"polyjob-files-{uuid}"
