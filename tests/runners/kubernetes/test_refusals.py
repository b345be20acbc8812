"""Refusals of the API server, and the errors of the runner contract for them."""

from __future__ import annotations

import pytest

pytest.importorskip("kubernetes")

from runners.base import RunnerRefused, RunnerUnavailable, StartFailed
from runners.kubernetes.api import ApiRefused
from runners.kubernetes.refusals import exceeds_quota, of_create, of_one

FORBIDDEN = 'pods is forbidden: User "system:serviceaccount:p:polyjob" cannot create resource "pods" in API group ""'
FULL = (
    'pods "x" is forbidden: exceeded quota: compute, requested: limits.cpu=2, used: limits.cpu=3, limited: limits.cpu=4'
)
NEVER = (
    'pods "x" is forbidden: exceeded quota: compute, requested: limits.cpu=9, used: limits.cpu=0, limited: limits.cpu=4'
)


@pytest.mark.parametrize(
    ("status", "text", "kind"),
    [
        (422, 'Pod "x" is invalid: spec.containers[0].env[0].name: Required value', StartFailed),
        (400, "Pod in version v1 cannot be handled as a Pod: quantities must match", StartFailed),
        (413, "Request entity too large: limit is 3145728", StartFailed),
        (500, "etcdserver: request is too large", StartFailed),
        (403, FULL, RunnerUnavailable),
        (403, FORBIDDEN, RunnerUnavailable),
        (403, "failed calling webhook: dial tcp 10.0.0.1:443: connect: connection refused", RunnerUnavailable),
        (401, "Unauthorized", RunnerUnavailable),
        (404, 'namespaces "jobs" not found', RunnerUnavailable),
        (409, "Operation cannot be fulfilled on resourcequotas: the object has been modified", RunnerUnavailable),
        (403, NEVER, RunnerRefused),
        (403, 'violates PodSecurity "restricted:latest": runAsNonRoot != true', RunnerRefused),
        (403, 'error looking up service account p/x: serviceaccount "x" not found', RunnerRefused),
        (403, "admission webhook denied the request: no labels", RunnerRefused),
        (418, "an unexpected status", RunnerRefused),
    ],
)
def test_refused_create_is_translated(status: int, text: str, kind: type[Exception]) -> None:
    error = of_create(ApiRefused(status, "", text))
    assert type(error) is kind
    assert text in str(error)


@pytest.mark.parametrize(
    ("status", "text", "kind"),
    [
        (500, "Get https://10.0.0.1:10250/containerLogs: dial tcp: connect: no route to host", RunnerUnavailable),
        (503, "apiserver is shutting down", RunnerUnavailable),
        (500, "failed to try resolving symlinks in path /var/log/pods/x: no such file", RunnerRefused),
        (400, "container job is not valid for pod x", RunnerRefused),
    ],
)
def test_refused_request_about_a_pod_is_translated(status: int, text: str, kind: type[Exception]) -> None:
    assert type(of_one(ApiRefused(status, "", text))) is kind


@pytest.mark.parametrize(
    ("requested", "limited", "never"),
    [
        ("limits.cpu=9", "limits.cpu=4", True),
        ("limits.cpu=4", "limits.cpu=4", False),
        ("limits.cpu=4500m", "limits.cpu=4", True),
        ("limits.memory=2Gi,pods=1", "limits.memory=2G,pods=5", True),
        ("limits.memory=2000Mi,pods=1", "limits.memory=2Gi,pods=5", False),
        ("requests.nvidia.com/gpu=2", "requests.nvidia.com/gpu=1", True),
        ("pods=1", "pods=0", True),
        ("limits.cpu=9200m", "limits.cpu=4e0", True),
        ("limits.memory=4134217728", "limits.memory=1E9", True),
        ("limits.memory=4134217728", "limits.memory=1E", False),
        ("limits.cpu=9", "limits.cpu=4000000u", True),
        ("limits.cpu=1500000n", "limits.cpu=1m", True),
        ("limits.cpu=many", "limits.cpu=4", False),
        ("limits.cpu=1e999999999999999999999", "limits.cpu=4", False),
        ("limits.cpu=1..2", "limits.cpu=4", False),
    ],
)
def test_quota_that_could_never_hold_a_pod_is_recognized(requested: str, limited: str, never: bool) -> None:
    text = f"exceeded quota: q, requested: {requested}, used: pods=0, limited: {limited}"
    assert exceeds_quota(text) is never
    assert not exceeds_quota("exceeded quota: in an unknown form")
