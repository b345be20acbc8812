"""The watch over pods."""

from __future__ import annotations

import threading
import time

import pytest

from tests.runners.kubernetes.helpers import start_running
from tests.runners.kubernetes_harness import KubernetesHarness


@pytest.mark.parametrize("problem", ["cut_watches", "compact"])
def test_broken_watch_begins_again(harness: KubernetesHarness, problem: str) -> None:
    handle = start_running(harness, harness.endless_job())
    getattr(harness.cluster, problem)()
    harness.cluster.cut_watches()
    time.sleep(1.5)
    harness.woken.clear()
    harness.runner.stop(handle, force=True)
    assert harness.woken.wait(10)


def test_threads_end_with_close(harness: KubernetesHarness) -> None:
    runner = harness.another()
    runner.inventory()
    watching = {thread for thread in threading.enumerate() if thread.name.startswith("kubernetes-")}
    assert watching
    for each in harness.runners:
        each.close()
    for thread in watching:
        thread.join(10)
        assert not thread.is_alive()
    harness.runner = harness.another()
