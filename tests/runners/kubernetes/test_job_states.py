"""States and ends of jobs."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest

from runners.base import (
    Exited,
    HandleNotFound,
    Missing,
    Pending,
    Placement,
    Reason,
    Resources,
    RunnerRefused,
    RunnerUnavailable,
    Running,
)
from runners.kubernetes import diagnostics
from tests.runners.harness import wait_for
from tests.runners.kubernetes.helpers import MakeHarness, final_state, note_of, read_log, run_to_end, start_running
from tests.runners.kubernetes_harness import KubernetesHarness


def has_no_outputs(harness: KubernetesHarness, handle: str) -> bool:
    """Return whether the outputs are not found. They are unavailable as long as the helper container is being ended."""
    try:
        list(harness.remote.outputs(handle))
    except (RunnerRefused, RunnerUnavailable):
        return False
    except HandleNotFound:
        return True
    raise AssertionError("the job has outputs")


@pytest.fixture
def eager(make_kubernetes: MakeHarness, harness: KubernetesHarness, monkeypatch: Any) -> KubernetesHarness:
    """A runner that asks for events at once, and has a patience of one second."""
    monkeypatch.setattr(diagnostics, "UNEXPLAINED_SECONDS", 0.0)
    monkeypatch.setattr(diagnostics, "EVENTS_PERIOD_SECONDS", 0.2)
    return make_kubernetes(harness.folder / "eager", patience="1")


def test_signal_by_the_job_itself_has_a_message(harness: KubernetesHarness) -> None:
    end, _, _ = run_to_end(harness, "kill -TERM $$")
    assert (end.reason, end.signal) == (Reason.SIGNALLED, 15)
    assert "Not by polyjob" in str(end.message)


def test_exceeded_memory_limit_is_oom(harness: KubernetesHarness) -> None:
    spec = harness.endless_job()
    handle = start_running(harness, spec)
    harness.cluster.run_out_of_memory(spec.name, "job")
    assert harness.end(handle).reason is Reason.OOM


@pytest.mark.parametrize("problem", ["evict", "preempt"])
def test_evicted_or_preempted_job_is_evicted(harness: KubernetesHarness, problem: str) -> None:
    """Nothing remains of a preempted pod, so its end may be unknown."""
    spec = harness.endless_job()
    handle = start_running(harness, spec)
    getattr(harness.cluster, problem)(spec.name)
    state = wait_for(lambda: final_state(harness, handle))
    if problem == "evict" or isinstance(state, Exited):
        assert state.exit.reason is Reason.EVICTED
        wait_for(lambda: has_no_outputs(harness, handle))


def test_preemption_between_two_polls_is_reported(harness: KubernetesHarness) -> None:
    spec = harness.endless_job()
    handle = start_running(harness, spec)
    harness.woken.clear()
    harness.cluster.preempt(spec.name)
    wait_for(lambda: harness.cluster.pod(spec.name) is None)
    runner: Any = harness.runner
    uid = json.loads(handle)["id"]
    wait_for(lambda: runner._trackers.get(uid).disruption is not None)  # the watch shows it
    end = harness.end(handle)
    assert (end.reason, "preempting" in str(end.message)) == (Reason.EVICTED, True)
    assert harness.end(handle) == end


def test_deleted_pod_is_never_a_success(harness: KubernetesHarness) -> None:
    spec = harness.spec("trap 'exit 0' TERM; sleep 1000 & wait")
    handle = start_running(harness, spec)
    harness.cluster.delete(spec.name)
    state = wait_for(lambda: final_state(harness, handle))
    assert isinstance(state, Missing) or state.exit.reason is Reason.LOST


def test_job_on_a_lost_machine_runs_until_deletion(harness: KubernetesHarness) -> None:
    harness.cluster.add_node("weak", {"kind": "weak"})
    try:
        spec = harness.spec("sleep 1000", placement=Placement(node_selector={"kind": "weak"}))
        handle = start_running(harness, spec)
        harness.cluster.lose_node("weak")
        wait_for(lambda: "does not answer" in note_of(harness, handle))
        harness.cluster.drain_lost_node("weak")
        wait_for(lambda: "deleted" in note_of(harness, handle))
        assert isinstance(harness.state(handle), Running)
    finally:
        harness.cluster.remove_node("weak")
    state = wait_for(lambda: final_state(harness, handle))
    assert isinstance(state, Missing) or state.exit.reason is Reason.LOST


def test_job_on_a_restarted_machine_is_lost(harness: KubernetesHarness) -> None:
    harness.cluster.add_node("weak", {"kind": "weak"})
    try:
        spec = harness.spec("sleep 1000", placement=Placement(node_selector={"kind": "weak"}))
        handle = start_running(harness, spec)
        harness.cluster.lose_node("weak")
        harness.cluster.restore_node("weak")
        assert harness.end(handle).reason is Reason.LOST
    finally:
        harness.cluster.remove_node("weak")


def test_missing_image_fails_after_the_patience(make_kubernetes: MakeHarness, harness: KubernetesHarness) -> None:
    patient = make_kubernetes(harness.folder / "patient", patience="2")
    handle = patient.runner.start(patient.spec(image="no-such:1"), None)
    wait_for(lambda: "no-such:1" in note_of(patient, handle))
    end = patient.end(handle)
    assert (end.reason, end.has_begun) == (Reason.IMAGE, False)
    assert "For 2 seconds: " in str(end.message)
    assert patient.end(handle, patient.another()) == end


def test_invalid_image_name_fails_at_once(harness: KubernetesHarness) -> None:
    handle = harness.runner.start(harness.spec(image="No Image"), None)
    assert harness.end(handle).reason is Reason.IMAGE


def test_unschedulable_job_fails_after_the_patience(make_kubernetes: MakeHarness, harness: KubernetesHarness) -> None:
    patient = make_kubernetes(harness.folder / "patient", patience="1")
    handle = patient.runner.start(patient.spec(requests=Resources(cpu=1000.0)), None)
    wait_for(lambda: "Insufficient cpu" in note_of(patient, handle))
    assert patient.end(handle).reason is Reason.START


def test_problem_that_passes_does_not_fail_the_job(harness: KubernetesHarness) -> None:
    spec = harness.spec("echo $LATE", placement=Placement(secrets=("late",)))
    handle = harness.runner.start(spec, None)
    wait_for(lambda: "late" in note_of(harness, handle))
    harness.cluster.add("secrets", "late", data={"LATE": "bGF0ZQ=="})
    assert harness.end(handle).succeeded
    assert harness.log(spec, handle) == b"late\n"


def test_problem_known_from_events_fails_the_job(
    make_kubernetes: MakeHarness, harness: KubernetesHarness, monkeypatch: Any
) -> None:
    monkeypatch.setattr(diagnostics, "UNEXPLAINED_SECONDS", 0.0)
    monkeypatch.setattr(diagnostics, "EVENTS_PERIOD_SECONDS", 0.2)
    patient = make_kubernetes(harness.folder / "patient", claim="nobodys", patience="3")
    handle = patient.runner.start(patient.spec(), None)
    wait_for(lambda: "nobodys" in note_of(patient, handle))
    assert patient.end(handle).reason is Reason.START


def test_event_before_scheduling_does_not_fail_the_job(eager: KubernetesHarness) -> None:
    eager.cluster.schedule_nothing("0/1 nodes are available")
    eager.cluster.configure(delay=2.5)
    spec = eager.spec("echo done")
    handle = eager.runner.start(spec, None)
    wait_for(lambda: "0/1 nodes" in note_of(eager, handle))
    eager.cluster.schedule_nothing(None)
    assert eager.end(handle).succeeded
    assert eager.log(spec, handle) == b"done\n"


@pytest.mark.parametrize("reason", ["MissingClusterDNS", "FailedPreStopHook", "FailedMount"])
def test_pod_whose_command_has_begun_is_not_deleted(eager: KubernetesHarness, reason: str) -> None:
    """The status of its pod lags."""
    eager.cluster.configure(is_late=True)
    spec = eager.spec("echo begun; sleep 4; echo done")
    handle = eager.runner.start(spec, None)
    wait_for(lambda: read_log(eager.another(), handle))
    eager.cluster.warn(spec.name, reason)
    wait_for(lambda: isinstance(eager.state(handle), Running) or reason != "FailedMount")
    until = time.monotonic() + 2
    while time.monotonic() < until:
        assert not isinstance(eager.state(handle), Exited | Missing)
        time.sleep(0.1)
    eager.cluster.configure(is_late=False)
    assert eager.end(handle).succeeded
    assert eager.log(spec, handle) == b"begun\ndone\n"


def test_unreachable_machine_does_not_fail_the_job(eager: KubernetesHarness) -> None:
    eager.cluster.configure(is_late=True)
    spec = eager.spec("echo begun; sleep 2")
    handle = eager.runner.start(spec, None)
    eager.cluster.fail(500, times=None, path="/log$", message="dial tcp 10.0.0.1:10250: connection refused")
    eager.cluster.warn(spec.name, "FailedCreatePodSandBox")
    wait_for(lambda: "FailedCreatePodSandBox" in note_of(eager, handle))
    until = time.monotonic() + 2
    while time.monotonic() < until:
        assert isinstance(eager.state(handle), Pending)
        time.sleep(0.1)
    eager.cluster.heal()
    eager.cluster.configure(is_late=False)
    assert eager.end(handle).succeeded


def test_image_without_a_shell_fails_to_start(harness: KubernetesHarness) -> None:
    harness.cluster.add_image("bare", root="empty")
    handle = harness.runner.start(harness.spec(image="bare"), None)
    end = harness.end(handle)
    assert (end.reason, end.has_begun) == (Reason.START, False)
    assert "sh" in str(end.message)
