"""Carrier pods: they fetch and remove a job's files in a claim where the job's own pod cannot.

A carrier mounts the claim and waits. It is deleted with the job, or ten minutes after its making if nothing is fetched.
"""

from __future__ import annotations

import contextlib
import time

from runners import kubernetes_files, kubernetes_pods, kubernetes_refusals, kubernetes_states
from runners.base import Gone, RunnerRefused, RunnerUnavailable, StartFailed
from runners.kubernetes_api import Api, Refused
from runners.kubernetes_exec import Failed, NotRun
from runners.kubernetes_options import Options
from runners.manifests import HELPER, carrier_pod


class Carriers:
    """See the module. What it remembers may be lost: then patience begins again."""

    def __init__(self, api: Api, options: Options, installation: str) -> None:
        self._api = api
        self._options = options
        self._installation = installation
        self._since: dict[str, float] = {}
        """Since when a job's files wait for a carrier to run."""
        self._clearing_since: dict[str, float] = {}
        """Since when the removal of a job's files has failed, for whatever reason."""

    def pod(self, uuid: str) -> str:
        """Return the name of the pod that has a job's files, which is made where there is none.

        Raises RunnerUnavailable until it runs, also while a quota has no room for it; RunnerRefused where the namespace
        does not admit it; Gone where it does not run within the patience; and Refused."""
        name = _name(uuid)
        found = kubernetes_pods.find(self._api, name)
        if found is None:
            try:
                manifest = carrier_pod(name, uuid, self._installation, self._options)
                found = kubernetes_pods.create(self._api, manifest)
            except Refused as error:
                refusal = kubernetes_refusals.of_create(error)
                raise RunnerRefused(str(refusal)) if isinstance(refusal, StartFailed) else refusal from None
        runs = kubernetes_states.container_runs(found, HELPER) if found is not None else None
        if runs:
            self._since.pop(uuid, None)
            return name
        if runs is False and found is not None:  # evicted, say: the next call makes another
            kubernetes_pods.delete(self._api, found, 0)
        if self._is_late(self._since, uuid):
            raise Gone("The pod that could give the job's files from its claim cannot be started.")
        raise RunnerUnavailable("The job's files are in a claim, and a pod that can give them is being started.")

    def clear(self, uuid: str) -> None:
        """Remove a job's files, and the pod that did it. Idempotent. Files that no pod can reach stay, and so do files
        that could not be removed within the patience. Raises RunnerUnavailable, RunnerRefused and Refused."""
        try:
            with contextlib.suppress(Gone, NotRun, Failed):
                kubernetes_files.remove_all(self._api, self.pod(uuid), uuid)
        except (RunnerUnavailable, RunnerRefused, Refused):
            if not self._is_late(self._clearing_since, uuid):
                raise
        found = kubernetes_pods.find(self._api, _name(uuid))
        if found is not None:
            kubernetes_pods.delete(self._api, found, 0)
        self._since.pop(uuid, None)
        self._clearing_since.pop(uuid, None)

    def _is_late(self, since: dict[str, float], uuid: str) -> bool:
        """Start this clock for a job, unless it runs. Return whether the patience is over."""
        now = time.monotonic()
        return now - since.setdefault(uuid, now) > self._options.patience


def _name(uuid: str) -> str:
    return f"polyjob-files-{uuid}"
