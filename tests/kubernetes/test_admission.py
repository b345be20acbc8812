"""Quotas, limit ranges and policies of the stand-in, which refuse in the words of the API server."""

from __future__ import annotations

from typing import Any

import pytest
from kubernetes.client import ApiException

from tests.kubernetes.conftest import manifest, wait_for


def pod(name: str = "pod", **resources: Any) -> dict[str, Any]:
    made = manifest(name)
    made["spec"]["containers"][0]["resources"] = resources
    return made


def refusal(api: Any, made: dict[str, Any], **options: Any) -> str:
    with pytest.raises(ApiException) as error:
        api.create_namespaced_pod("default", made, **options)
    assert error.value.status == 403
    return str(error.value.body)


@pytest.mark.parametrize(
    ("rules", "words"),
    [
        ({"quota": {"limits.cpu": "500m"}}, "requested: limits.cpu=1, used: limits.cpu=0, limited: limits.cpu=500m"),
        ({"quota": {"limits.memory": "1Gi"}}, "failed quota: compute: must specify limits.memory for: job"),
        ({"least": {"cpu": "2"}}, "minimum cpu usage per Container is 2, but request is 1"),
        ({"least": {"memory": "1Gi"}}, "minimum memory usage per Container is 1Gi.  No request is specified"),
        ({"most": {"cpu": "100m"}}, "maximum cpu usage per Container is 100m, but limit is 1"),
        ({"policy": "violates PodSecurity"}, "is forbidden: violates PodSecurity"),
    ],
)
def test_pod_that_a_namespace_does_not_admit(cluster: Any, api: Any, rules: Any, words: str):
    cluster.restrict(**rules)
    for options in ({}, {"dry_run": "All"}):
        assert words in refusal(api, pod(limits={"cpu": "1"}), **options)
    assert cluster.pods() == []


def test_quota_counts_pods_that_have_not_ended(cluster: Any, api: Any):
    cluster.restrict(quota={"requests.cpu": "1", "pods": "5"})
    api.create_namespaced_pod("default", pod("first", requests={"cpu": "600m"}))
    assert "used: requests.cpu=0.6" in refusal(api, pod("second", requests={"cpu": "600m"}))
    api.delete_namespaced_pod("first", "default", grace_period_seconds=0)
    api.create_namespaced_pod("default", pod("second", requests={"cpu": "600m"}))


def test_dry_run_makes_nothing(cluster: Any, api: Any):
    assert api.create_namespaced_pod("default", pod(), dry_run="All").metadata.name == "pod"
    assert cluster.pods() == []


def test_late_kubelet_runs_a_pod_and_does_not_say_so(cluster: Any, api: Any):
    cluster.configure(is_late=True)
    api.create_namespaced_pod("default", manifest(command="echo begun; sleep 60"))
    wait_for(lambda: cluster.processes("pod") if cluster.pod("pod")["spec"].get("nodeName") else None)
    assert cluster.pod("pod")["status"]["phase"] == "Pending"
    cluster.configure(is_late=False)
    wait_for(lambda: cluster.pod("pod")["status"]["phase"] == "Running")
