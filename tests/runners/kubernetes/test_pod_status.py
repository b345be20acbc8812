"""What a pod's object says of its job."""

from __future__ import annotations

from typing import Any

import pytest

from runners.base import Exit, Exited, Pending, Reason, Running
from runners.kubernetes import pod_status as states

EARLY, MIDDLE, LATE = "2026-01-01T00:00:00Z", "2026-01-01T00:01:00Z", "2026-01-01T00:02:00Z"


def pod(phase: str = "Running", *, metadata: Any = None, with_steps: bool = False, **status: Any) -> dict[str, Any]:
    """A pod whose containers are in these states: `job={"running": {}}`."""
    names = ("image-files", "input", "files", "steps", "job", "builder")
    told = [{"name": name, "state": status.pop(name.replace("-", "_"), None)} for name in names]
    containers = [{"name": name} for name in ("files", *(["steps"] if with_steps else []), "job")]
    return {
        "metadata": {"uid": "1", **(metadata or {})},
        "spec": {"nodeName": "n", "containers": containers},
        "status": {
            "phase": phase,
            "initContainerStatuses": [item for item in told[:2] if item["state"]],
            "containerStatuses": [item for item in told[2:] if item["state"]],
            **status,
        },
    }


def ended(code: int, reason: str | None = None, message: str | None = None, finished: str = MIDDLE) -> dict[str, Any]:
    told = {"exitCode": code, "reason": reason or ("Error" if code else "Completed"), "finishedAt": finished}
    return {"terminated": told | ({"message": message} if message else {})}


def condition(kind: str, status: str, reason: str, message: str = "why", at: str = MIDDLE) -> dict[str, str]:
    return {"type": kind, "status": status, "reason": reason, "message": message, "lastTransitionTime": at}


def exit_of(made: dict[str, Any]) -> Exit:
    state = states.pod_view(made).state
    assert isinstance(state, Exited)
    return state.exit


RUNS = {"running": {"startedAt": EARLY}}


class TestThatGoesOn:
    def test_runs(self) -> None:
        assert states.pod_view(pod(job=RUNS)).state == Running("n")

    @pytest.mark.parametrize("steps", [None, RUNS, ended(137)])
    def test_is_not_running_while_steps_are(self, steps: Any) -> None:
        made = pod(job=RUNS, with_steps=True, steps=steps)
        assert isinstance(states.pod_view(made).state, Pending)
        assert states.is_building(made)

    def test_runs_once_the_steps_are_done(self) -> None:
        made = pod(job=RUNS, with_steps=True, steps=ended(0))
        assert states.pod_view(made).state == Running("n")
        assert not states.is_building(made)

    def test_says_that_it_is_being_deleted(self) -> None:
        state = states.pod_view(pod(job=RUNS, metadata={"deletionTimestamp": LATE})).state
        assert isinstance(state, Running)
        assert "deleted" in str(state.note)

    @pytest.mark.parametrize("reason", ["NodeNotReady", "", None])
    def test_says_that_its_machine_does_not_answer(self, reason: str | None) -> None:
        """The controller sets the condition and leaves its reason as it was: empty."""
        told: Any = {"type": "Ready", "status": "False", "reason": reason}
        state = states.pod_view(pod(job=RUNS, conditions=[told])).state
        assert isinstance(state, Running)
        assert state.note == "The machine n does not answer"

    @pytest.mark.parametrize("status", ["ContainersNotReady", "ReadinessGatesNotReady"])
    def test_is_not_ready_by_its_own_machine(self, status: str) -> None:
        assert states.pod_view(pod(job=RUNS, conditions=[condition("Ready", "False", status)])).state == Running("n")

    def test_says_that_its_outputs_may_be_lost(self) -> None:
        state = states.pod_view(pod(job=RUNS, files=ended(137, "OOMKilled"))).state
        assert isinstance(state, Running)
        assert str(state.note).startswith("The container `files` of the job's pod has ended (OOMKilled, exit code 137)")


