"""Pods that do not start: reasons that only the cluster's events report, and for how long a problem has lasted."""

from __future__ import annotations

import time
from collections.abc import Sequence

from runners.base import Reason, RunnerUnavailable
from runners.kubernetes.api import Api, ApiRefused, Listing, Object
from runners.kubernetes.pod_status import Pod, StartProblem, scheduled_at, unix_time

EVENTS_PERIOD_SECONDS = 10.0
"""Pause between two lists of events. One list serves all pods."""
UNEXPLAINED_SECONDS = 5.0
"""Time for which a pod may wait without an explanation before polyjob asks for events."""
EVENT_LIFETIME_SECONDS = 360.0
"""Time for which an event counts. A kubelet repeats an event every five minutes as long as its cause lasts."""
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
"""The events of a kubelet that can keep a pod from starting → the kind of the problem. All others are ignored."""


class ProblemTimer:
    """Measures for how long a pod has had a problem of one kind. A problem of another kind starts it again."""

    def __init__(self) -> None:
        self._kind: str | None = None
        self._since = 0.0

    def is_late(self, kind: str, patience: float) -> bool:
        """Return whether the problem has lasted for more than `patience` seconds, counted from the first call."""
        now = time.monotonic()
        if kind != self._kind:
            self._kind, self._since = kind, now
        return now - self._since > patience

    def is_final(self, problem: StartProblem, patience: float) -> bool:
        """Return whether a problem cannot pass, or has lasted for more than `patience` seconds."""
        return problem.is_permanent or self.is_late(problem.kind, patience)

    def reset(self) -> None:
        """Record that the pod has no problem now."""
        self._kind = None


def final_message(problem: StartProblem, patience: float) -> str:
    """Return the message of a job that ends because of a problem."""
    return problem.text if problem.is_permanent else f"For {patience:g} seconds: {problem.text}"


class PodEvents:
    """The problems of pods according to the events of the namespace."""

    def __init__(self, api: Api) -> None:
        self._api = api
        self._listed_at = float("-inf")
        self._problems: dict[str, tuple[float, StartProblem]] = {}
        """Pod uid → (time of the last event that can keep the pod from starting, the problem)."""

    def refresh(self, pods: Sequence[Pod]) -> None:
        """List the events if one of these pods, which do not say why they wait, has waited for some time."""
        now = time.monotonic()
        if now - self._listed_at < EVENTS_PERIOD_SECONDS or not any(_age(pod) > UNEXPLAINED_SECONDS for pod in pods):
            return
        self._listed_at = now
        try:
            query = [("fieldSelector", "involvedObject.kind=Pod,type=Warning")]
            path = f"/api/v1/namespaces/{self._api.namespace}/events"
            events = Listing(self._api, lambda: path, query).objects()
        except (ApiRefused, RunnerUnavailable):
            return  # jobs run without explanations, too
        relevant = [(_last_seen(event), event) for event in events if event.get("reason") in KINDS]
        self._problems = {
            event["involvedObject"].get("uid", ""): (moment, _problem(event))
            for moment, event in sorted(relevant, key=lambda item: item[0])
        }

    def problem_of(self, pod: Pod) -> StartProblem | None:
        """Return the last problem of a pod. It must be recent, and of the machine that the pod is on now."""
        moment, problem = self._problems.get(pod["metadata"]["uid"], (0.0, None))
        is_old = moment < max(scheduled_at(pod), time.time() - EVENT_LIFETIME_SECONDS)
        return None if is_old else problem


def _problem(event: Object) -> StartProblem:
    return StartProblem(Reason.START, f"{event['reason']}: {event.get('message', '')}", kind=KINDS[event["reason"]])


def _last_seen(event: Object) -> float:
    """Return the Unix time at which an event occurred last. Newer events have it in another field than older ones."""
    series = event.get("series") or {}
    text = series.get("lastObservedTime") or event.get("lastTimestamp") or event.get("eventTime")
    return unix_time(text or event["metadata"]["creationTimestamp"])


def _age(pod: Pod) -> float:
    return time.time() - unix_time(pod["metadata"]["creationTimestamp"])
