"""What a pod's object says of the job in it. Pure.

The truth is what became of the job's own container: a pod's phase waits for its other containers, and says `Failed` of
a job that ended well on a machine that went down later.
"""

from __future__ import annotations

import dataclasses
import datetime
import signal
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from runners.base import Exit, Exited, Pending, Reason, Running
from runners.kubernetes.manifests import BUILD_TIMEOUT, BUILDER, HELPER, INPUT, KEPT, MAIN, STEP, STEPS

Pod = Mapping[str, Any]

HOPELESS = {"InvalidImageName", "ErrImageNeverPull"}
"""Why a container waits, and will for ever."""
OF_IMAGES = {
    "ErrImagePull", "ImagePullBackOff", "ImageInspectError", "RegistryUnavailable", "SignatureValidationFailed",
    *HOPELESS,
}  # fmt: skip
OF_STARTS = {
    "CreateContainerConfigError", "CreateContainerError", "RunContainerError", "PostStartHookError", "CrashLoopBackOff",
}  # fmt: skip
LOST_REASONS = {"NodeLost", "DeletionByTaintManager", "DeletionByPodGC"}
"""Of pods and of their disruption: the machine does not answer any more."""
TAKEN_AWAY = {Reason.EVICTED, Reason.LOST, Reason.START}
"""Ends of a pod for reasons of its cluster: its machine ran short, was lost, or did not take it."""
NEVER_BEGUN = {"StartError", "ContainerCannotRun", "RunContainerError", "CreateContainerError"}
"""Why a container has ended whose command could not be run."""
NOBODY_KNOWS = "ContainerStatusUnknown"


@dataclass(frozen=True)
class Trouble:
    """Why a pod's command has not begun, where that need not pass by itself."""

    reason: Reason
    """What the job's end is told with, if it comes to that."""
    text: str
    is_hopeless: bool = False
    kind: str = dataclasses.field(default="", compare=False)
    """What it is about: two that differ in this are not one trouble that lasts."""


@dataclass(frozen=True)
class Seen:
    """What a pod says."""

    state: Pending | Running | Exited
    trouble: Trouble | None = None
    is_unexplained: bool = False
    """The command has not begun, and the pod does not say why."""


def seen(pod: Pod) -> Seen:
    """What a pod says of its job."""
    status = pod.get("status") or {}
    node = (pod.get("spec") or {}).get("nodeName")
    containers = _containers(status)
    main = containers.get(MAIN) or {}
    state = main.get("state") or {}
    if "terminated" in state:
        return Seen(Exited(_exit_of(pod, state["terminated"], containers), node))
    if status.get("phase") in ("Failed", "Succeeded"):
        return Seen(Exited(_exit_without(pod, containers), node))
    if "running" in state:
        return _running(pod, containers, node)
    trouble = _trouble(status, containers)
    if trouble is not None:
        return Seen(Pending(trouble.text), trouble)
    note = _progress(containers)
    return Seen(Pending(note), is_unexplained=note is None)


def has_begun(pod: Pod) -> bool:
    """Whether the job's container has been started, as far as the pod says."""
    state = (_containers(pod.get("status") or {}).get(MAIN) or {}).get("state") or {}
    return "running" in state or "terminated" in state


def own_end(pod: Pod) -> Exit | None:
    """The end of the job's command as its container tells it, whoever ended that; None where it has not ended, never
    began, or nobody knows."""
    state = (_containers(pod.get("status") or {}).get(MAIN) or {}).get("state") or {}
    ended = state.get("terminated") or {}
    if not ended.get("startedAt") or ended.get("reason") in {*NEVER_BEGUN, NOBODY_KNOWS}:
        return None
    return _by_itself(ended, int(ended.get("exitCode", 0)))


def scheduled_at(pod: Pod) -> float:
    """When the pod was given its machine, as Unix time; 0 where it has none."""
    told = _condition(pod, "PodScheduled")
    return moment_of(told["lastTransitionTime"]) if told.get("status") == "True" else 0.0