class TestThatHasNotBegun:
    def test_without_a_word_is_unexplained(self) -> None:
        pod_view = states.pod_view(pod("Pending", job={"waiting": {"reason": "ContainerCreating"}}))
        assert (pod_view.state, pod_view.problem, pod_view.is_unexplained) == (Pending(), None, True)

    def test_finds_no_node(self) -> None:
        made = pod("Pending", conditions=[condition("PodScheduled", "False", "Unschedulable", "0/3 nodes are there")])
        pod_view = states.pod_view(made)
        assert pod_view.state == Pending("Unschedulable: 0/3 nodes are there")
        assert pod_view.problem == states.StartProblem(Reason.START, "Unschedulable: 0/3 nodes are there")

    @pytest.mark.parametrize("name", ["image-files", "input", "files", "steps", "job"])
    @pytest.mark.parametrize(
        ("reason", "kind", "is_hopeless"),
        [
            ("ErrImagePull", Reason.IMAGE, False),
            ("ImagePullBackOff", Reason.IMAGE, False),
            ("InvalidImageName", Reason.IMAGE, True),
            ("CreateContainerConfigError", Reason.START, False),
        ],
    )
    def test_cannot_be_made(self, name: str, reason: str, kind: Reason, is_hopeless: bool) -> None:
        made = pod("Pending", **{name.replace("-", "_"): {"waiting": {"reason": reason, "message": "no"}}})
        assert states.pod_view(made).problem == states.StartProblem(kind, f"{reason}: no", is_hopeless)

    def test_is_given_its_files(self) -> None:
        pod_view = states.pod_view(pod("Pending", input=RUNS))
        assert isinstance(pod_view.state, Pending)
        assert "files" in str(pod_view.state.note)

    def test_is_taken_away_while_its_files_are_put_in(self) -> None:
        """The job is not to blame for what ended with the pod."""
        told = [condition("DisruptionTarget", "True", "PreemptionByScheduler")]
        made = pod("Pending", image_files=ended(143), conditions=told)
        assert (states.pod_view(made).state, states.pod_view(made).problem) == (Pending(), None)
        assert exit_of(pod("Failed", image_files=ended(143), conditions=told)).reason is Reason.EVICTED
        assert exit_of(pod("Failed", image_files=ended(137), reason="Evicted")).reason is Reason.EVICTED
        assert exit_of(pod("Failed", image_files=ended(137))).reason is Reason.START

    def test_will_never_have_its_files(self) -> None:
        pod_view = states.pod_view(pod("Pending", input=ended(1)))
        assert pod_view.problem == states.StartProblem(
            Reason.START, "The container `input` ended with exit code 1", True
        )


