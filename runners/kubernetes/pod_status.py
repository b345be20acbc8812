"""Reading the state of a job from the status of its pod.

The state of the job's own container decides. The phase of a pod does not: it waits for the other containers, and it is
`Failed` for a job that succeeded on a machine that went down later.
"""

from __future__ import annotations

import dataclasses
import datetime
import signal
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from runners.base import Exit, Exited, Pending, Reason, Running
from runners.kubernetes.manifests import BUILD_TIMEOUT, BUILDER, HELPER, IMAGE_FILES, INPUT, MAIN, STEP_PREFIX, STEPS

Pod = Mapping[str, Any]

PERMANENT_REASONS = {"InvalidImageName", "ErrImageNeverPull"}
"""Reasons for which a container waits forever."""
IMAGE_REASONS = {
    "ErrImagePull", "ImagePullBackOff", "ImageInspectError", "RegistryUnavailable", "SignatureValidationFailed",
    *PERMANENT_REASONS,
}  # fmt: skip
START_REASONS = {
    "CreateContainerConfigError", "CreateContainerError", "RunContainerError", "PostStartHookError", "CrashLoopBackOff",
}  # fmt: skip
LOST_REASONS = {"NodeLost", "DeletionByTaintManager", "DeletionByPodGC"}
"""Reasons of a pod's failure or disruption: its machine does not answer any more."""
CLUSTER_REASONS = {Reason.EVICTED, Reason.LOST, Reason.START}
"""Ends of a pod that its cluster caused: its machine ran short, was lost, or did not admit the pod."""
NEVER_BEGUN_REASONS = {"StartError", "ContainerCannotRun", "RunContainerError", "CreateContainerError"}
"""Reasons of a container that has ended because its command could not be run."""
UNKNOWN_REASON = "ContainerStatusUnknown"
OUT_OF_MEMORY = "A process of the job exceeded the memory limit"


@dataclass(frozen=True)
class StartProblem:
    """The reason why a pod's command has not begun, if it may not pass by itself."""

    reason: Reason
    """The job's reason if it ends because of this."""
    text: str
    is_permanent: bool = False
    kind: str = dataclasses.field(default="", compare=False)
    """The part that has the problem. Patience begins again with a problem of another kind."""


@dataclass(frozen=True)
class PodView:
    """The state of a job according to its pod."""

    state: Pending | Running | Exited
    problem: StartProblem | None = None
    is_unexplained: bool = False
    """The command has not begun, and the pod's status does not say why."""


def pod_view(pod: Pod) -> PodView:
    """Return the state of the job in a pod."""
    status = pod.get("status") or {}
    node = (pod.get("spec") or {}).get("nodeName")
    containers = _containers(status)
    state = _state_of(containers, MAIN)
    if "terminated" in state:
        return PodView(Exited(_exit(pod, state["terminated"], containers), node))
    if status.get("phase") in ("Failed", "Succeeded"):
        return PodView(Exited(_exit_of_pod(pod, containers), node))
    if "running" in state:
        return _running_view(pod, containers, node)
    problem = _start_problem(status, containers)
    if problem is not None:
        return PodView(Pending(problem.text), problem)
    note = _progress_note(containers)
    return PodView(Pending(note), is_unexplained=note is None)


def has_begun(pod: Pod) -> bool:
    """Return whether the job's container has been started, as far as the pod's status shows."""
    state = _container_state(pod, MAIN)
    return "running" in state or "terminated" in state


def own_end(pod: Pod) -> Exit | None:
    """Return the end of the job's command as its container reports it, whoever ended it.

    Returns None if the command has not ended, never began, or its end is unknown.
    """
    terminated = _container_state(pod, MAIN).get("terminated") or {}
    if not terminated.get("startedAt") or terminated.get("reason") in {*NEVER_BEGUN_REASONS, UNKNOWN_REASON}:
        return None
    return _exit_by_itself(terminated, int(terminated.get("exitCode", 0)))


def scheduled_at(pod: Pod) -> float:
    """Return when the pod was assigned to its machine, as Unix time; 0 if it was not."""
    condition = _condition(pod, "PodScheduled")
    return unix_time(condition["lastTransitionTime"]) if condition.get("status") == "True" else 0.0


