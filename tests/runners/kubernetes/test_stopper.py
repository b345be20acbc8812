"""Stops of jobs, and pods that are deleted before their command begins."""

from __future__ import annotations

import threading
import time
from typing import Any

import pytest

from runners.base import Exit, Exited, Missing, Pending, Reason, RunnerUnavailable, Running
from runners.kubernetes import pods
from runners.kubernetes.exec import UNREACHABLE_TEXTS
from runners.kubernetes.pod_tracker import PodTrackers
from tests.runners.harness import wait_for
from tests.runners.kubernetes.helpers import final_state, read_log, start_running
from tests.runners.kubernetes_harness import KubernetesHarness


@pytest.mark.parametrize("force", [False, True])
def test_stop_before_the_command_begins_deletes_the_pod(harness: KubernetesHarness, force: bool) -> None:
    harness.cluster.schedule_nothing("0/1 nodes are available")
    spec = harness.endless_job()
    handle = harness.runner.start(spec, None)
    assert isinstance(harness.state(handle), Pending)
    harness.runner.stop(handle, force)
    end = harness.end(handle)
    assert (end.reason, end.code, end.signal, end.has_begun) == (Reason.SIGNALLED, None, None, False)
    assert end.message == "It was stopped before its command began"
    assert harness.end(handle, harness.another()) == end
    assert harness.cluster.pod(spec.name) is None
    harness.runner.clean(handle)


@pytest.mark.parametrize("force", [False, True])
def test_stop_signals_a_command_despite_a_lagging_status(harness: KubernetesHarness, force: bool) -> None:
    harness.cluster.configure(is_late=True)
    spec = harness.spec("echo begun > $POLYAXON_RUN_OUTPUTS_PATH/f; echo begun; sleep 1000")
    handle = harness.runner.start(spec, None)
    wait_for(lambda: read_log(harness.another(), handle))
    assert isinstance(harness.state(handle), Pending)
    harness.runner.stop(handle, force)
    harness.cluster.configure(is_late=False)
    end = harness.end(handle)
    assert (end.reason, end.signal, end.message) == (Reason.SIGNALLED, 9 if force else 15, None)
    assert harness.outputs(handle) == {"f": b"begun\n"}


@pytest.mark.parametrize("is_late", [False, True])
def test_last_state_of_a_deleted_pod_takes_precedence(
    harness: KubernetesHarness, monkeypatch: Any, is_late: bool
) -> None:
    """Its status lags, and the watch may show its last state after it is no longer in the list."""
    note, may_watch = PodTrackers.note, threading.Event()

    def note_late(trackers: PodTrackers, pod: Any, is_deleted: bool = False) -> None:
        if threading.current_thread().name == "kubernetes-watch" and pod["metadata"].get("deletionTimestamp"):
            assert may_watch.wait(20)
        note(trackers, pod, is_deleted)

    monkeypatch.setattr(PodTrackers, "note", note_late)
    runner = harness.another()  # its watch calls the patched method
    harness.cluster.configure(is_late=True)
    spec = harness.spec("echo begun; sleep 1000")
    handle = runner.start(spec, None)
    wait_for(lambda: read_log(harness.another(), handle))
    harness.state(handle, runner)
    harness.cluster.fail(500, times=None, path="/log$", message="dial tcp 10.0.0.1:10250: connection refused")
    runner.stop(handle, force=False)
    wait_for(lambda: harness.cluster.pod(spec.name) is None)
    if is_late:
        assert harness.state(handle, runner) is None
    may_watch.set()
    end = harness.end(handle, runner)
    assert (end.reason, end.has_begun, end.message) == (Reason.SIGNALLED, True, None)


@pytest.mark.parametrize("has_crashed", [False, True])
def test_end_is_recorded_before_the_pod_is_deleted(
    harness: KubernetesHarness, monkeypatch: Any, has_crashed: bool
) -> None:
    """A poll between the deletion and the return of `stop` knows the end, also after a crash there."""
    harness.cluster.schedule_nothing("0/1 nodes are available")
    spec = harness.endless_job()
    handle = harness.runner.start(spec, None)
    assert isinstance(harness.state(handle), Pending)
    delete, states = pods.delete, []

    def delete_and_look(*arguments: Any) -> bool:
        is_deleted = delete(*arguments)
        wait_for(lambda: harness.cluster.pod(spec.name) is None)
        runner = harness.another() if has_crashed else harness.runner
        states.append(wait_for(lambda: final_state(harness, handle, runner)))
        return is_deleted

    monkeypatch.setattr(pods, "delete", delete_and_look)
    harness.runner.stop(handle, force=False)
    monkeypatch.undo()
    (state,) = states
    assert isinstance(state, Exited)
    assert state.exit.message == "It was stopped before its command began"


