"""Requests to the API server."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from runners.base import RunnerUnavailable, Running
from tests.runners.kubernetes.helpers import MakeHarness, start_running
from tests.runners.kubernetes_harness import KubernetesHarness


def test_unreachable_server_is_unavailable_and_harmless(harness: KubernetesHarness) -> None:
    spec = harness.endless_job()
    handle = start_running(harness, spec)
    harness.cluster.go_away()
    for call in (
        harness.runner.check,
        lambda: harness.runner.poll([handle]),
        lambda: harness.runner.stop(handle, force=True),
        lambda: harness.runner.clean(handle),
        lambda: harness.runner.start(harness.spec(), None),
        lambda: harness.remote.logs(handle, None, 10),
        lambda: list(harness.remote.outputs(handle)),
    ):
        with pytest.raises(RunnerUnavailable, match="cannot be reached"):
            call()
    harness.cluster.come_back()
    assert isinstance(harness.state(handle), Running)


@pytest.mark.parametrize("code", [429, 500, 503])
def test_overloaded_server_is_tried_again(harness: KubernetesHarness, code: int) -> None:
    handle = start_running(harness, harness.endless_job())
    harness.cluster.fail(code, times=2, verb="list")
    assert isinstance(harness.state(handle), Running)
    harness.cluster.fail(code, times=None, verb="list")
    with pytest.raises(RunnerUnavailable, match=str(code)):
        harness.runner.poll([handle])


def test_retry_after_is_respected(harness: KubernetesHarness) -> None:
    handle = start_running(harness, harness.endless_job())
    harness.cluster.fail(429, times=1, verb="list", retry_after=1)
    before = time.monotonic()
    assert isinstance(harness.state(handle), Running)
    assert time.monotonic() - before > 0.4


def test_many_pods_are_listed_in_pages(harness: KubernetesHarness, monkeypatch: Any) -> None:
    monkeypatch.setattr("runners.kubernetes.api.PAGE_SIZE", 2)
    handles = [harness.runner.start(harness.printing_job(str(number)), None) for number in range(5)]
    for handle in handles:
        harness.end(handle)
    harness.cluster.forget_counts()
    assert len(harness.runner.poll(handles)) == 5
    assert harness.cluster.counted() == {"list pods": 3}


def test_poll_needs_one_list_for_all_jobs(harness: KubernetesHarness) -> None:
    handles = [start_running(harness, harness.endless_job()) for _ in range(4)]
    harness.cluster.forget_counts()
    assert len(harness.runner.poll(handles)) == 4
    assert harness.cluster.counted() == {"list pods": 1}


def test_missing_or_invalid_kubeconfig_is_named(make_kubernetes: MakeHarness, tmp_path: Path) -> None:
    lost = make_kubernetes(tmp_path / "lost", kubeconfig=str(tmp_path / "nothing"))
    with pytest.raises(RunnerUnavailable, match="No Kubernetes cluster is configured"):
        lost.runner.check()
    (tmp_path / "nothing").write_text("{: no YAML")
    with pytest.raises(RunnerUnavailable, match="cannot be read"):
        lost.runner.check()
    lost.runner.inventory = dict  # type: ignore[method-assign]
