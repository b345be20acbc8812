"""Faults of a cluster, on demand."""

from __future__ import annotations

import contextlib
import re
import threading

from tests.simulators.kubernetes.execution import Execution
from tests.simulators.kubernetes.faults import Fault, Faults
from tests.simulators.kubernetes.kubelet import End
from tests.simulators.kubernetes.node import Node
from tests.simulators.kubernetes.pod_status import set_condition
from tests.simulators.kubernetes.pods import delete
from tests.simulators.kubernetes.recording import Recorder
from tests.simulators.kubernetes.scheduler import Scheduler
from tests.simulators.kubernetes.selectors import Object
from tests.simulators.kubernetes.store import Store


class FaultInjection:
    """The part of a cluster that causes faults."""

    store: Store
    namespace: str
    nodes: dict[str, Node]
    faults: Faults
    recorder: Recorder
    scheduler: Scheduler
    _lock: threading.Lock
    _executions: set[Execution]
    _cut_after: int | None
    _cut_after_input: int | None

    # --- faults of requests

    def fail(
        self,
        code: int | None,
        times: int | None = 1,
        verb: str | None = None,
        path: str = "",
        retry_after: int | None = None,
        delay: float = 0.0,
        is_done: bool = False,
        message: str | None = None,
    ) -> None:
        """Answer the next `times` matching requests (None: all until `heal`) with a status; code None: hang up.

        With `is_done` they are carried out nevertheless. `verb` is that of a permission (`list`, `get`, …); `path` is a
        regular expression, which is searched for.
        """
        self.faults.add(Fault(times, verb, re.compile(path), code, retry_after, delay, is_done, message))

    def slow(self, seconds: float, times: int | None = 1, verb: str | None = None, path: str = "") -> None:
        """Delay the responses to the next matching requests."""
        self.faults.add(Fault(times, verb, re.compile(path), 200, None, seconds))

    def heal(self) -> None:
        self.faults.clear()

    def cut_watches(self, abruptly: bool = False) -> None:
        """End the active watches, as a server does, or in the middle of the response."""
        self.store.cut_watches(abruptly)

    def compact(self) -> None:
        """Forget the history. Requests from an older version get 410."""
        self.store.compact()

    def cut_executions(self, after: int | None = None, after_input: int | None = None) -> None:
        """Break the active executions; or each future one, after some bytes of standard output or of standard
        input."""
        if after is not None or after_input is not None:
            self._cut_after, self._cut_after_input = after, after_input
            return
        self.leave_executions()
        with self._lock:
            executions = list(self._executions)
        for execution in executions:
            execution.cut()

    def leave_executions(self) -> None:
        """Stop breaking new executions."""
        self._cut_after = self._cut_after_input = None

    # --- faults of pods

    def warn(self, name: str, reason: str, message: str = "words of the cluster") -> None:
        """Record an event of a kubelet about a pod."""
        self.recorder.record(self.store.get("pods", self.namespace, name).object, "Warning", reason, message)

    def run_out_of_memory(self, name: str, container: str | None = None) -> None:
        for slot in self._slots(name, container):
            if slot.container and slot.container.is_running:
                slot.container.run_out_of_memory()

    def evict(self, name: str, message: str = "The node was low on resource: memory.") -> None:
        """Evict a pod as a kubelet does that runs short: the pod fails, and stays."""
        worker = self._worker(name)
        self.recorder.record(worker.pod, "Warning", "Evicted", message)
        worker.order_end(End(0, "Evicted", message, ("TerminationByKubelet", message)))

    def preempt(self, name: str) -> None:
        """Preempt a pod as the scheduler does: set a condition, then delete the pod."""
        text = "default-scheduler: preempting to accommodate a higher priority pod"
        pod = self.store.get("pods", self.namespace, name).object
        self.recorder.record(pod, "Normal", "Preempted", "Preempted by a pod on this node", source="default-scheduler")
        self._disrupt(name, "PreemptionByScheduler", text)
        self.delete(name)

    def _disrupt(self, name: str, reason: str, message: str) -> None:
        self.store.update(
            "pods",
            self.namespace,
            name,
            lambda pod: set_condition(pod["status"], "DisruptionTarget", True, reason, message),
        )

    def delete(self, name: str, grace: float | None = None) -> None:
        """Delete a pod, as another user would."""
        delete(self, self.namespace, name, {} if grace is None else {"gracePeriodSeconds": grace})

    def rotate_log(self, name: str, container: str | None = None) -> None:
        for slot in self._slots(name, container):
            if slot.container:
                slot.container.rotate()

    def lose_node(self, name: str) -> None:
        """Lose a machine: the controller marks its pods as not ready, without a reason, and requests for them fail."""
        self.nodes[name].lose()
        text = "Kubelet stopped posting node status."
        self.store.update(
            "nodes", "", name, lambda node: set_condition(node["status"], "Ready", False, "NodeStatusUnknown", text)
        )
        for pod in self.pods():
            if pod["spec"].get("nodeName") == name and pod["status"]["phase"] not in ("Succeeded", "Failed"):
                with contextlib.suppress(Exception):
                    self.store.update(
                        "pods",
                        pod["metadata"]["namespace"],
                        pod["metadata"]["name"],
                        lambda item: set_condition(item["status"], "Ready", False),
                    )

    def drain_lost_node(self, name: str) -> None:
        """Do what the taint manager does minutes later: delete the pods, which then wait for their node."""
        for pod in self.pods():
            if pod["spec"].get("nodeName") == name:
                text = "Taint manager: deleting due to NoExecute taint"
                self._disrupt(pod["metadata"]["name"], "DeletionByTaintManager", text)
                self.delete(pod["metadata"]["name"])

    def remove_node(self, name: str) -> None:
        """Remove a node from the cluster. The garbage collector fails its pods and removes them."""
        node = self.nodes.pop(name)
        node.lose()
        self.store.remove("nodes", "", name)
        for pod in self.pods():
            if pod["spec"].get("nodeName") == name:
                self._collect(pod)
        node.close()

    def _collect(self, pod: Object) -> None:
        metadata = pod["metadata"]

        def fail(item: Object) -> None:
            item["status"]["phase"] = "Failed"
            set_condition(item["status"], "DisruptionTarget", True, "DeletionByPodGC", "PodGC: node no longer exists")

        if pod["status"]["phase"] not in ("Succeeded", "Failed"):
            self.store.update("pods", metadata["namespace"], metadata["name"], fail)
        self.store.remove("pods", metadata["namespace"], metadata["name"])

    def restore_node(self, name: str) -> None:
        """Restart a lost machine. It does not know how its containers ended."""
        self.nodes[name].restore()
        self.store.update("nodes", "", name, lambda node: set_condition(node["status"], "Ready", True, "KubeletReady"))
        self.scheduler.wake()
