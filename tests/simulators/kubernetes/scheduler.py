"""Assigns pods to nodes, or reports why no node fits."""

from __future__ import annotations

import threading
import time
from collections import Counter
from decimal import Decimal
from typing import Any

from tests.simulators.kubernetes.answers import RequestRefused
from tests.simulators.kubernetes.node import Node, requested
from tests.simulators.kubernetes.pod_status import set_condition
from tests.simulators.kubernetes.quantities import amount
from tests.simulators.kubernetes.recording import Recorder
from tests.simulators.kubernetes.selectors import Object
from tests.simulators.kubernetes.store import Store


class Scheduler:
    """A thread that schedules every pod without a node."""

    def __init__(self, store: Store, nodes: dict[str, Node], recorder: Recorder) -> None:
        self.store = store
        self.nodes = nodes
        self.recorder = recorder
        self.refusal: str | None = None
        """If set, no pod is scheduled, and this is the message."""
        self.pretended: set[str] = set()
        """Pods without processes."""
        self._waiting: dict[str, tuple[str, str]] = {}
        self._wake = threading.Event()
        self._reported: dict[str, tuple[str, float]] = {}
        self._closed = False
        self._requests: dict[str, dict[str, Decimal]] = {}
        self._thread = threading.Thread(target=self._run, name="scheduler", daemon=True)
        self._thread.start()

    def add(self, pod: Object) -> None:
        metadata = pod["metadata"]
        with self.store.lock:
            self._waiting[metadata["uid"]] = (metadata["namespace"], metadata["name"])
        self._wake.set()

    def wake(self) -> None:
        self._wake.set()

    def close(self) -> None:
        self._closed = True
        self._wake.set()
        self._thread.join(5)

    def _run(self) -> None:
        while not self._closed:
            self._wake.wait(0.1 if self._waiting else 5)
            self._wake.clear()
            with self.store.lock:
                waiting = list(self._waiting.items())
            for uid, (namespace, name) in waiting:
                pod = self.store.find("pods", namespace, name)
                if pod is None or pod["metadata"]["uid"] != uid or "deletionTimestamp" in pod["metadata"]:
                    self._forget(uid)
                elif pod["spec"].get("nodeName"):
                    self._bound(pod, self.nodes.get(pod["spec"]["nodeName"]))
                else:
                    self._schedule(pod)

    def _forget(self, uid: str) -> None:
        with self.store.lock:
            self._waiting.pop(uid, None)
            self._reported.pop(uid, None)

    def _schedule(self, pod: Object) -> None:
        if pod["spec"].get("schedulingGates"):
            return self._refuse(pod, "SchedulingGated", "Scheduling is blocked due to non-empty scheduling gates")
        if self.refusal:
            return self._refuse(pod, "Unschedulable", self.refusal)
        missing = self._missing_claim(pod)
        if missing:
            return self._refuse(pod, "Unschedulable", missing)
        reasons: Counter[str] = Counter()
        for node in self.nodes.values():
            hindrances = self._hindrances(pod, node)
            if not hindrances:
                return self._bind(pod, node)
            reasons.update(hindrances)
        total = len(self.nodes)
        summary = ", ".join(f"{number} {reason}" for reason, number in sorted(reasons.items()))
        text = f"0/{total} nodes are available: {summary}. preemption: 0/{total} nodes are available: "
        return self._refuse(pod, "Unschedulable", f"{text}{total} No preemption victims found for incoming pod.")

    def _missing_claim(self, pod: Object) -> str | None:
        for volume in pod["spec"].get("volumes") or []:
            name = (volume.get("persistentVolumeClaim") or {}).get("claimName")
            if name and self.store.find("persistentvolumeclaims", pod["metadata"]["namespace"], name) is None:
                return f'persistentvolumeclaim "{name}" not found'
        return None

    def _hindrances(self, pod: Object, node: Node) -> list[str]:
        item = self.store.find("nodes", "", node.name)
        if item is None or node.is_lost:
            return ["node(s) had untolerated taint {node.kubernetes.io/unreachable: }"]
        if item["spec"].get("unschedulable"):
            return ["node(s) were unschedulable"]
        for taint in item["spec"].get("taints") or []:
            if taint["effect"] != "PreferNoSchedule" and not any(
                tolerates(toleration, taint) for toleration in pod["spec"]["tolerations"]
            ):
                return [f"node(s) had untolerated taint {{{taint['key']}: {taint.get('value', '')}}}"]
        if not matches(pod["spec"], item["metadata"]["labels"]):
            return ["node(s) didn't match Pod's node affinity/selector"]
        used: dict[str, Decimal] = {}
        for other in self.store.list("pods", None, lambda other: other["spec"].get("nodeName") == node.name)[1]:
            if other.object["status"]["phase"] not in ("Succeeded", "Failed"):
                for resource, quantity in self._requested(other.object).items():
                    used[resource] = used.get(resource, Decimal(0)) + quantity
        allocatable = item["status"]["allocatable"]
        return [
            "Too many pods" if resource == "pods" else f"Insufficient {resource}"
            for resource, quantity in self._requested(pod).items()
            if quantity and used.get(resource, Decimal(0)) + quantity > amount(allocatable.get(resource, "0"))
        ]

    def _requested(self, pod: Object) -> dict[str, Decimal]:
        uid = pod["metadata"]["uid"]
        if uid not in self._requests:
            self._requests[uid] = requested(pod)
        return self._requests[uid]

    def _refuse(self, pod: Object, reason: str, message: str) -> None:
        metadata = pod["metadata"]
        last_message, at = self._reported.get(metadata["uid"], ("", 0.0))
        if last_message == message and time.monotonic() < at + 5:
            return
        self._reported[metadata["uid"]] = (message, time.monotonic())
        if reason == "Unschedulable":
            self.recorder.record(pod, "Warning", "FailedScheduling", message, source="default-scheduler")
        self._update(pod, lambda item: set_condition(item["status"], "PodScheduled", False, reason, message))

    def _bind(self, pod: Object, node: Node) -> None:
        def bind(item: Object) -> None:
            item["spec"]["nodeName"] = node.name
            set_condition(item["status"], "PodScheduled", True)

        if self._update(pod, bind):
            metadata = pod["metadata"]
            text = f"Successfully assigned {metadata['namespace']}/{metadata['name']} to {node.name}"
            self.recorder.record(pod, "Normal", "Scheduled", text, source="default-scheduler")
            self._bound(pod, node)

    def _bound(self, pod: Object, node: Node | None) -> None:
        metadata = pod["metadata"]
        self._forget(metadata["uid"])
        stored = self.store.find("pods", metadata["namespace"], metadata["name"])
        if stored and node and stored["metadata"]["uid"] == metadata["uid"] not in self.pretended:
            node.run(stored)

    def _update(self, pod: Object, change: Any) -> bool:
        metadata = pod["metadata"]
        try:
            self.store.update("pods", metadata["namespace"], metadata["name"], change, uid=metadata["uid"])
        except RequestRefused:
            return False
        return True