def forced_end(pod: Pod, name: str) -> str | None:
    """Why a container has ended, in the cluster's words, where it did not end by itself."""
    status = pod.get("status") or {}
    ended = ((_containers(status).get(name) or {}).get("state") or {}).get("terminated") or {}
    if ended.get("reason") == "OOMKilled":
        return "it needed more memory than it may have"
    disrupted = disruption(pod)
    if disrupted is not None:
        return disrupted.message
    return _words(status.get("reason"), status.get("message")) if status.get("phase") == "Failed" else None


def is_taken_away(pod: Pod, name: str) -> bool:
    """Whether the cluster has ended a container for reasons of its own, so that it could go well elsewhere."""
    status = pod.get("status") or {}
    ended = ((_containers(status).get(name) or {}).get("state") or {}).get("terminated") or {}
    if ended.get("reason") == "OOMKilled":
        return False
    of_pod = _of_pod(status).reason if status.get("reason") else None
    return disruption(pod) is not None or ended.get("reason") == NOBODY_KNOWS or of_pod in TAKEN_AWAY


def started_at(pod: Pod) -> float | None:
    """When the job's container was started, as Unix time; None where it has not been."""
    state = (_containers(pod.get("status") or {}).get(MAIN) or {}).get("state") or {}
    text = (state.get("running") or state.get("terminated") or {}).get("startedAt")
    return moment_of(text) if text else None


def disruption(pod: Pod) -> Exit | None:
    """The end of the job of a pod that the cluster says it takes away; None of any other pod."""
    told = _condition(pod, "DisruptionTarget")
    if told.get("status") != "True":
        return None
    reason = Reason.LOST if told.get("reason") in LOST_REASONS else Reason.EVICTED
    return Exit(reason, message=_words(told.get("reason"), told.get("message")))


def container_runs(pod: Pod, name: str) -> bool | None:
    """Whether a container runs; None where it has not begun, and may."""
    state = (_containers(pod.get("status") or {}).get(name) or {}).get("state") or {}
    if "running" in state:
        return True
    has_ended = "terminated" in state or (pod.get("status") or {}).get("phase") in ("Failed", "Succeeded")
    return False if has_ended else None


def end_of(pod: Pod, name: str) -> str:
    """How a container that does not run any more has ended, in a clause for people."""
    status = pod.get("status") or {}
    ended = ((_containers(status).get(name) or {}).get("state") or {}).get("terminated") or {}
    how = [ended.get("reason"), f"exit code {ended['exitCode']}" if "exitCode" in ended else None, status.get("reason")]
    words = ", ".join(word for word in how if word)
    return f"The container `{name}` of the job's pod has ended" + (f" ({words})" if words else "")


def exit_code(pod: Pod, name: str) -> int | None:
    """Of a container; None where it has not ended, or nobody knows."""
    state = (_containers(pod.get("status") or {}).get(name) or {}).get("state") or {}
    code = (state.get("terminated") or {}).get("exitCode")
    return None if code is None else int(code)


def trouble_of(pod: Pod) -> Trouble | None:
    """Why a pod's containers do not begin, where that need not pass by itself."""
    status = pod.get("status") or {}
    return _trouble(status, _containers(status))


def is_building(pod: Pod) -> bool:
    """Whether the build steps run, in the job's container."""
    state = (_containers(pod.get("status") or {}).get(MAIN) or {}).get("state") or {}
    return "running" in state and _are_steps_left(pod, _containers(pod.get("status") or {}))


def moment_of(text: str) -> float:
    """The Unix time of one that the API server tells."""
    return datetime.datetime.fromisoformat(text.replace("Z", "+00:00")).timestamp()


def _containers(status: Mapping[str, Any]) -> dict[str, Any]:
    both = [*(status.get("initContainerStatuses") or []), *(status.get("containerStatuses") or [])]
    return {item["name"]: item for item in both}


def _are_steps_left(pod: Pod, containers: Mapping[str, Any]) -> bool:
    if not any(item["name"] == STEPS for item in (pod.get("spec") or {}).get("containers") or []):
        return False
    ended = ((containers.get(STEPS) or {}).get("state") or {}).get("terminated")
    return ended is None or ended.get("exitCode") != 0


