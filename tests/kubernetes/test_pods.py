"""Pods in the stand-in are as in a cluster: names, fields that the server sets, phases, deletion."""

from __future__ import annotations

from typing import Any

import pytest
from kubernetes.client import ApiException

from tests.kubernetes.conftest import manifest, wait_for


def test_a_pod_runs_to_its_end(cluster: Any, api: Any):
    made = api.create_namespaced_pod("default", manifest(command="exit 3"))
    assert (made.status.phase, bool(made.metadata.uid), made.spec.node_name) == ("Pending", True, None)
    pod = wait_for(lambda: (found := api.read_namespaced_pod("pod", "default")).status.phase == "Failed" and found)
    ended = pod.status.container_statuses[0].state.terminated
    assert (ended.exit_code, ended.reason, pod.spec.node_name) == (3, "Error", "node-1")


def test_a_name_is_taken_once(cluster: Any, api: Any):
    api.create_namespaced_pod("default", manifest())
    with pytest.raises(ApiException) as refused:
        api.create_namespaced_pod("default", manifest())
    assert refused.value.status == 409
    assert '"reason": "AlreadyExists"' in refused.value.body
