"""One pod on a node: volumes, images, containers in their order, status, and end."""

from __future__ import annotations

import contextlib
import shutil
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.simulators.kubernetes import images
from tests.simulators.kubernetes.answers import RequestRefused
from tests.simulators.kubernetes.containers import Container, unknown_end
from tests.simulators.kubernetes.pod_setup import container_spec, make_volumes
from tests.simulators.kubernetes.pod_status import Slot, fill, set_condition
from tests.simulators.kubernetes.privileges import NotYet
from tests.simulators.kubernetes.selectors import Object
from tests.simulators.kubernetes.store import stamp

if TYPE_CHECKING:
    from tests.simulators.kubernetes.node import Node


@dataclass
class End:
    """An order to end a pod's containers."""

    grace: float
    reason: str | None = None
    """Reason and message of the pod if it is not deleted, but has failed."""
    message: str | None = None
    condition: tuple[str, str] | None = None
    """(reason, message) of a DisruptionTarget condition."""


class Ending(Exception):
    """The pod has to end; any other work on it is abandoned."""


class PodWorker:
    """Runs one pod in a thread of its own. Reports every change of its containers to the store."""

    def __init__(self, node: Node, pod: Object) -> None:
        self.node = node
        self.store = node.store
        self.pod = pod
        self.uid: str = pod["metadata"]["uid"]
        self.name: str = pod["metadata"]["name"]
        self.namespace: str = pod["metadata"]["namespace"]
        self.spec: dict[str, Any] = pod["spec"]
        self.folder = node.state / "pods" / self.uid
        self.slots = [Slot(dict(spec), is_init=True) for spec in self.spec.get("initContainers") or []]
        self.slots += [Slot(dict(spec)) for spec in self.spec["containers"]]
        waits_for_init = any(not slot.is_sidecar for slot in self.slots if slot.is_init)
        for slot in self.slots:
            slot.waiting = {"reason": "PodInitializing" if waits_for_init or slot.is_init else "ContainerCreating"}
        self.volumes: dict[str, Path] = {}
        self.ip: str | None = None
        self.end: End | None = None
        self.end_by = 0.0
        self.has_failed = False
        """An init container has failed, so the others are not started."""
        self.has_ended = False
        self.is_over = False
        self.is_lost = False
        """The node is lost, so nothing is reported."""
        self.started_at = time.monotonic()
        self._wake = threading.Event()
        self.thread = threading.Thread(target=self._run, name=f"pod {self.name}", daemon=True)

    # --- called by other threads

    def order_end(self, end: End) -> None:
        """End the pod. A later order can only shorten the grace of an earlier one."""
        until = time.monotonic() + end.grace
        if self.end is None or until < self.end_by:
            self.end_by = until
        if self.end is None:
            self.end = end
        self._wake.set()

    def slot(self, name: str) -> Slot | None:
        return next((slot for slot in self.slots if slot.name == name), None)

    def log_of(self, slot: Slot, restart: int) -> Path:
        return self.folder / slot.name / f"{restart}.log"

    def vanish(self) -> None:
        """Lose the node with everything that ran on it, without a report."""
        self.is_lost = True
        for slot in self.slots:
            if slot.container:
                slot.container.vanish()
        self._wake.set()

    def changed(self) -> None:
        self._wake.set()

    # --- the pod's own thread

    def _run(self) -> None:
        try:
            self._live()
        except Ending:
            self._finish()
        except Exception as error:
            self.node.defects.append(error)
            raise
        if self.is_lost:
            return
        self._report()
        self.is_over = True
        pod = self.store.find("pods", self.namespace, self.name)
        if pod and pod["metadata"]["uid"] == self.uid and "deletionTimestamp" in pod["metadata"]:
            time.sleep(self.node.settings.cleanup)
            self.node.removed(self)

    def _live(self) -> None:
        self._until(lambda: False, self.node.settings.delay)
        self._report(
            lambda status: status.update(hostIP=self.node.ip, hostIPs=[{"ip": self.node.ip}], startTime=stamp())
        )
        self._make_volumes()
        self.ip = self.node.next_ip()
        for slot in [slot for slot in self.slots if slot.is_init]:
            self._run_init(slot)
        mains = [slot for slot in self.slots if not slot.is_init]
        self._until(lambda: self._keep_going(mains))
        for slot in reversed([slot for slot in self.slots if slot.is_sidecar]):
            self._stop([slot], time.monotonic() + self.spec["terminationGracePeriodSeconds"])

    def _make_volumes(self) -> None:
        while True:
            try:
                self.volumes = make_volumes(self.store, self.node.state, self.folder, self.pod)
                return
            except NotYet as missing:
                self.node.record(self.pod, "Warning", "FailedMount", str(missing))
                self._until(lambda: False, self.node.settings.backoff)

    def _run_init(self, slot: Slot) -> None:
        policy = self.spec["restartPolicy"]
        while True:
            self._until(lambda: self._try_start(slot))
            if slot.is_sidecar:
                return
            self._until(lambda: slot.code is not None)
            if slot.code == 0:
                return
            if policy == "Never":
                self._until_over()
            self._back_off(slot)

    def _until_over(self) -> None:
        """Record that an init container has finally failed: running containers end, and no others start."""
        self._stop([slot for slot in self.slots if slot.container], time.monotonic() + 1)
        self.end = End(0)
        self.has_failed = True
        raise Ending

    def _keep_going(self, mains: list[Slot]) -> bool:
        """Start containers, and restart them by their policy. Return whether all have finally ended."""
        for slot in self.slots:
            if slot in mains or slot.is_sidecar:
                if self._is_to_restart(slot):
                    self._back_off(slot)
                if "waiting" in slot.state:
                    self._try_start(slot)
        return all(slot.code is not None and not self._is_to_restart(slot) for slot in mains)

    def _is_to_restart(self, slot: Slot) -> bool:
        policy = self.spec["restartPolicy"]
        wants = slot.is_sidecar or policy == "Always" or (policy == "OnFailure" and slot.code != 0)
        return slot.code is not None and wants

    def _back_off(self, slot: Slot) -> None:
        """Let an ended container wait for its next start."""
        seconds = self.node.settings.backoff * 2**slot.restarts if slot.restarts else 0.0
        slot.last = slot.state["terminated"]
        slot.restarts += 1
        slot.container = None
        slot.again_at = time.monotonic() + seconds
        text = f"back-off {seconds:g}s restarting failed container={slot.name} pod={self.name}"
        slot.waiting = {"reason": "CrashLoopBackOff", "message": text}

    def _try_start(self, slot: Slot) -> bool:
        """Start a container. Return False if it waits for something; its state then has the reason."""
        if slot.container is not None:
            return slot.container.started.wait(0)
        if time.monotonic() < slot.again_at:
            return False
        image = self._pull(slot)
        if image is None:
            return False
        log = self.log_of(slot, slot.restarts)
        folder = self.folder / slot.name / str(slot.restarts)
        try:
            pod = self._now()
            described = container_spec(
                self.store,
                self.node.state,
                folder,
                pod,
                slot.spec,
                image,
                self.volumes,
                log,
                self.node.settings.log_limit,
            )
        except NotYet as missing:
            slot.waiting = {"reason": missing.reason, "message": str(missing)}
            slot.again_at = time.monotonic() + self.node.settings.backoff
            self.node.record(self.pod, "Warning", "Failed", f"Error: {missing}", slot.name)
            return False
        slot.container = Container(folder, described, self.changed)
        self.node.record(self.pod, "Normal", "Created", f"Created container: {slot.name}", slot.name)
        slot.container.start()
        self._until(slot.container.started.is_set)
        if "terminated" in slot.state and slot.state["terminated"]["reason"] == "StartError":
            self.node.record(self.pod, "Warning", "Failed", f"Error: {slot.state['terminated']['message']}", slot.name)
        else:
            self.node.record(self.pod, "Normal", "Started", f"Started container {slot.name}", slot.name)
        return True

    def _pull(self, slot: Slot) -> images.Image | None:
        """Return the container's image; None as long as it cannot be pulled."""
        name, policy = slot.spec["image"], slot.spec["imagePullPolicy"]
        if not images.is_valid(name):
            reason = f'couldn\'t parse image name "{name}": invalid reference format'
            text = f'Failed to apply default image tag "{name}": {reason}'
            self._cannot_pull(slot, "InvalidImageName", text, "InspectFailed", text)
            return None
        image = images.lookup(self.node.images, name)
        if name in self.node.pulled and policy != "Always" and image:
            text = f'Container image "{name}" already present on machine'
            self.node.record(self.pod, "Normal", "Pulled", text, slot.name)
            return image
        if policy == "Never":
            text = f'Container image "{name}" is not present with pull policy of Never'
            self._cannot_pull(slot, "ErrImageNeverPull", text, "ErrImageNeverPull", text)
            return None
        if slot.waiting["reason"] == "ErrImagePull":
            text = f'Back-off pulling image "{name}"'
            self._cannot_pull(slot, "ImagePullBackOff", f"{text}: {slot.waiting['message']}", "BackOff", text)
            return None
        self.node.record(self.pod, "Normal", "Pulling", f'Pulling image "{name}"', slot.name)
        begin = time.monotonic()
        if image and image.seconds and name not in self.node.pulled:
            self._until(lambda: time.monotonic() >= begin + image.seconds, image.seconds)
        if image is None or image.pull_error:
            reason = image.pull_error if image and image.pull_error else _no_such_image(name)
            text = f'failed to pull and unpack image "docker.io/library/{name}": {reason}'
            text = f"rpc error: code = NotFound desc = {text}"
            self._cannot_pull(slot, "ErrImagePull", text, "Failed", f'Failed to pull image "{name}": {text}')
            return None
        self.node.pulled.add(name)
        took = f"{time.monotonic() - begin:.3f}s"
        text = f'Successfully pulled image "{name}" in {took} ({took} including waiting). Image size: 4261574 bytes.'
        self.node.record(self.pod, "Normal", "Pulled", text, slot.name)
        return image

    def _cannot_pull(self, slot: Slot, reason: str, message: str, event: str, event_message: str) -> None:
        slot.waiting = {"reason": reason, "message": message}
        slot.again_at = time.monotonic() + self.node.settings.backoff
        self.node.record(self.pod, "Normal" if event == "BackOff" else "Warning", event, event_message, slot.name)
        if event != "BackOff":
            self.node.record(self.pod, "Warning", "Failed", f"Error: {reason}", slot.name)

    def _until(self, done: Callable[[], bool], seconds: float | None = None) -> None:
        """Report, and wait for `done`, up to some seconds. Raises Ending if the pod has to end."""
        until = None if seconds is None else time.monotonic() + seconds
        while True:
            self._wake.clear()
            self._check_deadline()
            if self.end or self.is_lost:
                raise Ending
            if done():
                return
            self._report()
            remaining = 0.1 if until is None else min(0.1, until - time.monotonic())
            if remaining <= 0:
                return
            self._wake.wait(remaining if any("waiting" in slot.state for slot in self.slots) or until else 0.5)

    def _check_deadline(self) -> None:
        seconds = self._now()["spec"].get("activeDeadlineSeconds")
        if seconds is None or self.end or time.monotonic() < self.started_at + seconds:
            return
        text = "Pod was active on the node longer than the specified deadline"
        self.node.record(self.pod, "Normal", "DeadlineExceeded", text)
        self.order_end(End(self.spec["terminationGracePeriodSeconds"], "DeadlineExceeded", text))

    def _finish(self) -> None:
        """End all containers, and report the end of the pod."""
        if self.is_lost or self.end is None:
            return
        condition = self.end.condition
        if condition:
            self._report(lambda status: set_condition(status, "DisruptionTarget", True, *condition))
        self._stop([slot for slot in self.slots if slot.container], None)
        if self._has_initialized() and not self.has_failed:
            for slot in self.slots:
                if "waiting" in slot.state and not slot.is_init:
                    slot.lost = unknown_end()
        self.has_ended = True

    def _has_initialized(self) -> bool:
        """Return whether all init containers have succeeded. Then a container that never ran gets an unknown end."""
        return all(slot.code == 0 or (slot.is_sidecar and slot.container) for slot in self.slots if slot.is_init)

    def _stop(self, slots: list[Slot], until: float | None) -> None:
        """Send TERM, wait, send KILL. Blocks until none runs. `until` None = the changing time of the order."""
        live = [slot for slot in slots if slot.container and not slot.container.ended.is_set()]
        hooks = []
        for slot in live:
            self.node.record(self.pod, "Normal", "Killing", f"Stopping container {slot.name}", slot.name)
            hook = (slot.spec.get("lifecycle") or {}).get("preStop")
            remaining = (self.end_by if until is None else until) - time.monotonic()
            if hook and remaining > 0 and slot.container:
                hooks.append(threading.Thread(target=self._before_stop, args=(slot, hook, remaining), daemon=True))
                hooks[-1].start()
            elif slot.container:
                slot.container.terminate()
        while any(slot.code is None for slot in live) and not self.is_lost:
            remaining = (self.end_by if until is None else until) - time.monotonic()
            if remaining <= 0 and not any(hook.is_alive() for hook in hooks):
                for slot in live:
                    if slot.container:
                        slot.container.kill()
            self._wake.clear()
            if any(slot.code is None for slot in live):
                self._wake.wait(0.1 if remaining <= 0 else min(remaining, 0.5))
            self._report()

    def _before_stop(self, slot: Slot, hook: dict[str, Any], seconds: float) -> None:
        """Run the container's preStop hook. After it, the container has at least two seconds more."""
        assert slot.container
        if "sleep" in hook:
            slot.container.ended.wait(min(seconds, hook["sleep"]["seconds"]))
        if "exec" in hook and slot.container.run(hook["exec"]["command"], seconds) != 0:
            self.node.record(self.pod, "Warning", "FailedPreStopHook", "PreStopHook failed", slot.name)
        slot.container.terminate()
        slot.container.ended.wait(2)

    def _now(self) -> Object:
        return self.store.find("pods", self.namespace, self.name) or self.pod

    def _report(self, change: Callable[[dict[str, Any]], None] | None = None) -> None:
        """Write the current state to the pod's status, if the pod still exists."""
        if self.is_lost or (self.node.settings.is_late and not change and not self.end):
            return

        def write(pod: Object) -> None:
            status = pod["status"]
            if change:
                change(status)
            if "startTime" in status:
                if self.ip:
                    status.update(podIP=self.ip, podIPs=[{"ip": self.ip}])
                fill(status, self.slots, self.spec["restartPolicy"], self.ip is not None)
            if self.end and self.end.reason and (self.has_ended or status["phase"] in ("Succeeded", "Failed")):
                status.update(phase="Failed", reason=self.end.reason, message=self.end.message)

        with contextlib.suppress(RequestRefused):
            self.store.update("pods", self.namespace, self.name, write, uid=self.uid)

    def report_lost(self) -> None:
        """Report for a restarted node that the pod has ended, with an unknown exit code."""
        self._report(lambda status: status.update(phase="Failed"))

    def clear_away(self) -> None:
        """End the rest of the pod, and remove its files. Idempotent; blocks until all its processes have ended."""
        self.vanish()
        if self.thread.ident and self.thread is not threading.current_thread():
            self.thread.join(10)
        for slot in self.slots:
            if slot.container:
                slot.container.vanish()
        shutil.rmtree(self.folder, ignore_errors=True)


def _no_such_image(name: str) -> str:
    return (
        f'failed to resolve reference "docker.io/library/{name}": pull access denied, repository does not exist or may '
        "require authorization: server message: insufficient_scope: authorization failed"
    )
