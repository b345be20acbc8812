"""Pods whose command does not begin: since when that is so, and why, where only the cluster's events say so."""

from __future__ import annotations

import time
from collections.abc import Sequence

from runners.base import Reason, RunnerUnavailable
from runners.kubernetes_api import Api, Listing, Refused
from runners.kubernetes_states import Pod, Trouble, moment_of

ASKED_EVERY = 10.0
"""Seconds from one list of events to the next; it is one for all pods."""
QUIET_FOR = 5.0
"""Seconds that a pod may take without a word before events are asked for."""


class Troubles:
    """See the module. All of it can be lost: then patience begins anew."""

    def __init__(self, api: Api, patience: float) -> None:
        self._api = api
        self._patience = patience
        self._since: dict[str, float] = {}
        self._asked_at = float("-inf")
        self._events: dict[str, Trouble] = {}

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
        events.sort(key=lambda event: event.get("lastTimestamp") or event.get("eventTime") or "")
        self._events = {
            event["involvedObject"].get("uid", ""): Trouble(
                Reason.START, f"{event.get('reason', '')}: {event.get('message', '')}"
            )
            for event in events
        }

    def of(self, pod: Pod) -> Trouble | None:
        """What the events said last of a pod that does not say it itself."""
        return self._events.get(pod["metadata"]["uid"])

    def is_too_long(self, identity: str, trouble: Trouble) -> bool:
        """Whether a pod has had trouble for longer than it may; it is counted from the first call."""
        since = self._since.setdefault(identity, time.monotonic())
        return trouble.is_hopeless or time.monotonic() - since > self._patience

    def helper_is_late(self, pod: Pod) -> bool:
        """As `is_too_long`, of a helper that has not begun in a pod whose job has ended."""
        since = self._since.setdefault(f"{pod['metadata']['uid']}/helper", time.monotonic())
        return time.monotonic() - since > self._patience

    def sentence(self, trouble: Trouble) -> str:
        if trouble.is_hopeless:
            return trouble.text
        return f"For {self._patience:g} seconds: {trouble.text}"

    def forget(self, identity: str) -> None:
        """There is no trouble any more."""
        self._since.pop(identity, None)
        self._since.pop(f"{identity}/helper", None)


def _age(pod: Pod) -> float:
    return time.time() - moment_of(pod["metadata"]["creationTimestamp"])
