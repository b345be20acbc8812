"""Quotas, limit ranges and policies of the simulator, with the messages of a real API server."""

from __future__ import annotations

from typing import Any

import pytest
from kubernetes.client import ApiException

from tests.simulators.kubernetes.conftest import manifest, wait_for


def pod(name: str = "pod", **resources: Any) -> dict[str, Any]:
    pod = manifest(name)
    pod["spec"]["containers"][0]["resources"] = resources
    return pod


def refusal(api: Any, pod: dict[str, Any], **options: Any) -> str:
    with pytest.raises(ApiException) as error:
        api.create_namespaced_pod("default", pod, **options)
    assert error.value.status == 403
    return str(error.value.body)


@pytest.mark.parametrize(
    ("rules", "words"),
    [
        ({"quota": {"limits.cpu": "500m"}}, "requested: limits.cpu=1, used: limits.cpu=0, limited: limits.cpu=500m"),
        ({"quota": {"limits.memory": "1Gi"}}, "failed quota: compute: must specify limits.memory for: job"),
        ({"least": {"cpu": "2"}}, "minimum cpu usage per Container is 2, but request is 50m"),
        (
            {"ratio": {"cpu": "10"}},
            "cpu max limit to request ratio per Container is 10, but provided ratio is 20.000000",
        ),
        ({"most": {"cpu": "100m"}}, "maximum cpu usage per Container is 100m, but limit is 1"),
        ({"policy": "violates PodSecurity"}, "is forbidden: violates PodSecurity"),
    ],
)
def test_pod_that_breaks_a_rule_is_refused(cluster: Any, api: Any, rules: Any, words: str):
    cluster.restrict(**rules)
    for options in ({}, {"dry_run": "All"}):
        assert words in refusal(api, pod(limits={"cpu": "1"}, requests={"cpu": "50m"}), **options)
    assert cluster.pods() == []


def test_quota_counts_pods_that_have_not_ended(cluster: Any, api: Any):
    cluster.restrict(quota={"requests.cpu": "1", "pods": "5"})
    api.create_namespaced_pod("default", pod("first", requests={"cpu": "600m"}))
    assert "requested: requests.cpu=600m, used: requests.cpu=600m, limited: requests.cpu=1" in refusal(
        api, pod("second", requests={"cpu": "600m"})
    )
    api.delete_namespaced_pod("first", "default", grace_period_seconds=0)
    api.create_namespaced_pod("default", pod("second", requests={"cpu": "600m"}))


@pytest.mark.parametrize(
    ("rules", "limits", "requests"),
    [
        ({"least": {"cpu": "50m"}}, {}, {"cpu": "50m"}),
        ({"most": {"cpu": "500m"}}, {"cpu": "500m"}, {"cpu": "500m"}),
        (
            {"default": {"memory": "1Gi"}, "default_request": {"cpu": "1"}},
            {"memory": "1Gi"},
            {"cpu": "1", "memory": "1Gi"},
        ),
    ],
)
def test_limit_range_sets_defaults_of_containers(
    cluster: Any, api: Any, rules: Any, limits: dict[str, str], requests: dict[str, str]
):
    cluster.restrict(**rules)
    resources = api.create_namespaced_pod("default", pod()).spec.containers[0].resources
    assert (resources.limits or {}, resources.requests) == (limits, requests)


def test_request_above_the_limit_of_the_range_is_invalid(cluster: Any, api: Any):
    cluster.restrict(default={"cpu": "500m"})
    with pytest.raises(ApiException) as error:
        api.create_namespaced_pod("default", pod(requests={"cpu": "2"}))
    assert error.value.status == 422


def test_quota_is_checked_before_the_name(cluster: Any, api: Any):
    api.create_namespaced_pod("default", pod())
    cluster.restrict(quota={"pods": "1"})
    assert "exceeded quota" in refusal(api, pod())


def test_dry_run_creates_nothing(cluster: Any, api: Any):
    assert api.create_namespaced_pod("default", pod(), dry_run="All").metadata.name == "pod"
    assert cluster.pods() == []


def test_late_kubelet_runs_a_pod_without_reporting_it(cluster: Any, api: Any):
    cluster.configure(is_late=True)
    api.create_namespaced_pod("default", manifest(command="echo begun; sleep 60"))
    wait_for(lambda: cluster.processes("pod"))
    assert cluster.pod("pod")["status"]["phase"] == "Pending"
    cluster.configure(is_late=False)
    wait_for(lambda: cluster.pod("pod")["status"]["phase"] == "Running")
