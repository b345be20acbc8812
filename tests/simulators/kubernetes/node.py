"""One node: its resources, its pods, and its loss."""

from __future__ import annotations

import itertools
import platform
import threading
import uuid
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

from tests.simulators.kubernetes.containers import unknown_end
from tests.simulators.kubernetes.images import Image
from tests.simulators.kubernetes.kubelet import End, PodWorker
from tests.simulators.kubernetes.quantities import amount
from tests.simulators.kubernetes.recording import Recorder
from tests.simulators.kubernetes.selectors import Object
from tests.simulators.kubernetes.store import Store, stamp


@dataclass
class Settings:
    """The behaviour of nodes. It can be changed while they run."""

    delay: float = 0.0
    """Seconds between a pod's scheduling and the kubelet's first action."""
    cleanup: float = 0.0
    """Seconds between a deleted pod's last status and its removal (a real kubelet: up to a few)."""
    backoff: float = 0.5
    """Seconds between two attempts after a failure (a real kubelet: 10 and more)."""
    is_late: bool = False
    """Kubelets run pods without reporting it, as under load. Only ends of pods are reported."""
    log_limit: int = 10 << 20
    """Size of a log file at which it is rotated, in bytes. Rotated files cannot be read."""
    zone: int = 0
    """Time zone of the nodes, in minutes ahead of UTC."""


class Node:
    """A kubelet. The node's name, labels and taints are those of its object in the store."""

    def __init__(
        self, name: str, store: Store, state: Path, images: dict[str, Image], recorder: Recorder, settings: Settings
    ) -> None:
        self.name = name
        self.store = store
        self.state = state
        self.images = images
        self.settings = settings
        self.recorder = recorder
        self.defects: list[BaseException | None] = []
        """Errors in the simulator itself."""
        self.pulled: set[str] = set()
        self.workers: dict[str, PodWorker] = {}
        self.is_lost = False
        self.ip = "192.0.2.10"
        self.lock = threading.Lock()
        self._addresses = itertools.count(2)

    def next_ip(self) -> str:
        with self.lock:
            number = next(self._addresses)
        return f"10.244.{number // 250 % 250}.{number % 250 + 1}"

    def record(self, pod: Object, kind: str, reason: str, message: str, container: str | None = None) -> None:
        stored = self.store.find("pods", pod["metadata"]["namespace"], pod["metadata"]["name"])
        self.recorder.record(stored or pod, kind, reason, message, container)

    def run(self, pod: Object) -> None:
        worker = PodWorker(self, pod)
        with self.lock:
            self.workers[worker.uid] = worker
        stored = self.store.find("pods", worker.namespace, worker.name)
        if stored and "deletionTimestamp" in stored["metadata"]:
            worker.order_end(End(stored["metadata"]["deletionGracePeriodSeconds"]))
        worker.thread.start()
        if stored is None:
            self.forget(worker.uid)

    def worker(self, uid: str) -> PodWorker | None:
        with self.lock:
            return self.workers.get(uid)

    def removed(self, worker: PodWorker) -> None:
        """Remove a deleted pod that has ended."""
        self.store.remove("pods", worker.namespace, worker.name, worker.uid)
        if self.store.find("pods", worker.namespace, worker.name) is None:
            self.forget(worker.uid)

    def forget(self, uid: str) -> None:
        """Remove everything of a pod from the node. Idempotent; blocks until its processes have ended."""
        with self.lock:
            worker = self.workers.pop(uid, None)
        if worker:
            worker.clear_away()

    def lose(self) -> None:
        """Lose the node: its processes end, and it reports nothing more."""
        self.is_lost = True
        with self.lock:
            workers = list(self.workers.values())
        for worker in workers:
            worker.vanish()

    def restore(self) -> None:
        """Restart the node: it knows its pods, but not how their containers ended."""
        self.is_lost = False
        with self.lock:
            workers = list(self.workers.values())
        for worker in workers:
            worker.thread.join(5)
            if worker.is_over:
                continue
            for slot in worker.slots:
                if "terminated" not in slot.state or slot.state["terminated"]["reason"] == "ContainerStatusUnknown":
                    slot.lost = unknown_end()
            worker.is_lost = False
            worker.is_over = True
            worker.report_lost()
            stored = self.store.find("pods", worker.namespace, worker.name)
            if stored and "deletionTimestamp" in stored["metadata"]:
                self.removed(worker)

    def close(self) -> None:
        with self.lock:
            workers = list(self.workers)
        for uid in workers:
            self.forget(uid)


def node_object(name: str, capacity: dict[str, str], labels: dict[str, str], ip: str) -> Object:
    kinds = ("MemoryPressure", "DiskPressure", "PIDPressure", "Ready")
    conditions = [
        {"type": kind, "status": "True" if kind == "Ready" else "False", "lastTransitionTime": stamp()}
        for kind in kinds
    ]
    return {
        "metadata": {"name": name, "labels": {"kubernetes.io/hostname": name, "kubernetes.io/os": "linux", **labels}},
        "spec": {},
        "status": {
            "capacity": capacity,
            "allocatable": dict(capacity),
            "conditions": conditions,
            "addresses": [{"type": "InternalIP", "address": ip}, {"type": "Hostname", "address": name}],
            "nodeInfo": {
                "architecture": "amd64",
                "bootID": str(uuid.uuid4()),
                "containerRuntimeVersion": "containerd://2.1.0",
                "kernelVersion": platform.release(),
                "kubeProxyVersion": "",
                "kubeletVersion": "v1.36.0",
                "machineID": uuid.uuid4().hex,
                "operatingSystem": "linux",
                "osImage": "Debian GNU/Linux 12 (bookworm)",
                "systemUUID": str(uuid.uuid4()),
            },
        },
    }


def requested(pod: Object) -> dict[str, Decimal]:
    """Return the amount that a pod takes of its node: the sum of its containers, or its largest init container."""
    total: dict[str, Decimal] = {"pods": Decimal(1)}
    for container in pod["spec"]["containers"]:
        for resource, quantity in _requests_of(container).items():
            total[resource] = total.get(resource, Decimal(0)) + amount(quantity)
    for container in pod["spec"].get("initContainers") or []:
        for resource, quantity in _requests_of(container).items():
            total[resource] = max(total.get(resource, Decimal(0)), amount(quantity))
    return total


def _requests_of(container: dict[str, Any]) -> dict[str, Any]:
    return (container.get("resources") or {}).get("requests") or {}
