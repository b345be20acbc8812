"""The removal of fences and orphaned builders."""

from __future__ import annotations

import contextlib
import io
import threading
from typing import Any

from runners.base import BuildFailed, RunnerUnavailable
from tests.runners.harness import wait_for
from tests.runners.kubernetes.helpers import start_without_answer
from tests.runners.kubernetes_harness import KubernetesHarness


def test_stale_fence_is_removed(harness: KubernetesHarness, monkeypatch: Any) -> None:
    spec = harness.printing_job("x")
    start_without_answer(harness, spec)
    harness.runner.prevent_start(spec.uuid)
    harness.runner.inventory()
    assert harness.cluster.pod(spec.name) is not None
    monkeypatch.setattr("runners.kubernetes.sweeper.STALE_SECONDS", -1.0)
    assert harness.runner.inventory() == {}
    assert harness.cluster.pod(spec.name) is None


def test_orphaned_builder_is_removed(harness: KubernetesHarness, monkeypatch: Any) -> None:
    spec, runner, over = harness.build_spec("echo begun; sleep 1000"), harness.another(), threading.Event()
    log = io.BytesIO()

    def build() -> None:
        with contextlib.suppress(BuildFailed, RunnerUnavailable):
            runner.build(spec, log, over.is_set)

    thread = threading.Thread(target=build)
    thread.start()
    wait_for(lambda: b"begun" in log.getvalue())

    def builders() -> list[Any]:
        labels = [pod["metadata"]["labels"] for pod in harness.cluster.pods()]
        return [item for item in labels if item.get("polyjob.build") == spec.uuid]

    monkeypatch.setattr("runners.kubernetes.sweeper.STALE_SECONDS", 0.0)
    for _ in range(3):
        runner.inventory()
        assert builders()
    harness.runner.inventory()
    assert builders()
    harness.runner.inventory()
    wait_for(lambda: not builders())
    over.set()
    thread.join(20)
    assert not thread.is_alive()
