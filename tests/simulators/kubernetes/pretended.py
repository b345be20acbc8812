"""Pods without processes, for measurements with many of them."""

from __future__ import annotations

import copy
import uuid
from typing import Any

from tests.simulators.kubernetes.images import image_id
from tests.simulators.kubernetes.node import Node
from tests.simulators.kubernetes.pod_status import set_condition
from tests.simulators.kubernetes.selectors import Object
from tests.simulators.kubernetes.store import Store, stamp
from tests.simulators.kubernetes.validation import fill_in


class Pretended:
    """The part of a cluster that pretends to run pods."""

    store: Store
    namespace: str
    nodes: dict[str, Node]
    pretended: set[str]

    def pretend(
        self, count: int, labels: dict[str, str], name: str = "pretended-{}", manifest: Any = None
    ) -> list[str]:
        """Create running pods without processes. `{}` in the name and in label values becomes a new uuid.

        Returns their names. Such a pod disappears at once when it is deleted.
        """
        names = []
        for _ in range(count):
            identity = uuid.uuid4().hex
            pod = copy.deepcopy(manifest) or {
                "metadata": {},
                "spec": {"restartPolicy": "Never", "containers": [{"name": "job", "image": "busybox"}]},
            }
            pod["metadata"]["name"] = name.format(identity)
            pod["metadata"].setdefault("labels", {}).update(
                {key: value.format(identity) for key, value in labels.items()}
            )
            fill_in(pod, self.namespace)
            pod["spec"]["nodeName"] = next(iter(self.nodes))
            pod["status"] |= _running(pod)
            stored = self.store.create("pods", pod)
            self.pretended.add(stored.object["metadata"]["uid"])
            names.append(pod["metadata"]["name"])
        return names

    def take_up(self) -> int:
        """Pretend to run every pod that waits for a node. Return their number."""
        waiting = self.store.list("pods", None, lambda pod: not pod["spec"].get("nodeName"))[1]
        for stored in waiting:
            metadata = stored.object["metadata"]
            self.pretended.add(metadata["uid"])

            def run(pod: Object) -> None:
                pod["spec"]["nodeName"] = next(iter(self.nodes))
                pod["status"] |= _running(pod)

            self.store.update("pods", metadata["namespace"], metadata["name"], run)
        return len(waiting)

    def end_pretended(self, name: str, code: int = 0) -> None:
        """Let a pretended pod end with an exit code."""

        def end(pod: Object) -> None:
            pod["status"]["phase"] = "Succeeded" if code == 0 else "Failed"
            for status in pod["status"]["containerStatuses"]:
                began = status["state"]["running"]["startedAt"]
                ended = {"exitCode": code, "reason": "Error" if code else "Completed", "startedAt": began}
                status["state"] = {"terminated": {**ended, "finishedAt": stamp(), "containerID": status["containerID"]}}
                status.update(ready=False, started=False)

        self.store.update("pods", self.namespace, name, end)


def _running(pod: Object) -> dict[str, Any]:
    status: dict[str, Any] = {"phase": "Running", "hostIP": "192.0.2.10", "podIP": "10.244.0.9", "startTime": stamp()}
    for kind in ("PodReadyToStartContainers", "Initialized", "Ready", "ContainersReady", "PodScheduled"):
        set_condition(status, kind, True)
    status["containerStatuses"] = [
        {
            "name": container["name"],
            "state": {"running": {"startedAt": stamp()}},
            "lastState": {},
            "ready": True,
            "restartCount": 0,
            "image": container["image"],
            "imageID": image_id(container["image"]),
            "containerID": f"containerd://{uuid.uuid4().hex * 2}",
            "started": True,
        }
        for container in pod["spec"]["containers"]
    ]
    return status