# A command that runs.


def _running(pod: Pod, containers: Mapping[str, Any], node: str | None) -> Seen:
    if _are_steps_left(pod, containers):
        return Seen(Pending("The build steps run in the job's own pod, and nothing of them is kept"))
    if pod["metadata"].get("deletionTimestamp"):
        return Seen(Running(node, "The pod is being deleted, and not by polyjob"))
    ready = _condition(pod, "Ready")
    is_unheard = ready.get("status") == "False" and ready.get("reason") in (None, "", "NodeNotReady")
    if (pod.get("status") or {}).get("reason") == "NodeLost" or is_unheard:  # a kubelet says why a pod is not ready
        return Seen(Running(node, f"The machine {node} does not answer"))
    if container_runs(pod, HELPER) is False:
        return Seen(Running(node, f"{end_of(pod, HELPER)}: the outputs of the job may not be kept"))
    return Seen(Running(node))


# A command that has not begun.


def _trouble(status: Mapping[str, Any], containers: Mapping[str, Any]) -> Trouble | None:
    for item in status.get("conditions") or []:
        if item["type"] == "PodScheduled" and item["status"] == "False" and item.get("reason") != "SchedulingGated":
            return Trouble(Reason.START, _words(item.get("reason"), item.get("message")), kind="node")
    is_taken_away = disruption({"status": status}) is not None
    for name in (KEPT, INPUT, HELPER, STEPS, MAIN, BUILDER):
        state = (containers.get(name) or {}).get("state") or {}
        waiting, ended = state.get("waiting") or {}, state.get("terminated") or {}
        reason = waiting.get("reason", "")
        if reason in OF_IMAGES:
            text = _words(reason, waiting.get("message"))
            return Trouble(Reason.IMAGE, text, reason in HOPELESS, kind=f"image of {name}")
        if reason in OF_STARTS:
            return Trouble(Reason.START, _words(reason, waiting.get("message")), kind=f"start of {name}")
        if ended.get("exitCode") and name in (KEPT, INPUT) and not is_taken_away:
            return Trouble(Reason.START, f"The container `{name}` ended with exit code {ended['exitCode']}", True)
    return None


def _progress(containers: Mapping[str, Any]) -> str | None:
    if "running" in ((containers.get(INPUT) or {}).get("state") or {}):
        return "The job's files are put into its pod"
    return None


def _words(reason: str | None, message: str | None) -> str:
    return ": ".join(part.strip() for part in (reason, message) if part)


# A command that has ended.


def _exit_of(pod: Pod, ended: Mapping[str, Any], containers: Mapping[str, Any]) -> Exit:
    code = int(ended.get("exitCode", 0))
    reason, said = ended.get("reason"), (ended.get("message") or "").strip()
    if reason in NEVER_BEGUN:
        return Exit(Reason.START, code=code, message=said or "The command could not be run")
    if reason == NOBODY_KNOWS:
        return Exit(Reason.LOST, message=said or "The machine lost sight of the job's container")
    forced = _forced(pod, ended, code)
    if forced is not None:
        return forced
    if reason == "OOMKilled" and code == 128 + signal.SIGKILL:
        text = "A process of the job needed more memory than it may have"
        return Exit(Reason.OOM, code=code, signal=signal.SIGKILL, message=text)
    if _are_steps_left(pod, containers) and code:
        return _failed_step(pod, ended, said, code)
    return _by_itself(ended, code)


def _by_itself(ended: Mapping[str, Any], code: int) -> Exit:
    message = "A process of the job needed more memory than it may have" if ended.get("reason") == "OOMKilled" else None
    number = int(ended.get("signal") or 0) or code - 128
    if 0 < number <= 64 and number in {item.value for item in signal.Signals}:
        return Exit(Reason.SIGNALLED, code=128 + number, signal=number, message=message)
    return Exit(Reason.EXITED, code=code, message=message)


