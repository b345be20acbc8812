"""Fixtures for the tests of the Kubernetes runner."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.require import require
from tests.runners.kubernetes_harness import KubernetesHarness


@pytest.fixture
def harness(kubernetes: KubernetesHarness) -> Iterator[KubernetesHarness]:
    """The runner on the cluster simulator. Each test can cause trouble there; it is removed afterwards."""
    require(
        "the simulator", kubernetes.cluster is not None, "the tests use a real cluster, which they must not disturb"
    )
    yield kubernetes
    kubernetes.cluster.heal()
    kubernetes.cluster.permit(None)
    kubernetes.cluster.restrict()
    kubernetes.cluster.schedule_nothing(None)
    kubernetes.cluster.configure(is_late=False, delay=0.0)
    kubernetes.cluster.come_back()