def forced_end(pod: Pod, name: str) -> str | None:
    """Return why a container has ended, in the cluster's words; None if it ended by itself."""
    status = pod.get("status") or {}
    terminated = _container_state(pod, name).get("terminated") or {}
    if terminated.get("reason") == "OOMKilled":
        return "it exceeded its memory limit"
    disrupted = disruption(pod)
    if disrupted is not None:
        return disrupted.message
    return _join(status.get("reason"), status.get("message")) if status.get("phase") == "Failed" else None


def was_ended_by_cluster(pod: Pod, name: str) -> bool:
    """Return whether the cluster has ended a container for reasons of its own, so that it could succeed elsewhere."""
    status = pod.get("status") or {}
    terminated = _container_state(pod, name).get("terminated") or {}
    if terminated.get("reason") == "OOMKilled":
        return False
    pod_reason = _pod_failure(status).reason if status.get("reason") else None
    is_unknown = terminated.get("reason") == UNKNOWN_REASON
    return disruption(pod) is not None or is_unknown or pod_reason in CLUSTER_REASONS


def started_at(pod: Pod) -> float | None:
    """Return when the job's container was started, as Unix time; None if it was not."""
    state = _container_state(pod, MAIN)
    text = (state.get("running") or state.get("terminated") or {}).get("startedAt")
    return unix_time(text) if text else None


def disruption(pod: Pod) -> Exit | None:
    """Return the end of the job in a pod that the cluster takes away; None for any other pod."""
    condition = _condition(pod, "DisruptionTarget")
    if condition.get("status") != "True":
        return None
    reason = Reason.LOST if condition.get("reason") in LOST_REASONS else Reason.EVICTED
    return Exit(reason, message=_join(condition.get("reason"), condition.get("message")))


def container_runs(pod: Pod, name: str) -> bool | None:
    """Return whether a container runs; None if it may still start."""
    state = _container_state(pod, name)
    if "running" in state:
        return True
    has_ended = "terminated" in state or (pod.get("status") or {}).get("phase") in ("Failed", "Succeeded")
    return False if has_ended else None


def end_of(pod: Pod, name: str) -> str:
    """Return how a container has ended, as a clause for a message."""
    terminated = _container_state(pod, name).get("terminated") or {}
    code = f"exit code {terminated['exitCode']}" if "exitCode" in terminated else None
    details = [terminated.get("reason"), code, (pod.get("status") or {}).get("reason")]
    text = ", ".join(detail for detail in details if detail)
    return f"The container `{name}` of the job's pod has ended" + (f" ({text})" if text else "")


def exit_code(pod: Pod, name: str) -> int | None:
    """Return the exit code of a container; None if it has not ended, or its exit code is unknown."""
    code = (_container_state(pod, name).get("terminated") or {}).get("exitCode")
    return None if code is None else int(code)


def start_problem(pod: Pod) -> StartProblem | None:
    """Return why a pod's containers do not start, if that may not pass by itself."""
    status = pod.get("status") or {}
    return _start_problem(status, _containers(status))


def is_building(pod: Pod) -> bool:
    """Return whether the build steps run, in the job's own container."""
    containers = _containers(pod.get("status") or {})
    return "running" in _state_of(containers, MAIN) and _are_steps_unfinished(pod, containers)


def unix_time(text: str) -> float:
    """Return the Unix time of a timestamp of the API server."""
    return datetime.datetime.fromisoformat(text.replace("Z", "+00:00")).timestamp()


def _containers(status: Mapping[str, Any]) -> dict[str, Any]:
    both = [*(status.get("initContainerStatuses") or []), *(status.get("containerStatuses") or [])]
    return {item["name"]: item for item in both}


