"""The state of a job according to its pod."""

from __future__ import annotations

from typing import Any

import pytest

from runners.base import Exit, Exited, Pending, Reason, Running
from runners.kubernetes import pod_status

EARLY, MIDDLE, LATE = "2026-01-01T00:00:00Z", "2026-01-01T00:01:00Z", "2026-01-01T00:02:00Z"


def pod(phase: str = "Running", *, metadata: Any = None, with_steps: bool = False, **status: Any) -> dict[str, Any]:
    """Return a pod whose containers are in these states: `job={"running": {}}`."""
    names = ("image-files", "input", "files", "steps", "job", "builder")
    statuses = [{"name": name, "state": status.pop(name.replace("-", "_"), None)} for name in names]
    containers = [{"name": name} for name in ("files", *(["steps"] if with_steps else []), "job")]
    return {
        "metadata": {"uid": "1", **(metadata or {})},
        "spec": {"nodeName": "n", "containers": containers},
        "status": {
            "phase": phase,
            "initContainerStatuses": [item for item in statuses[:2] if item["state"]],
            "containerStatuses": [item for item in statuses[2:] if item["state"]],
            **status,
        },
    }


def ended(code: int, reason: str | None = None, message: str | None = None, finished: str = MIDDLE) -> dict[str, Any]:
    terminated = {"exitCode": code, "reason": reason or ("Error" if code else "Completed"), "finishedAt": finished}
    return {"terminated": terminated | ({"message": message} if message else {})}


def condition(kind: str, status: str, reason: str, message: str = "why", at: str = MIDDLE) -> dict[str, str]:
    return {"type": kind, "status": status, "reason": reason, "message": message, "lastTransitionTime": at}


def exit_of(sample: dict[str, Any]) -> Exit:
    state = pod_status.pod_view(sample).state
    assert isinstance(state, Exited)
    return state.exit


RUNS = {"running": {"startedAt": EARLY}}


class TestRunningPods:
    def test_running_container_is_running(self) -> None:
        assert pod_status.pod_view(pod(job=RUNS)).state == Running("n")

    @pytest.mark.parametrize("steps", [None, RUNS, ended(137)])
    def test_job_is_pending_while_build_steps_run(self, steps: Any) -> None:
        sample = pod(job=RUNS, with_steps=True, steps=steps)
        assert isinstance(pod_status.pod_view(sample).state, Pending)
        assert pod_status.is_building(sample)

    def test_job_runs_once_the_build_steps_are_done(self) -> None:
        sample = pod(job=RUNS, with_steps=True, steps=ended(0))
        assert pod_status.pod_view(sample).state == Running("n")
        assert not pod_status.is_building(sample)

    def test_deletion_is_noted(self) -> None:
        state = pod_status.pod_view(pod(job=RUNS, metadata={"deletionTimestamp": LATE})).state
        assert isinstance(state, Running)
        assert "deleted" in str(state.note)

    @pytest.mark.parametrize("reason", ["NodeNotReady", "", None])
    def test_silent_machine_is_noted(self, reason: str | None) -> None:
        """The controller sets the condition and leaves its reason empty."""
        ready: Any = {"type": "Ready", "status": "False", "reason": reason}
        state = pod_status.pod_view(pod(job=RUNS, conditions=[ready])).state
        assert isinstance(state, Running)
        assert state.note == "The machine n does not answer"

    @pytest.mark.parametrize("status", ["ContainersNotReady", "ReadinessGatesNotReady"])
    def test_unready_pod_of_a_live_machine_just_runs(self, status: str) -> None:
        assert pod_status.pod_view(pod(job=RUNS, conditions=[condition("Ready", "False", status)])).state == Running(
            "n"
        )

    def test_dead_helper_is_noted(self) -> None:
        state = pod_status.pod_view(pod(job=RUNS, files=ended(137, "OOMKilled"))).state
        assert isinstance(state, Running)
        assert str(state.note).startswith("The container `files` of the job's pod has ended (OOMKilled, exit code 137)")


