"""Events of the scheduler and the kubelets about pods."""

from __future__ import annotations

import uuid

from tests.simulators.kubernetes.selectors import Object
from tests.simulators.kubernetes.store import Store, micro_stamp, stamp


class Recorder:
    """Writes events. A repeated event of the same pod only increases its count."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self._names: dict[tuple[str, ...], str] = {}

    def record(
        self, pod: Object, kind: str, reason: str, message: str, container: str | None = None, source: str = "kubelet"
    ) -> None:
        metadata = pod["metadata"]
        path = f"spec.containers{{{container}}}" if container else None
        key = (metadata["uid"], reason, message, path or "")
        with self.store.lock:
            if key in self._names:
                self.store.update("events", metadata["namespace"], self._names[key], _again)
                return
            name = f"{metadata['name']}.{uuid.uuid4().hex[:16]}"
            self.store.create("events", _event(pod, name, kind, reason, message, path, source))
            self._names[key] = name


def _again(event: Object) -> None:
    if event["count"] is None:
        count = (event.get("series") or {"count": 1})["count"]
        event["series"] = {"count": count + 1, "lastObservedTime": micro_stamp()}
    else:
        event["count"] += 1
        event["lastTimestamp"] = stamp()


def _event(pod: Object, name: str, kind: str, reason: str, message: str, path: str | None, source: str) -> Object:
    metadata = pod["metadata"]
    is_scheduler = source == "default-scheduler"  # which writes events of the newer kind: without counts and times
    return {
        "metadata": {"name": name, "namespace": metadata["namespace"]},
        "involvedObject": {
            "kind": "Pod",
            "namespace": metadata["namespace"],
            "name": metadata["name"],
            "uid": metadata["uid"],
            "apiVersion": "v1",
            "resourceVersion": metadata["resourceVersion"],
            **({"fieldPath": path} if path else {}),
        },
        "reason": reason,
        "message": message,
        "source": {} if is_scheduler else {"component": source, "host": pod["spec"].get("nodeName", "")},
        "firstTimestamp": None if is_scheduler else stamp(),
        "lastTimestamp": None if is_scheduler else stamp(),
        "count": None if is_scheduler else 1,
        "type": kind,
        "eventTime": micro_stamp() if is_scheduler else None,
        "reportingComponent": source,
        "reportingInstance": "" if is_scheduler else pod["spec"].get("nodeName", ""),
    }