def _state_of(containers: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    return (containers.get(name) or {}).get("state") or {}


def _container_state(pod: Pod, name: str) -> Mapping[str, Any]:
    return _state_of(_containers(pod.get("status") or {}), name)


def _are_steps_unfinished(pod: Pod, containers: Mapping[str, Any]) -> bool:
    if not any(item["name"] == STEPS for item in (pod.get("spec") or {}).get("containers") or []):
        return False
    terminated = _state_of(containers, STEPS).get("terminated")
    return terminated is None or terminated.get("exitCode") != 0


# A command that runs.


def _running_view(pod: Pod, containers: Mapping[str, Any], node: str | None) -> PodView:
    if _are_steps_unfinished(pod, containers):
        return PodView(Pending("The build steps run in the job's own pod; their result is not kept"))
    if pod["metadata"].get("deletionTimestamp"):
        return PodView(Running(node, "The pod is being deleted, but not by polyjob"))
    ready = _condition(pod, "Ready")
    # A kubelet that answers gives a reason for a pod that is not ready.
    is_silent = ready.get("status") == "False" and ready.get("reason") in (None, "", "NodeNotReady")
    if (pod.get("status") or {}).get("reason") == "NodeLost" or is_silent:
        return PodView(Running(node, f"The machine {node} does not answer"))
    if container_runs(pod, HELPER) is False:
        return PodView(Running(node, f"{end_of(pod, HELPER)}: the outputs of the job may not be kept"))
    return PodView(Running(node))


# A command that has not begun.


def _start_problem(status: Mapping[str, Any], containers: Mapping[str, Any]) -> StartProblem | None:
    for item in status.get("conditions") or []:
        if item["type"] == "PodScheduled" and item["status"] == "False" and item.get("reason") != "SchedulingGated":
            return StartProblem(Reason.START, _join(item.get("reason"), item.get("message")), kind="node")
    is_disrupted = disruption({"status": status}) is not None
    for name in (IMAGE_FILES, INPUT, HELPER, STEPS, MAIN, BUILDER):
        state = _state_of(containers, name)
        waiting, terminated = state.get("waiting") or {}, state.get("terminated") or {}
        reason = waiting.get("reason", "")
        text = _join(reason, waiting.get("message"))
        if reason in IMAGE_REASONS:
            return StartProblem(Reason.IMAGE, text, reason in PERMANENT_REASONS, kind=f"image of {name}")
        if reason in START_REASONS:
            return StartProblem(Reason.START, text, kind=f"start of {name}")
        if terminated.get("exitCode") and name in (IMAGE_FILES, INPUT) and not is_disrupted:
            text = f"The container `{name}` ended with exit code {terminated['exitCode']}"
            return StartProblem(Reason.START, text, is_permanent=True)
    return None


def _progress_note(containers: Mapping[str, Any]) -> str | None:
    return "The job's files are being copied into its pod" if "running" in _state_of(containers, INPUT) else None


def _join(reason: str | None, message: str | None) -> str:
    return ": ".join(part.strip() for part in (reason, message) if part)


# A command that has ended.


def _exit(pod: Pod, terminated: Mapping[str, Any], containers: Mapping[str, Any]) -> Exit:
    code = int(terminated.get("exitCode", 0))
    reason, message = terminated.get("reason"), (terminated.get("message") or "").strip()
    if reason in NEVER_BEGUN_REASONS:
        return Exit(Reason.START, code=code, message=message or "The command could not be run")
    if reason == UNKNOWN_REASON:
        return Exit(Reason.LOST, message=message or "The machine lost sight of the job's container")
    forced = _forced_exit(pod, terminated, code)
    if forced is not None:
        return forced
    if reason == "OOMKilled" and code == 128 + signal.SIGKILL:
        return Exit(Reason.OOM, code=code, signal=signal.SIGKILL, message=OUT_OF_MEMORY)
    if _are_steps_unfinished(pod, containers) and code:
        return _failed_step(pod, terminated, message, code)
    return _exit_by_itself(terminated, code)


def _exit_by_itself(terminated: Mapping[str, Any], code: int) -> Exit:
    message = OUT_OF_MEMORY if terminated.get("reason") == "OOMKilled" else None
    signal_number = int(terminated.get("signal") or 0) or code - 128
    if 0 < signal_number <= 64 and signal_number in {item.value for item in signal.Signals}:
        return Exit(Reason.SIGNALLED, code=128 + signal_number, signal=signal_number, message=message)
    return Exit(Reason.EXITED, code=code, message=message)


def _failed_step(pod: Pod, terminated: Mapping[str, Any], message: str, code: int) -> Exit:
    step_text = message.removeprefix(STEP_PREFIX) if message.startswith(STEP_PREFIX) else ""
    step = int(step_text) if step_text.isdecimal() else None
    limit = (pod["metadata"].get("annotations") or {}).get(BUILD_TIMEOUT)
    started = terminated.get("startedAt")
    duration = unix_time(terminated["finishedAt"]) - unix_time(started) if started else 0.0
    outcome = f"ended with exit code {code}"
    if limit is not None and code == 128 + signal.SIGKILL and duration >= float(limit):
        outcome = f"exceeded the time limit of {limit} s for the build"
    text = f"{f'step {step}' if step else 'a build step'} {outcome}"
    return Exit(Reason.BUILD, code=code, message=text, step=step)


def _forced_exit(pod: Pod, terminated: Mapping[str, Any], code: int) -> Exit | None:
    """Return the end of a command that the cluster, or somebody with its permissions, has ended.

    Returns None for a command that ended by itself, even if its pod was taken away later.
    """
    status, signal_number = pod.get("status") or {}, code - 128 if code > 128 else None
    finished = unix_time(terminated["finishedAt"]) if terminated.get("finishedAt") else None
    disrupted, deadline = disruption(pod), _deadline(pod)
    if disrupted and not _is_before(finished, _condition(pod, "DisruptionTarget").get("lastTransitionTime")):
        return dataclasses.replace(disrupted, code=code, signal=signal_number)
    was_over = finished is not None and deadline is not None and finished < deadline
    is_later = was_over if status.get("reason") == "DeadlineExceeded" else disrupted is not None
    if status.get("reason") and status.get("phase") == "Failed" and not is_later:
        return dataclasses.replace(_pod_failure(status), code=code, signal=signal_number)
    deleted = pod["metadata"].get("deletionTimestamp")
    if deleted:
        grace = float(pod["metadata"].get("deletionGracePeriodSeconds") or 0)
        if finished is None or finished >= unix_time(deleted) - grace:
            return Exit(Reason.LOST, code, signal_number, message="The pod was deleted, but not by polyjob")
    return None


def _deadline(pod: Pod) -> float | None:
    """Return the Unix time at which the machine ends a pod because of its `activeDeadlineSeconds`."""
    seconds, begun = (pod.get("spec") or {}).get("activeDeadlineSeconds"), (pod.get("status") or {}).get("startTime")
    return unix_time(begun) + float(seconds) if seconds and begun else None


def _is_before(finished: float | None, timestamp: str | None) -> bool:
    return finished is not None and timestamp is not None and finished < unix_time(timestamp)


def _exit_of_pod(pod: Pod, containers: Mapping[str, Any]) -> Exit:
    """Return the end of the job in a pod that has ended, while its container does not report an end."""
    disrupted, problem = disruption(pod), _start_problem({}, containers)
    end = disrupted or _pod_failure(pod.get("status") or {})
    if disrupted is None and problem is not None and end.reason is not Reason.EVICTED:
        return Exit(problem.reason, message=problem.text)
    is_waiting = "waiting" in _state_of(containers, MAIN)
    if is_waiting and end.reason in (Reason.EVICTED, Reason.TIMEOUT):  # the machine itself has ended the pod
        return dataclasses.replace(end, begun=False)
    return end


def _pod_failure(status: Mapping[str, Any]) -> Exit:
    reason, text = status.get("reason") or "", _join(status.get("reason"), status.get("message"))
    if reason == "DeadlineExceeded":
        return Exit(Reason.TIMEOUT, message=text)
    if reason in ("Evicted", "Preempting", "Terminated", "NodeShutdown", "Shutdown"):
        return Exit(Reason.EVICTED, message=text)
    if reason in LOST_REASONS or not reason:
        return Exit(Reason.LOST, message=text or "The pod has ended without a reason")
    return Exit(Reason.START, message=text)  # the machine did not admit it


def _condition(pod: Pod, kind: str) -> Mapping[str, Any]:
    conditions = (pod.get("status") or {}).get("conditions") or []
    return next((item for item in conditions if item["type"] == kind), {})