@pytest.mark.parametrize("problem", ["changed", "unavailable"])
def test_end_of_a_pod_that_was_not_deleted_is_dropped(
    harness: KubernetesHarness, monkeypatch: Any, problem: str
) -> None:
    harness.cluster.schedule_nothing("0/1 nodes are available")
    spec = harness.endless_job()
    handle = harness.runner.start(spec, None)
    if problem == "changed":
        monkeypatch.setattr(pods, "delete", lambda *_: False)
        harness.runner.stop(handle, force=False)
        monkeypatch.undo()
    else:
        harness.cluster.fail(None, times=None, verb="delete")
        with pytest.raises(RunnerUnavailable):
            harness.runner.stop(handle, force=False)
        harness.cluster.heal()
    harness.cluster.schedule_nothing(None)
    wait_for(lambda: isinstance(harness.state(handle), Running))
    harness.cluster.delete(spec.name, 0)
    assert isinstance(wait_for(lambda: final_state(harness, handle)), Missing)


def test_second_deletion_keeps_the_recorded_end(harness: KubernetesHarness, monkeypatch: Any) -> None:
    """The pod changes while it is being deleted."""
    harness.cluster.schedule_nothing("0/1 nodes are available")
    handle = harness.runner.start(harness.endless_job(), None)
    delete = pods.delete

    def delete_twice(*arguments: Any) -> bool:
        delete(*arguments)
        monkeypatch.setattr(pods, "delete", lambda *_: False)
        return True

    (pod,) = harness.pods()
    monkeypatch.setattr(pods, "delete", delete_twice)
    harness.runner.stop(handle, force=False)
    end = Exit(Reason.START, message="another reason")
    assert not harness.runner._stopper.delete_before_start(pod, end)  # type: ignore[attr-defined]
    monkeypatch.undo()
    assert harness.end(handle).message == "It was stopped before its command began"


def test_undeliverable_kill_deletes_the_pod(harness: KubernetesHarness, monkeypatch: Any) -> None:
    monkeypatch.setattr("runners.kubernetes.stopper.UNDELIVERED_KILL_SECONDS", 0.0)
    spec = harness.spec("sleep 1000")
    handle = start_running(harness, spec)
    harness.cluster.fail(500, times=None, path="/exec")
    harness.runner.stop(handle, force=False)
    assert isinstance(harness.state(handle), Running)
    harness.runner.stop(handle, force=True)
    harness.runner.stop(handle, force=True)
    wait_for(lambda: final_state(harness, handle))


@pytest.mark.parametrize("lag", [6.0, 25.0])
def test_kill_with_a_lagging_status_keeps_the_outputs(harness: KubernetesHarness, monkeypatch: Any, lag: float) -> None:
    harness.cluster.configure(is_late=True)
    spec = harness.spec("echo mine > $POLYAXON_RUN_OUTPUTS_PATH/f; echo begun; sleep 1000")
    handle = harness.runner.start(spec, None)
    wait_for(lambda: b"begun" in harness.log(spec, handle))
    now = time.monotonic
    for passed in (0.0, 0.0, lag):
        monkeypatch.setattr("runners.kubernetes.stopper.time.monotonic", lambda passed=passed: now() + passed)
        harness.runner.stop(handle, force=True)
    monkeypatch.undo()
    harness.cluster.configure(is_late=False)
    harness.end(handle)
    assert harness.outputs(handle) == {"f": b"mine\n"}


@pytest.mark.parametrize("words", UNREACHABLE_TEXTS)
def test_unreachable_machine_does_not_delete_the_pod(harness: KubernetesHarness, monkeypatch: Any, words: str) -> None:
    monkeypatch.setattr("runners.kubernetes.stopper.UNDELIVERED_KILL_SECONDS", 0.0)
    spec = harness.spec("echo mine > $POLYAXON_RUN_OUTPUTS_PATH/f; sleep 1000")
    handle = start_running(harness, spec)
    harness.cluster.fail(500, times=2, path="/exec", message=f"{words} 10.0.0.1:10250: connection refused")
    for _ in range(2):
        with pytest.raises(RunnerUnavailable, match="does not answer"):
            harness.runner.stop(handle, force=True)
    monkeypatch.undo()
    harness.runner.stop(handle, force=True)
    assert harness.end(handle).signal == 9
    assert harness.outputs(handle) == {"f": b"mine\n"}


def test_stop_times_out_if_the_server_never_answers(harness: KubernetesHarness, monkeypatch: Any) -> None:
    handle = start_running(harness, harness.endless_job())
    monkeypatch.setattr("runners.kubernetes.api.RESPONSE_SECONDS", 0.3)
    harness.cluster.slow(3.0, path="/exec")
    began = time.monotonic()
    with pytest.raises(RunnerUnavailable, match="timed out"):
        harness.runner.stop(handle, force=False)
    assert time.monotonic() - began < 2.5
