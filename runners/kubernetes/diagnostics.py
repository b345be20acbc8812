"""Pods whose command does not begin: since when that is so, and why, where only the cluster's events say so."""

from __future__ import annotations

import time
from collections.abc import Sequence

from runners.base import Reason, RunnerUnavailable
from runners.kubernetes.api import Api, Listing, Object, Refused
from runners.kubernetes.pod_status import Pod, Trouble, moment_of, scheduled_at

ASKED_EVERY = 10.0
"""Seconds from one list of events to the next; it is one for all pods."""
QUIET_FOR = 5.0
"""Seconds that a pod may take without a word before events are asked for."""
RECENT = 360.0
"""Seconds for which an event counts: a kubelet that tells of the same again and again does so every five minutes."""
KINDS = {
    "FailedAttachVolume": "volume",
    "FailedMount": "volume",
    "FailedMapVolume": "volume",
    "FailedMountOnFilesystemMismatch": "volume",
    "FailedCreatePodSandBox": "sandbox",
    "FailedCreatePodContainer": "sandbox",
    "NetworkNotReady": "sandbox",
    "FailedPrepareDynamicResources": "devices",
}
"""The events of a kubelet that can stop a start → what they are about. All others say nothing of it."""


class Troubles:
    """See the module. All of it can be lost: then patience begins anew."""

    def __init__(self, api: Api, patience: float) -> None:
        self._api = api
        self._patience = patience
        self._since: dict[str, tuple[str, float]] = {}
        """Pod → (kind of its trouble, since when)."""
        self._asked_at = float("-inf")
        self._events: dict[str, tuple[float, Trouble]] = {}
        """Pod → (when the last event that can stop its start was told, what it said)."""

    def look(self, pods: Sequence[Pod]) -> None:
        """Ask for events where one of these pods, which do not say why they wait, has waited for some time."""
        now = time.monotonic()
        if now - self._asked_at < ASKED_EVERY or not any(_age(pod) > QUIET_FOR for pod in pods):
            return
        self._asked_at = now
        try:
            query = [("fieldSelector", "involvedObject.kind=Pod,type=Warning")]
            path = f"/api/v1/namespaces/{self._api.namespace}/events"
            events = Listing(self._api, lambda: path, query).objects()
        except (Refused, RunnerUnavailable):
            return  # they only explain
        told = [(_told_at(event), event) for event in events if event.get("reason") in KINDS]
        self._events = {
            event["involvedObject"].get("uid", ""): (moment, _trouble_of(event))
            for moment, event in sorted(told, key=lambda item: item[0])
        }

    def of(self, pod: Pod) -> Trouble | None:
        """Return what the events said last of a pod that does not say it itself, where that is recent and of the
        machine that the pod is on now."""
        moment, trouble = self._events.get(pod["metadata"]["uid"], (0.0, None))
        is_old = moment < max(scheduled_at(pod), time.time() - RECENT)
        return None if is_old else trouble

    def is_too_long(self, identity: str, trouble: Trouble) -> bool:
        """Whether a pod has had trouble of one kind for longer than it may; counted from the first call."""
        return trouble.is_hopeless or self._is_late(identity, trouble.kind)

    def helper_is_late(self, pod: Pod) -> bool:
        """As `is_too_long`, of a helper that has not begun in a pod whose job has ended."""
        return self._is_late(f"{pod['metadata']['uid']}/helper", "helper")

    def _is_late(self, name: str, kind: str) -> bool:
        if name not in self._since or self._since[name][0] != kind:
            self._since[name] = kind, time.monotonic()
        return time.monotonic() - self._since[name][1] > self._patience

    def sentence(self, trouble: Trouble) -> str:
        if trouble.is_hopeless:
            return trouble.text
        return f"For {self._patience:g} seconds: {trouble.text}"

    def forget(self, identity: str) -> None:
        """There is no trouble any more."""
        self._since.pop(identity, None)
        self._since.pop(f"{identity}/helper", None)


def _trouble_of(event: Object) -> Trouble:
    return Trouble(Reason.START, f"{event['reason']}: {event.get('message', '')}", kind=KINDS[event["reason"]])


def _told_at(event: Object) -> float:
    """When an event was last told, as Unix time: the newer kind says so in another place."""
    series = event.get("series") or {}
    text = series.get("lastObservedTime") or event.get("lastTimestamp") or event.get("eventTime")
    return moment_of(text or event["metadata"]["creationTimestamp"])


def _age(pod: Pod) -> float:
    return time.time() - moment_of(pod["metadata"]["creationTimestamp"])