def _failed_step(pod: Pod, ended: Mapping[str, Any], said: str, code: int) -> Exit:
    number = said.removeprefix(STEP) if said.startswith(STEP) else ""
    step = int(number) if number.isdecimal() else None
    limit = (pod["metadata"].get("annotations") or {}).get(BUILD_TIMEOUT)
    took = moment_of(ended["finishedAt"]) - moment_of(ended["startedAt"]) if ended.get("startedAt") else 0.0
    how = f"ended with exit code {code}"
    if limit is not None and code == 128 + signal.SIGKILL and took >= float(limit):
        how = f"was not done after the {limit} s that a build may take"
    return Exit(Reason.BUILD, code=code, message=f"{f'step {step}' if step else 'a build step'} {how}", step=step)


def _forced(pod: Pod, ended: Mapping[str, Any], code: int) -> Exit | None:
    """The end of a command that the cluster, or somebody with its rights, has ended; None for one that ended by itself,
    also where its pod was taken away later."""
    status, number = pod.get("status") or {}, code - 128 if code > 128 else None
    finished = moment_of(ended["finishedAt"]) if ended.get("finishedAt") else None
    disrupted, deadline = disruption(pod), _deadline(pod)
    if disrupted and not _was_over(finished, _condition(pod, "DisruptionTarget").get("lastTransitionTime")):
        return dataclasses.replace(disrupted, code=code, signal=number)
    was_over = finished is not None and deadline is not None and finished < deadline
    is_later = was_over if status.get("reason") == "DeadlineExceeded" else disrupted is not None
    if status.get("reason") and status.get("phase") == "Failed" and not is_later:
        return dataclasses.replace(_of_pod(status), code=code, signal=number)
    deleted = pod["metadata"].get("deletionTimestamp")
    if deleted:
        grace = float(pod["metadata"].get("deletionGracePeriodSeconds") or 0)
        if finished is None or finished >= moment_of(deleted) - grace:
            return Exit(Reason.LOST, code, number, message="The pod was deleted, and not by polyjob")
    return None


def _deadline(pod: Pod) -> float | None:
    """The Unix time from which on the machine ends a pod for its `activeDeadlineSeconds`."""
    seconds, begun = (pod.get("spec") or {}).get("activeDeadlineSeconds"), (pod.get("status") or {}).get("startTime")
    return moment_of(begun) + float(seconds) if seconds and begun else None


def _was_over(finished: float | None, since: str | None) -> bool:
    return finished is not None and since is not None and finished < moment_of(since)


def _exit_without(pod: Pod, containers: Mapping[str, Any]) -> Exit:
    """The end of a pod that has ended without its job's container having said how."""
    disrupted, trouble = disruption(pod), _trouble({}, containers)
    end = disrupted or _of_pod(pod.get("status") or {})
    if disrupted is None and trouble is not None and end.reason is not Reason.EVICTED:
        return Exit(trouble.reason, message=trouble.text)
    is_waiting = "waiting" in ((containers.get(MAIN) or {}).get("state") or {})
    if is_waiting and end.reason in (Reason.EVICTED, Reason.TIMEOUT):  # the machine itself has ended the pod
        return dataclasses.replace(end, begun=False)
    return end


def _of_pod(status: Mapping[str, Any]) -> Exit:
    reason, text = status.get("reason") or "", _words(status.get("reason"), status.get("message"))
    if reason == "DeadlineExceeded":
        return Exit(Reason.TIMEOUT, message=text)
    if reason in ("Evicted", "Preempting", "Terminated", "NodeShutdown", "Shutdown"):
        return Exit(Reason.EVICTED, message=text)
    if reason in LOST_REASONS or not reason:
        return Exit(Reason.LOST, message=text or "The pod has ended, and does not say how")
    return Exit(Reason.START, message=text)  # the machine did not take it


def _condition(pod: Pod, kind: str) -> Mapping[str, Any]:
    conditions = (pod.get("status") or {}).get("conditions") or []
    return next((item for item in conditions if item["type"] == kind), {})
