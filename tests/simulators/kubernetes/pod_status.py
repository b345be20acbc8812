"""The status of a pod that a kubelet reports, from the states of its containers."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from tests.simulators.kubernetes.containers import Container
from tests.simulators.kubernetes.images import image_id
from tests.simulators.kubernetes.store import stamp


@dataclass
class Slot:
    """One container of a pod's manifest, and its state so far."""

    spec: dict[str, Any]
    is_init: bool = False
    waiting: dict[str, str] = field(default_factory=lambda: {"reason": "ContainerCreating"})
    container: Container | None = None
    restarts: int = 0
    last: dict[str, Any] = field(default_factory=dict)
    again_at: float = 0.0
    """Time of the monotonic clock from which on it may be started again."""
    lost: dict[str, Any] | None = None
    """The state that is reported if the container's end is not known."""

    @property
    def name(self) -> str:
        return str(self.spec["name"])

    @property
    def is_sidecar(self) -> bool:
        return self.is_init and self.spec.get("restartPolicy") == "Always"

    @property
    def state(self) -> dict[str, Any]:
        if self.lost:
            return self.lost
        return self.container.state if self.container and self.container.started.is_set() else {"waiting": self.waiting}

    @property
    def code(self) -> int | None:
        ended = self.state.get("terminated")
        return ended["exitCode"] if ended else None

    def report(self) -> dict[str, Any]:
        state = self.state
        had = self.container is not None and self.container.started.is_set()
        runs = "running" in state
        return {
            "name": self.name,
            "state": state,
            "lastState": {"terminated": self.last} if self.last else {},
            "ready": runs or (self.is_init and self.code == 0),
            "restartCount": self.restarts,
            "image": self.spec["image"],
            "imageID": image_id(self.spec["image"]) if had else "",
            **({"containerID": self.container.id} if had and self.container else {}),
            "started": runs,
        }


def phase(slots: list[Slot], restart_policy: str) -> str:
    """Return the phase of a pod: Pending, Running, Succeeded or Failed."""
    for slot in slots:
        if slot.is_init and not slot.is_sidecar and slot.code != 0:
            return "Failed" if slot.code is not None and restart_policy == "Never" else "Pending"
        if slot.is_sidecar and "waiting" in slot.state and not slot.last:
            return "Pending"
    mains = [slot for slot in slots if not slot.is_init]
    if any("waiting" in slot.state and not slot.last for slot in mains):
        return "Pending"
    if any("terminated" not in slot.state for slot in mains) or restart_policy == "Always":
        return "Running"
    if all(slot.code == 0 for slot in mains):
        return "Succeeded"
    return "Failed" if restart_policy == "Never" else "Running"


def set_condition(
    status: dict[str, Any], kind: str, is_true: bool, reason: str | None = None, message: str | None = None
) -> None:
    """Set a condition. Its transition time changes only with its status."""
    value = "True" if is_true else "False"
    conditions = status.setdefault("conditions", [])
    condition = {"type": kind, "status": value, "lastProbeTime": None, "lastTransitionTime": stamp()}
    if reason:
        condition["reason"] = reason
    if message:
        condition["message"] = message
    for position, existing in enumerate(conditions):
        if existing["type"] == kind:
            if existing["status"] == value:
                condition["lastTransitionTime"] = existing["lastTransitionTime"]
            conditions[position] = condition
            return
    conditions.append(condition)


def fill(status: dict[str, Any], slots: list[Slot], restart_policy: str, has_sandbox: bool) -> None:
    """Write phase, conditions and container statuses into a pod's status."""
    now = phase(slots, restart_policy)
    if status.get("phase") not in ("Succeeded", "Failed"):
        status["phase"] = now
    inits = [slot for slot in slots if slot.is_init]
    mains = [slot for slot in slots if not slot.is_init]
    if inits:
        status["initContainerStatuses"] = [slot.report() for slot in inits]
    status["containerStatuses"] = [slot.report() for slot in mains]
    is_over = status["phase"] in ("Succeeded", "Failed")
    done = "PodCompleted" if status["phase"] == "Succeeded" else "PodFailed"
    set_condition(status, "PodReadyToStartContainers", has_sandbox and not is_over)
    waiting = [slot.name for slot in inits if slot.code != 0 and not (slot.is_sidecar and "running" in slot.state)]
    if waiting and status["phase"] != "Succeeded":
        text = f"containers with incomplete status: [{' '.join(waiting)}]"
        set_condition(status, "Initialized", False, "ContainersNotInitialized", text)
    else:
        set_condition(status, "Initialized", True, "PodCompleted" if status["phase"] == "Succeeded" else None)
    unready = [slot.name for slot in mains if "running" not in slot.state]
    for kind in ("Ready", "ContainersReady"):
        if is_over:
            set_condition(status, kind, False, done)
        elif unready:
            text = f"containers with unready status: [{' '.join(unready)}]"
            set_condition(status, kind, False, "ContainersNotReady", text)
        else:
            set_condition(status, kind, True)