class TestThatHasEnded:
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
    def test_by_its_container(self, state: Any, expected: Exit) -> None:
        assert exit_of(pod(job=state)) == expected
        assert exit_of(pod("Succeeded", job=state)) == expected

    def test_by_too_much_memory(self) -> None:
        end = exit_of(pod(job=ended(137, "OOMKilled")))
        assert (end.reason, end.code, end.signal) == (Reason.OOM, 137, 9)

    def test_though_a_process_had_too_much_memory(self) -> None:
        end = exit_of(pod(job=ended(1, "OOMKilled")))
        assert (end.reason, end.code) == (Reason.EXITED, 1)
        assert end.message

    def test_by_a_step(self) -> None:
        end = exit_of(pod(job=ended(3, message="step 2"), with_steps=True))
        assert end == Exit(Reason.BUILD, 3, message="step 2 ended with exit code 3", step=2)
        assert not end.has_begun
        nameless = exit_of(pod(job=ended(137), with_steps=True))
        assert (nameless.reason, nameless.step) == (Reason.BUILD, None)

    def test_by_its_command_after_the_steps(self) -> None:
        made = pod(job=ended(3, message="step 2"), with_steps=True, steps=ended(0))
        assert exit_of(made) == Exit(Reason.EXITED, 3)

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
    def test_by_a_disruption(self, reason: str, kind: Reason) -> None:
        told = [condition("DisruptionTarget", "True", reason, at=EARLY)]
        assert exit_of(pod("Failed", job=ended(143), conditions=told)) == Exit(kind, 143, 15, message=f"{reason}: why")
        assert exit_of(pod("Failed", conditions=told)) == Exit(kind, message=f"{reason}: why")
        assert states.disruption(pod(job=RUNS, conditions=told)) == Exit(kind, message=f"{reason}: why")
        assert states.disruption(pod(job=RUNS, conditions=[condition("DisruptionTarget", "False", reason)])) is None

    def test_before_a_disruption(self) -> None:
        told = [condition("DisruptionTarget", "True", "DeletionByPodGC", at=LATE)]
        assert exit_of(pod("Failed", job=ended(0), conditions=told)) == Exit(Reason.EXITED, 0)

    def test_by_its_eviction(self) -> None:
        end = exit_of(pod("Failed", job=ended(137), reason="Evicted", message="low on memory"))
        assert end == Exit(Reason.EVICTED, 137, 9, message="Evicted: low on memory")

    def test_by_a_deadline(self) -> None:
        assert exit_of(pod("Failed", job=ended(143), reason="DeadlineExceeded")).reason is Reason.TIMEOUT

    @pytest.mark.parametrize(("code", "kind"), [(0, Reason.EXITED), (3, Reason.EXITED), (143, Reason.SIGNALLED)])
    def test_before_its_eviction(self, code: int, kind: Reason) -> None:
        """The machine went short of something while the outputs were still to be fetched."""
        told = [condition("DisruptionTarget", "True", "TerminationByKubelet", at=LATE)]
        end = exit_of(pod("Failed", job=ended(code), conditions=told, reason="Evicted", message="low on memory"))
        assert (end.reason, end.code, end.message) == (kind, code, None)

    @pytest.mark.parametrize(("seconds", "kind"), [(61, Reason.EXITED), (60, Reason.TIMEOUT), (59, Reason.TIMEOUT)])
    def test_before_a_deadline(self, seconds: int, kind: Reason) -> None:
        made = pod("Failed", job=ended(0), reason="DeadlineExceeded", startTime=EARLY)
        made["spec"]["activeDeadlineSeconds"] = seconds
        assert exit_of(made).reason is kind

    def test_as_its_machine_did_not_take_it(self) -> None:
        end = exit_of(pod("Failed", reason="OutOfcpu", message="Node didn't have enough resource"))
        assert (end.reason, end.has_begun) == (Reason.START, False)

    @pytest.mark.parametrize("reason", ["Evicted", "NodeShutdown", "DeadlineExceeded"])
    def test_before_its_command_began(self, reason: str) -> None:
        waits = {"waiting": {"reason": "PodInitializing"}}
        assert exit_of(pod("Failed", job=waits, reason=reason)).has_begun is False
        assert exit_of(pod("Failed", job=ended(137), reason=reason)).has_begun is True
        assert exit_of(pod("Failed", reason=reason)).has_begun is True, "nobody knows"

    def test_and_does_not_say_how(self) -> None:
        assert exit_of(pod("Failed")).reason is Reason.LOST
        assert exit_of(pod("Failed", reason="NodeLost")).reason is Reason.LOST

    @pytest.mark.parametrize("code", [0, 143])
    def test_by_its_deletion(self, code: int) -> None:
        told = {"deletionTimestamp": MIDDLE, "deletionGracePeriodSeconds": 30}
        end = exit_of(pod(job=ended(code, finished=MIDDLE), metadata=told))
        assert (end.reason, end.code) == (Reason.LOST, code)

    def test_before_its_deletion(self) -> None:
        told = {"deletionTimestamp": LATE, "deletionGracePeriodSeconds": 30}
        assert exit_of(pod(job=ended(0, finished=MIDDLE), metadata=told)) == Exit(Reason.EXITED, 0)


@pytest.mark.parametrize(
    ("made", "why"),
    [
        (pod("Failed", builder=ended(1)), ""),
        (pod("Failed", builder=ended(137, "OOMKilled")), "it exceeded its memory limit"),
        (pod("Failed", reason="Evicted", message="low on disk"), "Evicted: low on disk"),
        (pod("Running", conditions=[condition("DisruptionTarget", "True", "EvictionByEvictionAPI")]), "why"),
        (pod("Running", builder=ended(1)), ""),
    ],
)
def test_a_container_that_did_not_end_by_itself_says_why(made: Any, why: str) -> None:
    said = states.forced_end(made, "builder") or ""
    assert said.endswith(why)
    assert bool(said) == bool(why)


def test_containers_by_their_names() -> None:
    made = pod(job=ended(3), files=RUNS)
    assert states.container_runs(made, "files") is True
    assert states.container_runs(made, "job") is False
    assert states.container_runs(made, "input") is None
    assert states.container_runs(pod("Failed"), "files") is False
    assert (states.exit_code(made, "job"), states.exit_code(made, "files")) == (3, None)
    assert states.started_at(pod(job=RUNS)) == states.unix_time(EARLY)
    assert states.started_at(pod()) is None
    assert states.has_begun(made)
    assert not states.has_begun(pod("Pending"))