class TestWaitingPods:
    def test_pod_without_a_reason_is_unexplained(self) -> None:
        view = pod_status.pod_view(pod("Pending", job={"waiting": {"reason": "ContainerCreating"}}))
        assert (view.state, view.problem, view.is_unexplained) == (Pending(), None, True)

    def test_unschedulable_pod_has_a_problem(self) -> None:
        sample = pod("Pending", conditions=[condition("PodScheduled", "False", "Unschedulable", "0/3 nodes are there")])
        view = pod_status.pod_view(sample)
        assert view.state == Pending("Unschedulable: 0/3 nodes are there")
        assert view.problem == pod_status.StartProblem(Reason.START, "Unschedulable: 0/3 nodes are there")

    @pytest.mark.parametrize("name", ["image-files", "input", "files", "steps", "job"])
    @pytest.mark.parametrize(
        ("reason", "kind", "is_permanent"),
        [
            ("ErrImagePull", Reason.IMAGE, False),
            ("ImagePullBackOff", Reason.IMAGE, False),
            ("InvalidImageName", Reason.IMAGE, True),
            ("CreateContainerConfigError", Reason.START, False),
        ],
    )
    def test_container_that_cannot_start_has_a_problem(
        self, name: str, reason: str, kind: Reason, is_permanent: bool
    ) -> None:
        sample = pod("Pending", **{name.replace("-", "_"): {"waiting": {"reason": reason, "message": "no"}}})
        assert pod_status.pod_view(sample).problem == pod_status.StartProblem(kind, f"{reason}: no", is_permanent)

    def test_copying_of_files_is_noted(self) -> None:
        view = pod_status.pod_view(pod("Pending", input=RUNS))
        assert isinstance(view.state, Pending)
        assert "files" in str(view.state.note)

    def test_disruption_during_init_is_not_a_problem(self) -> None:
        """The init container ended because of the pod, so the job is not to blame."""
        conditions = [condition("DisruptionTarget", "True", "PreemptionByScheduler")]
        sample = pod("Pending", image_files=ended(143), conditions=conditions)
        assert (pod_status.pod_view(sample).state, pod_status.pod_view(sample).problem) == (Pending(), None)
        assert exit_of(pod("Failed", image_files=ended(143), conditions=conditions)).reason is Reason.EVICTED
        assert exit_of(pod("Failed", image_files=ended(137), reason="Evicted")).reason is Reason.EVICTED
        assert exit_of(pod("Failed", image_files=ended(137))).reason is Reason.START

    def test_failed_init_container_is_a_permanent_problem(self) -> None:
        view = pod_status.pod_view(pod("Pending", input=ended(1)))
        assert view.problem == pod_status.StartProblem(
            Reason.START, "The container `input` ended with exit code 1", True
        )


