"""Carrier pods: they fetch and remove a job's files in a claim where the job's own pod cannot.

A carrier mounts the claim and waits. It is deleted with the job, or ten minutes after its making if nothing is fetched.
"""

from __future__ import annotations

import logging
import time

from runners.base import HandleNotFound, RunnerRefused, RunnerUnavailable, StartFailed
from runners.kubernetes import files, pod_status, pods, refusals
from runners.kubernetes.api import Api, Refused
from runners.kubernetes.exec import Failed, NotRun
from runners.kubernetes.manifests import HELPER, carrier_pod
from runners.kubernetes.options import Options

log = logging.getLogger("polyjob.kubernetes")

LONGEST_PAUSE = 60.0
"""Seconds between two failed calls that count at most. The engine calls more often while the API server answers."""
FILES_STAY = "the files of job %s stay in the claim: %s"

Failures = tuple[float, float]
"""(When a call failed last, seconds for which calls have failed)."""


class Carriers:
    """See the module. What it remembers may be lost: then patience begins again."""

    def __init__(self, api: Api, options: Options, installation: str) -> None:
        self._api = api
        self._options = options
        self._installation = installation
        self._waits: dict[str, Failures] = {}
        """Job → the calls that found no running carrier for its files."""
        self._removals: dict[str, Failures] = {}
        """Job → the calls that could not remove its files, for whatever reason."""

    def pod(self, uuid: str) -> str:
        """Return the name of the pod that has a job's files, which is made where there is none.

        Raises RunnerUnavailable until it runs, also while a quota has no room for it; RunnerRefused where the namespace
        does not admit it; HandleNotFound where it does not run within the patience; and Refused."""
        name = _name(uuid)
        found = pods.find(self._api, name)
        if found is None:
            try:
                manifest = carrier_pod(name, uuid, self._installation, self._options)
                found = pods.create(self._api, manifest)
            except Refused as error:
                refusal = refusals.of_create(error)
                raise RunnerRefused(str(refusal)) if isinstance(refusal, StartFailed) else refusal from None
        runs = pod_status.container_runs(found, HELPER) if found is not None else None
        if runs:
            self._waits.pop(uuid, None)
            return name
        if runs is False and found is not None:  # evicted, say: the next call makes another
            pods.delete(self._api, found, 0)
        if self._is_late(self._waits, uuid):
            raise HandleNotFound("The pod that could give the job's files from its claim cannot be started.")
        raise RunnerUnavailable("The job's files are in a claim, and a pod that can give them is being started.")

    def clear(self, uuid: str) -> None:
        """Remove a job's files, and the pod that did it. Idempotent.

        Files stay, and the server's log names the job, if no pod can reach them, if `rm` fails, or if their removal
        does not succeed within the patience. Raises RunnerUnavailable, RunnerRefused and Refused."""
        try:
            self._remove_files(uuid)
        except (HandleNotFound, Failed) as error:
            log.warning(FILES_STAY, uuid, error)
        except (RunnerUnavailable, RunnerRefused, Refused) as error:
            if not self._is_late(self._removals, uuid):
                raise
            log.warning(FILES_STAY, uuid, error)
        found = pods.find(self._api, _name(uuid))
        if found is not None:
            pods.delete(self._api, found, 0)
        self._waits.pop(uuid, None)
        self._removals.pop(uuid, None)

    def _remove_files(self, uuid: str) -> None:
        """Remove a job's files. Raises as `pod`, and Failed."""
        try:
            files.remove_all(self._api, self.pod(uuid), uuid)
        except NotRun as error:  # the carrier has just ended, and the next call makes another
            raise RunnerUnavailable(f"The pod that removes the job's files does not run: {error}") from None

    def _is_late(self, failures: dict[str, Failures], uuid: str) -> bool:
        """Record one more failed call for a job. Return whether its calls have failed for longer than the patience.

        The time of an outage of the API server, in which no call gets this far, counts at most as one pause."""
        now, patience = time.monotonic(), self._options.patience
        last, seconds = failures.get(uuid, (now, 0.0))
        seconds += min(now - last, LONGEST_PAUSE, patience / 2)
        failures[uuid] = now, seconds
        return seconds > patience


def _name(uuid: str) -> str:
    return f"polyjob-files-{uuid}"
