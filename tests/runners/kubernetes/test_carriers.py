"""Files of jobs in a volume claim."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from runners.base import HandleNotFound, JobSpec, RunnerRefused, RunnerUnavailable
from runners.kubernetes import files
from runners.kubernetes.exec import CommandFailed, CommandNotRun
from runners.kubernetes.permissions import PERMISSIONS
from tests.runners.harness import wait_for
from tests.runners.kubernetes.helpers import (
    MakeHarness,
    example_upload,
    final_state,
    is_active,
    note_of,
    release,
    run_to_end,
    start_running,
)
from tests.runners.kubernetes_harness import KubernetesHarness


@pytest.fixture
def claiming(make_kubernetes: MakeHarness, harness: KubernetesHarness) -> Iterator[KubernetesHarness]:
    harness.cluster.add("persistentvolumeclaims", "shared", spec={"accessModes": ["ReadWriteMany"]})
    yield make_kubernetes(harness.folder / "claiming", claim="shared", patience="5")
    harness.cluster.schedule_nothing(None)
    harness.cluster.remove("persistentvolumeclaims", "shared")


def claim_folders(harness: KubernetesHarness) -> list[Path]:
    """Return the folders of jobs in the claim."""
    return list(harness.cluster.kubeconfig.parent.glob("claims/default/shared/polyjob/*"))


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name == "polyjob.kubernetes"]


def wait_for_file(harness: KubernetesHarness) -> None:
    """Wait until a job has written its output `f`."""
    wait_for(lambda: [path for path in claim_folders(harness) if list(path.glob("outputs/f"))])


def wait_for_outputs(harness: KubernetesHarness, handle: str) -> dict[str, bytes]:
    def outputs() -> Any:
        # A helper may have ended while its pod's status says that it runs.
        with contextlib.suppress(RunnerUnavailable, RunnerRefused):
            return [harness.outputs(handle)]

    return dict(wait_for(outputs)[0])


def exhaust_patience(monkeypatch: Any, call: Callable[[], object]) -> None:
    """Make calls fail until the patience has passed. The clock stays advanced."""
    now = time.monotonic
    for passed in (0, 60, 120, 180):
        monkeypatch.setattr("runners.kubernetes.carriers.time.monotonic", lambda passed=passed: now() + passed)
        if passed < 180:
            with pytest.raises((RunnerUnavailable, RunnerRefused)):
                call()


def delete_pod_with_output(harness: KubernetesHarness) -> tuple[JobSpec, str]:
    """Return (the spec, the handle) of a job that has written its output `f`, and whose pod was deleted."""
    spec = harness.spec("echo x > $POLYAXON_RUN_OUTPUTS_PATH/f; sleep 1000")
    handle = start_running(harness, spec)
    wait_for_file(harness)
    harness.cluster.delete(spec.name, 0)
    wait_for(lambda: final_state(harness, handle))
    return spec, handle


def clean_until_done(harness: KubernetesHarness, handle: str) -> None:
    def is_clean() -> bool:
        with contextlib.suppress(RunnerUnavailable):
            harness.runner.clean(handle)
            return True
        return False

    wait_for(is_clean)


def test_claim_holds_files_and_is_cleared(claiming: KubernetesHarness) -> None:
    cmd = "cat a.txt; echo x > $POLYAXON_RUN_OUTPUTS_PATH/f"
    end, log, handle = run_to_end(claiming, cmd, upload=example_upload(claiming))
    assert (end.code, log) == (0, b"code")
    assert claiming.outputs(handle) == {"f": b"x\n"}
    assert claim_folders(claiming)
    claiming.runner.clean(handle)
    assert claim_folders(claiming) == []
    assert claiming.pods() == []


@pytest.mark.parametrize("problem", ["delete", "helper", "evict"])
def test_files_outlive_their_pod_and_are_cleared(claiming: KubernetesHarness, problem: str) -> None:
    spec = claiming.spec("echo x > $POLYAXON_RUN_OUTPUTS_PATH/f; until [ -e /tmp/go ]; do sleep 0.05; done")
    handle = start_running(claiming, spec)
    wait_for_file(claiming)
    if problem == "helper":
        claiming.cluster.run_out_of_memory(spec.name, "files")
        wait_for(lambda: "may not be kept" in note_of(claiming, handle))
        release(claiming, spec)
    elif problem == "evict":
        claiming.cluster.evict(spec.name)
    else:
        claiming.cluster.delete(spec.name, 0)
    wait_for(lambda: final_state(claiming, handle))
    assert wait_for_outputs(claiming, handle) == {"f": b"x\n"}
    clean_until_done(claiming, handle)
    assert claim_folders(claiming) == []
    assert claiming.pods() == []


def test_full_quota_delays_a_fetch_but_loses_no_files(claiming: KubernetesHarness) -> None:
    spec = claiming.spec("echo x > $POLYAXON_RUN_OUTPUTS_PATH/f; sleep 1000")
    handle = start_running(claiming, spec)
    wait_for_file(claiming)
    other = start_running(claiming, claiming.endless_job())
    claiming.cluster.restrict(quota={"pods": str(sum(map(is_active, claiming.cluster.pods())) - 1)})
    claiming.cluster.delete(spec.name, 0)
    wait_for(lambda: final_state(claiming, handle))
    with pytest.raises(RunnerUnavailable, match="exceeded quota"):
        list(claiming.remote.outputs(handle))
    claiming.cluster.restrict()
    assert wait_for_outputs(claiming, handle) == {"f": b"x\n"}
    for each in (handle, other):
        clean_until_done(claiming, each)


def test_evicted_carrier_is_replaced(claiming: KubernetesHarness, monkeypatch: Any) -> None:
    spec, handle = delete_pod_with_output(claiming)
    assert wait_for_outputs(claiming, handle) == {"f": b"x\n"}
    name = f"polyjob-files-{spec.uuid}"
    claiming.cluster.evict(name)
    wait_for(lambda: not is_active(claiming.cluster.pod(name)))
    now = time.monotonic
    monkeypatch.setattr("runners.kubernetes.carriers.time.monotonic", lambda: now() + 60)  # patience begins again
    assert wait_for_outputs(claiming, handle) == {"f": b"x\n"}
    monkeypatch.undo()
    clean_until_done(claiming, handle)


def test_carrier_in_use_is_not_removed(claiming: KubernetesHarness, monkeypatch: Any) -> None:
    spec = claiming.spec("head -c 3000000 /dev/zero > $POLYAXON_RUN_OUTPUTS_PATH/f; sleep 1000")
    handle = start_running(claiming, spec)
    wait_for(
        lambda: (
            sum(path.stat().st_size for each in claim_folders(claiming) for path in each.glob("outputs/f")) >= 3000000
        )
    )
    claiming.cluster.delete(spec.name, 0)
    wait_for(lambda: final_state(claiming, handle))
    wait_for_outputs(claiming, handle)
    monkeypatch.setattr("runners.kubernetes.sweeper.STALE_SECONDS", -1.0)
    chunks = claiming.remote.outputs(handle)
    next(chunks)
    claiming.runner.inventory()
    assert len(claiming.pods()) == 1
    assert sum(map(len, chunks)) >= 3000000 - 512
    claiming.runner.inventory()
    assert claiming.pods() == []
    monkeypatch.undo()
    clean_until_done(claiming, handle)


def test_unreachable_claim_does_not_block_a_job(claiming: KubernetesHarness, monkeypatch: Any) -> None:
    spec = claiming.endless_job()
    handle = start_running(claiming, spec)
    claiming.cluster.schedule_nothing("0/1 nodes are available")
    claiming.cluster.delete(spec.name, 0)
    wait_for(lambda: final_state(claiming, handle))
    exhaust_patience(monkeypatch, lambda: list(claiming.remote.outputs(handle)))
    with pytest.raises(HandleNotFound, match="cannot be started"):
        list(claiming.remote.outputs(handle))
    clean_until_done(claiming, handle)
    assert claiming.pods() == []


@pytest.mark.parametrize("problem", ["quota", "policy", "permissions", "server"])
def test_failing_removal_does_not_block_a_job(
    claiming: KubernetesHarness, monkeypatch: Any, caplog: pytest.LogCaptureFixture, problem: str
) -> None:
    spec = claiming.spec("echo x > $POLYAXON_RUN_OUTPUTS_PATH/f; sleep 1000")
    handle, other = start_running(claiming, spec), start_running(claiming, claiming.endless_job())
    wait_for_file(claiming)
    claiming.cluster.delete(spec.name, 0)
    wait_for(lambda: final_state(claiming, handle))
    if problem == "quota":
        claiming.cluster.restrict(quota={"pods": str(sum(map(is_active, claiming.cluster.pods())))})
    elif problem == "policy":
        claiming.cluster.restrict(policy="no pods here")
    elif problem == "permissions":
        claiming.cluster.permit([item for item in PERMISSIONS if item != ("create", "pods", "")])
    else:
        claiming.cluster.fail(503, times=None, verb="create", path="/pods$")
    exhaust_patience(monkeypatch, lambda: claiming.runner.clean(handle))
    assert warnings(caplog) == []
    claiming.runner.clean(handle)
    monkeypatch.undo()
    assert [message.partition(" stay in the claim: ")[0] for message in warnings(caplog)] == [
        f"the files of job {spec.uuid}"
    ]
    assert spec.uuid in [path.name for path in claim_folders(claiming)]
    claiming.cluster.heal()
    claiming.cluster.permit(None)
    claiming.cluster.restrict()
    clean_until_done(claiming, other)
    assert claiming.pods() == []


@pytest.mark.parametrize("call", ["outputs", "clean"])
def test_outage_of_the_server_uses_up_no_patience(claiming: KubernetesHarness, monkeypatch: Any, call: str) -> None:
    """The outage comes between two failed calls; the first call after it finds no running carrier yet."""
    spec, handle = delete_pod_with_output(claiming)
    claiming.cluster.schedule_nothing("0/1 nodes are available")
    now = time.monotonic
    for passed in (0, 3600):
        monkeypatch.setattr("runners.kubernetes.carriers.time.monotonic", lambda passed=passed: now() + passed)
        with pytest.raises(RunnerUnavailable, match="is being started"):
            list(claiming.remote.outputs(handle)) if call == "outputs" else claiming.runner.clean(handle)
    claiming.cluster.schedule_nothing(None)
    if call == "outputs":
        assert wait_for_outputs(claiming, handle) == {"f": b"x\n"}
    clean_until_done(claiming, handle)
    assert spec.uuid not in [path.name for path in claim_folders(claiming)]


@pytest.mark.parametrize("error", [CommandNotRun("no container"), CommandFailed(1, "rm: cannot remove: I/O error")])
def test_removal_is_repeated_unless_rm_fails(
    claiming: KubernetesHarness, monkeypatch: Any, caplog: pytest.LogCaptureFixture, error: Exception
) -> None:
    spec, handle = delete_pod_with_output(claiming)
    assert wait_for_outputs(claiming, handle) == {"f": b"x\n"}
    remove_all, errors = files.remove_all, [error]

    def fail_once(*arguments: Any) -> None:
        if errors:
            raise errors.pop()
        remove_all(*arguments)

    monkeypatch.setattr(files, "remove_all", fail_once)
    clean_until_done(claiming, handle)
    has_remaining_files = isinstance(error, CommandFailed)
    assert (spec.uuid in [path.name for path in claim_folders(claiming)]) == has_remaining_files
    assert warnings(caplog) == [f"the files of job {spec.uuid} stay in the claim: {error}"] * has_remaining_files


def test_job_that_never_ran_needs_no_carrier(claiming: KubernetesHarness) -> None:
    claiming.cluster.schedule_nothing("0/1 nodes are available")
    handle = claiming.runner.start(claiming.endless_job(), None)
    claiming.runner.stop(handle, force=False)
    claiming.end(handle)
    claiming.runner.clean(handle)
    assert claiming.pods() == []