def tolerates(toleration: dict[str, Any], taint: dict[str, Any]) -> bool:
    if toleration.get("effect") not in (None, "", taint["effect"]):
        return False
    if toleration.get("operator", "Equal") == "Exists":
        return toleration.get("key") in (None, "", taint["key"])
    return toleration.get("key") == taint["key"] and toleration.get("value", "") == taint.get("value", "")


def matches(spec: dict[str, Any], labels: dict[str, str]) -> bool:
    """Return whether a pod may run on a node with these labels."""
    if any(labels.get(key) != value for key, value in (spec.get("nodeSelector") or {}).items()):
        return False
    affinity = ((spec.get("affinity") or {}).get("nodeAffinity") or {}).get(
        "requiredDuringSchedulingIgnoredDuringExecution"
    )
    if not affinity:
        return True
    return any(
        all(_expression(expression, labels) for expression in term.get("matchExpressions") or [])
        for term in affinity["nodeSelectorTerms"]
    )


def _expression(expression: dict[str, Any], labels: dict[str, str]) -> bool:
    value, values = labels.get(expression["key"]), expression.get("values") or []
    match expression["operator"]:
        case "In":
            return value in values
        case "NotIn":
            return value not in values
        case "Exists":
            return value is not None
        case "DoesNotExist":
            return value is None
        case "Gt":
            return value is not None and int(value) > int(values[0])
        case _:
            return value is not None and int(value) < int(values[0])