class TestEndedPods:
    @pytest.mark.parametrize(
        ("state", "expected"),
        [
            (ended(0), Exit(Reason.EXITED, 0)),
            (ended(42), Exit(Reason.EXITED, 42)),
            (ended(255), Exit(Reason.EXITED, 255)),
            (ended(143), Exit(Reason.SIGNALLED, 143, 15)),
            (ended(137), Exit(Reason.SIGNALLED, 137, 9)),
            (ended(128, "StartError", "no such file"), Exit(Reason.START, 128, message="no such file")),
            (ended(137, "ContainerStatusUnknown", "gone"), Exit(Reason.LOST, message="gone")),
        ],
    )
    def test_container_decides_the_end(self, state: Any, expected: Exit) -> None:
        assert exit_of(pod(job=state)) == expected
        assert exit_of(pod("Succeeded", job=state)) == expected

    def test_killed_command_with_oom_is_oom(self) -> None:
        end = exit_of(pod(job=ended(137, "OOMKilled")))
        assert (end.reason, end.code, end.signal) == (Reason.OOM, 137, 9)

    def test_oom_of_a_child_is_only_a_message(self) -> None:
        end = exit_of(pod(job=ended(1, "OOMKilled")))
        assert (end.reason, end.code) == (Reason.EXITED, 1)
        assert end.message

    def test_failed_build_step_is_named(self) -> None:
        end = exit_of(pod(job=ended(3, message="step 2"), with_steps=True))
        assert end == Exit(Reason.BUILD, 3, message="step 2 ended with exit code 3", step=2)
        assert not end.has_begun
        nameless = exit_of(pod(job=ended(137), with_steps=True))
        assert (nameless.reason, nameless.step) == (Reason.BUILD, None)

    def test_command_can_fail_after_the_build_steps(self) -> None:
        sample = pod(job=ended(3, message="step 2"), with_steps=True, steps=ended(0))
        assert exit_of(sample) == Exit(Reason.EXITED, 3)

    @pytest.mark.parametrize(
        ("reason", "kind"),
        [
            ("PreemptionByScheduler", Reason.EVICTED),
            ("EvictionByEvictionAPI", Reason.EVICTED),
            ("TerminationByKubelet", Reason.EVICTED),
            ("DeletionByTaintManager", Reason.LOST),
            ("DeletionByPodGC", Reason.LOST),
        ],
    )
    def test_disruption_decides_the_reason(self, reason: str, kind: Reason) -> None:
        conditions = [condition("DisruptionTarget", "True", reason, at=EARLY)]
        assert exit_of(pod("Failed", job=ended(143), conditions=conditions)) == Exit(
            kind, 143, 15, message=f"{reason}: why"
        )
        assert exit_of(pod("Failed", conditions=conditions)) == Exit(kind, message=f"{reason}: why")
        assert pod_status.disruption(pod(job=RUNS, conditions=conditions)) == Exit(kind, message=f"{reason}: why")
        assert pod_status.disruption(pod(job=RUNS, conditions=[condition("DisruptionTarget", "False", reason)])) is None

    def test_end_before_a_disruption_counts(self) -> None:
        conditions = [condition("DisruptionTarget", "True", "DeletionByPodGC", at=LATE)]
        assert exit_of(pod("Failed", job=ended(0), conditions=conditions)) == Exit(Reason.EXITED, 0)

    def test_eviction_decides_the_reason(self) -> None:
        end = exit_of(pod("Failed", job=ended(137), reason="Evicted", message="low on memory"))
        assert end == Exit(Reason.EVICTED, 137, 9, message="Evicted: low on memory")

    def test_deadline_is_a_timeout(self) -> None:
        assert exit_of(pod("Failed", job=ended(143), reason="DeadlineExceeded")).reason is Reason.TIMEOUT

    @pytest.mark.parametrize(("code", "kind"), [(0, Reason.EXITED), (3, Reason.EXITED), (143, Reason.SIGNALLED)])
    def test_end_before_an_eviction_counts(self, code: int, kind: Reason) -> None:
        """The machine ran short while the outputs were still to be fetched."""
        conditions = [condition("DisruptionTarget", "True", "TerminationByKubelet", at=LATE)]
        end = exit_of(pod("Failed", job=ended(code), conditions=conditions, reason="Evicted", message="low on memory"))
        assert (end.reason, end.code, end.message) == (kind, code, None)

    @pytest.mark.parametrize(("seconds", "kind"), [(61, Reason.EXITED), (60, Reason.TIMEOUT), (59, Reason.TIMEOUT)])
    def test_end_before_a_deadline_counts(self, seconds: int, kind: Reason) -> None:
        sample = pod("Failed", job=ended(0), reason="DeadlineExceeded", startTime=EARLY)
        sample["spec"]["activeDeadlineSeconds"] = seconds
        assert exit_of(sample).reason is kind

    def test_pod_refused_by_its_machine_has_not_begun(self) -> None:
        end = exit_of(pod("Failed", reason="OutOfcpu", message="Node didn't have enough resource"))
        assert (end.reason, end.has_begun) == (Reason.START, False)

    @pytest.mark.parametrize("reason", ["Evicted", "NodeShutdown", "DeadlineExceeded"])
    def test_pod_ended_before_its_command_has_not_begun(self, reason: str) -> None:
        waits = {"waiting": {"reason": "PodInitializing"}}
        assert exit_of(pod("Failed", job=waits, reason=reason)).has_begun is False
        assert exit_of(pod("Failed", job=ended(137), reason=reason)).has_begun is True
        assert exit_of(pod("Failed", reason=reason)).has_begun is True

    def test_pod_without_a_reason_is_lost(self) -> None:
        assert exit_of(pod("Failed")).reason is Reason.LOST
        assert exit_of(pod("Failed", reason="NodeLost")).reason is Reason.LOST

    @pytest.mark.parametrize("code", [0, 143])
    def test_deleted_pod_is_lost(self, code: int) -> None:
        metadata = {"deletionTimestamp": MIDDLE, "deletionGracePeriodSeconds": 30}
        end = exit_of(pod(job=ended(code, finished=MIDDLE), metadata=metadata))
        assert (end.reason, end.code) == (Reason.LOST, code)

    def test_end_before_a_deletion_counts(self) -> None:
        metadata = {"deletionTimestamp": LATE, "deletionGracePeriodSeconds": 30}
        assert exit_of(pod(job=ended(0, finished=MIDDLE), metadata=metadata)) == Exit(Reason.EXITED, 0)


@pytest.mark.parametrize(
    ("ended_pod", "reason"),
    [
        (pod("Failed", builder=ended(1)), ""),
        (pod("Failed", builder=ended(137, "OOMKilled")), "it exceeded its memory limit"),
        (pod("Failed", reason="Evicted", message="low on disk"), "Evicted: low on disk"),
        (pod("Running", conditions=[condition("DisruptionTarget", "True", "EvictionByEvictionAPI")]), "why"),
        (pod("Running", builder=ended(1)), ""),
    ],
)
def test_forced_end_has_the_clusters_reason(ended_pod: Any, reason: str) -> None:
    message = pod_status.forced_end(ended_pod, "builder") or ""
    assert message.endswith(reason)
    assert bool(message) == bool(reason)


def test_containers_are_found_by_name() -> None:
    sample = pod(job=ended(3), files=RUNS)
    assert pod_status.container_runs(sample, "files") is True
    assert pod_status.container_runs(sample, "job") is False
    assert pod_status.container_runs(sample, "input") is None
    assert pod_status.container_runs(pod("Failed"), "files") is False
    assert (pod_status.exit_code(sample, "job"), pod_status.exit_code(sample, "files")) == (3, None)
    assert pod_status.started_at(pod(job=RUNS)) == pod_status.unix_time(EARLY)
    assert pod_status.started_at(pod()) is None
    assert pod_status.has_begun(sample)
    assert not pod_status.has_begun(pod("Pending"))
