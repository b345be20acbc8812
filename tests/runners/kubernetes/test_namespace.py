"""Jobs in other namespaces."""

from __future__ import annotations

import pytest

from runners.base import RunnerUnavailable, Running, Unknown
from tests.runners.kubernetes.helpers import MakeHarness, start_running
from tests.runners.kubernetes_harness import KubernetesHarness


def test_job_in_another_namespace_is_unknown(harness: KubernetesHarness, make_kubernetes: MakeHarness) -> None:
    handle = start_running(harness, harness.endless_job())
    harness.cluster.add_namespace("elsewhere")
    other = make_kubernetes(harness.folder, namespace="elsewhere")
    assert isinstance(other.state(handle), Unknown)
    for call in (lambda: other.runner.stop(handle, force=True), lambda: other.runner.clean(handle)):
        with pytest.raises(RunnerUnavailable, match="another cluster or namespace"):
            call()
    assert isinstance(harness.state(handle), Running)
