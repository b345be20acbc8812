"""Starts of jobs: creation and adoption of pods, and fences."""

from __future__ import annotations

import json
from typing import Any

import pytest

from runners.base import (
    Missing,
    Placement,
    Reason,
    Resources,
    RunnerError,
    RunnerRefused,
    RunnerUnavailable,
    Running,
    StartFailed,
)
from runners.kubernetes import api as kubernetes_api
from runners.kubernetes.api import TOO_LARGE_TEXTS
from runners.kubernetes.permissions import PERMISSIONS
from runners.kubernetes.starter import PENDING_REQUEST_SECONDS
from runners.volumes import Volume
from tests.runners.kubernetes.helpers import (
    MakeHarness,
    example_upload,
    expire_requests,
    is_active,
    start_running,
    start_without_answer,
)
from tests.runners.kubernetes_harness import KubernetesHarness


def test_pod_of_another_installation_is_not_adopted(harness: KubernetesHarness, make_kubernetes: MakeHarness) -> None:
    other = make_kubernetes(harness.folder / "other")
    spec = harness.endless_job()
    handle = start_running(harness, spec)
    with pytest.raises(StartFailed, match="does not belong to this polyjob"):
        other.runner.start(spec, None)
    assert isinstance(harness.state(handle), Running)
    assert other.runner.inventory() == {}


def test_start_whose_record_was_lost_is_adopted(harness: KubernetesHarness) -> None:
    spec = harness.printing_job("x")
    first = harness.runner.start(spec, None)
    (harness.data / "kubernetes" / spec.uuid).unlink()
    assert harness.another().start(spec, None) == first
    harness.end(first)
    assert harness.runs(spec) == 1


def test_create_without_an_answer_is_adopted(harness: KubernetesHarness) -> None:
    spec = harness.printing_job("x")
    harness.cluster.fail(None, times=1, verb="create", path="/pods$")
    with pytest.raises(RunnerUnavailable):
        harness.runner.start(spec, None)
    handle = harness.runner.start(spec, None)
    harness.end(handle)
    assert harness.runs(spec) == 1


def test_invalid_pod_fails_with_the_servers_message(harness: KubernetesHarness) -> None:
    with pytest.raises(StartFailed, match="label"):
        harness.runner.start(harness.spec(placement=Placement(labels={"a": "b c"})), None)


@pytest.mark.parametrize("words", TOO_LARGE_TEXTS)
def test_pod_too_large_for_the_cluster_fails_at_once(harness: KubernetesHarness, words: str) -> None:
    harness.cluster.fail(500, times=1, verb="create", path="/pods$", message=words)
    with pytest.raises(StartFailed, match="large"):
        harness.runner.start(harness.spec(), None)


def test_conflict_of_a_quota_is_retried(harness: KubernetesHarness) -> None:
    spec = harness.printing_job("x")
    harness.cluster.fail(409, times=1, verb="create", path="/pods$", message="the quota has been modified")
    with pytest.raises(RunnerUnavailable, match="quota"):
        harness.runner.start(spec, None)
    harness.end(harness.runner.start(spec, None))
    assert harness.runs(spec) == 1


def test_full_quota_and_missing_permission_are_retried(harness: KubernetesHarness) -> None:
    spec, room = harness.printing_job("x"), sum(is_active(pod) for pod in harness.cluster.pods()) + 1
    other = start_running(harness, harness.endless_job())
    harness.cluster.restrict(quota={"pods": str(room)})
    with pytest.raises(RunnerUnavailable, match="quota"):
        harness.runner.start(spec, None)
    harness.runner.clean(other)
    harness.cluster.restrict()
    harness.cluster.permit([item for item in PERMISSIONS if item != ("create", "pods", "")])
    with pytest.raises(RunnerUnavailable, match="cannot create"):
        harness.runner.start(spec, None)
    harness.cluster.permit(None)
    harness.end(harness.runner.start(spec, None))
    assert harness.runs(spec) == 1


@pytest.mark.parametrize(
    "rules",
    [
        {"quota": {"limits.cpu": "4"}},
        {"quota": {"limits.memory": "1Gi", "pods": "50"}},
        {"least": {"cpu": "50m"}},
        {"most": {"cpu": "100m"}},
        {"policy": 'violates PodSecurity "restricted:latest": runAsNonRoot != true'},
    ],
)
def test_pod_that_a_namespace_never_admits_is_refused(harness: KubernetesHarness, rules: Any) -> None:
    spec = harness.spec(limits=Resources(cpu=9.0, memory=2 << 30))
    harness.cluster.restrict(**rules)
    with pytest.raises(RunnerRefused, match="forbidden"):
        harness.runner.start(spec, None)
    assert harness.cluster.pod(spec.name) is None


def test_helper_resources_satisfy_a_limit_range(make_kubernetes: MakeHarness, harness: KubernetesHarness) -> None:
    resources = "requests.cpu=50m requests.memory=64Mi limits.cpu=50m limits.memory=64Mi"
    harness.cluster.restrict(least={"cpu": "50m", "memory": "64Mi"}, most={"cpu": "500m", "memory": "1Gi"})
    fitting = make_kubernetes(harness.folder / "fitting", helper_resources=resources)
    amounts = Resources(cpu=0.1, memory=64 << 20)
    spec = fitting.spec("echo x", requests=amounts, limits=amounts, upload=example_upload(harness))
    handle = fitting.runner.start(spec, None)
    assert fitting.end(handle).succeeded
    with pytest.raises(RunnerRefused, match="minimum cpu"):
        harness.runner.start(harness.spec(requests=amounts, limits=amounts), None)


def test_late_request_finds_the_fence(harness: KubernetesHarness) -> None:
    spec = harness.printing_job("x")
    start_without_answer(harness, spec)
    assert harness.runner.prevent_start(spec.uuid) is None
    pod = harness.cluster.pod(spec.name)
    assert pod["metadata"]["labels"]["polyjob.fence"] == spec.uuid
    assert "nodeName" not in pod["spec"]
    (harness.data / "kubernetes" / spec.uuid).unlink()
    with pytest.raises(RunnerRefused, match="does not belong to this polyjob"):
        harness.runner.start(spec, None)


def test_start_is_prevented_only_once_the_name_is_taken(harness: KubernetesHarness) -> None:
    """A conflict can also come from a quota that is just changing, and the pod with the name may disappear again."""
    spec = harness.printing_job("x")
    start_without_answer(harness, spec)
    harness.cluster.fail(409, times=1, verb="create", path="/pods$", message="the quota has been modified")
    with pytest.raises(RunnerUnavailable, match="quota"):
        harness.runner.prevent_start(spec.uuid)
    harness.runner.start(spec, None)
    (harness.data / "kubernetes" / spec.uuid).unlink()
    harness.cluster.fail(404, times=2, verb="get", path=spec.name)
    with pytest.raises(RunnerUnavailable, match="has disappeared again"):
        harness.runner.prevent_start(spec.uuid)
    assert json.loads(str(harness.runner.prevent_start(spec.uuid)))["id"]


@pytest.mark.parametrize("is_busy", [False, True])
@pytest.mark.parametrize("rules", [{"least": {"cpu": "50m"}}, {"quota": {"pods": "0"}}, {"policy": "no pods here"}])
def test_refused_start_needs_no_fence(harness: KubernetesHarness, rules: Any, is_busy: bool) -> None:
    spec, before = harness.printing_job("x"), len(harness.cluster.pods())
    harness.cluster.restrict(**rules)
    if is_busy:  # a request that is one too many is not carried out
        harness.cluster.fail(429, times=1, verb="create", path="/pods$")
    with pytest.raises(RunnerError, match="forbidden"):
        harness.runner.start(spec, None)
    assert harness.another().prevent_start(spec.uuid) is None
    harness.cluster.restrict()
    assert isinstance(harness.state(harness.runner.start(spec, None)), Missing)
    assert len(harness.cluster.pods()) == before


@pytest.mark.parametrize("rules", [{"least": {"cpu": "50m"}}, {"quota": {"pods": "0"}}, {"policy": "no pods here"}])
def test_refused_fence_is_retried_until_requests_expire(harness: KubernetesHarness, rules: Any) -> None:
    spec = harness.printing_job("x")
    start_without_answer(harness, spec)
    harness.cluster.restrict(**rules)
    for _ in range(2):  # the start is tried again, and the first request is still on its way
        with pytest.raises(RunnerUnavailable, match=r"may still be carried out.*forbidden"):
            harness.runner.prevent_start(spec.uuid)
        expire_requests(harness, spec)
        with pytest.raises(RunnerRefused, match="forbidden"):
            harness.runner.prevent_start(spec.uuid)
        with pytest.raises(RunnerError, match="forbidden"):
            harness.runner.start(spec, None)


@pytest.mark.parametrize("code", [500, 502, 503, 504])
@pytest.mark.parametrize("rules", [{"least": {"cpu": "50m"}}, {"quota": {"pods": "0"}}])
def test_start_refused_after_a_server_error_needs_a_fence(harness: KubernetesHarness, rules: Any, code: int) -> None:
    spec = harness.printing_job("x")
    harness.cluster.restrict(**rules)
    harness.cluster.fail(code, times=1, verb="create", path="/pods$")
    with pytest.raises(RunnerError, match="forbidden"):
        harness.runner.start(spec, None)
    with pytest.raises(RunnerUnavailable, match="forbidden"):
        harness.another().prevent_start(spec.uuid)
    harness.cluster.restrict()
    assert harness.another().prevent_start(spec.uuid) is None
    assert harness.cluster.pod(spec.name)["metadata"]["labels"]["polyjob.fence"] == spec.uuid


@pytest.mark.parametrize("code", [500, 503, None])
@pytest.mark.parametrize(("status", "words"), [(400, "no such field"), (422, "invalid"), (500, TOO_LARGE_TEXTS[0])])
def test_invalid_pod_after_an_unclear_attempt_needs_a_fence(
    harness: KubernetesHarness, code: int | None, status: int, words: str
) -> None:
    spec = harness.printing_job("x")
    harness.cluster.fail(code, times=1, verb="create", path="/pods$")
    harness.cluster.fail(status, times=None, verb="create", path="/pods$", message=words)
    if code is None:
        with pytest.raises(RunnerUnavailable):
            harness.runner.start(spec, None)
    for _ in range(2):
        with pytest.raises(RunnerRefused, match=words):
            harness.runner.start(spec, None)
    harness.cluster.heal()
    assert harness.another().prevent_start(spec.uuid) is None
    assert harness.cluster.pod(spec.name)["metadata"]["labels"]["polyjob.fence"] == spec.uuid


def test_pending_time_exceeds_the_time_of_all_attempts() -> None:
    attempt = (
        kubernetes_api.CONNECT_SECONDS + kubernetes_api.RESPONSE_SECONDS + kubernetes_api.LONGEST_PAUSE_SECONDS * 1.5
    )
    last_attempt_sent = (kubernetes_api.ATTEMPTS - 1) * attempt + kubernetes_api.CONNECT_SECONDS
    assert last_attempt_sent + 60 < PENDING_REQUEST_SECONDS  # the API server's own time limit


def test_missing_claim_of_a_volume_fails_the_job_and_is_named(
    harness: KubernetesHarness, make_kubernetes: MakeHarness
) -> None:
    impatient = make_kubernetes(harness.folder / "impatient", patience="0.2")
    handle = impatient.runner.start(impatient.spec("true", volumes=(Volume("data", "sets", is_claim=True),)), None)
    end = impatient.end(handle)
    assert (end.reason, end.has_begun) == (Reason.START, False)
    assert 'persistentvolumeclaim "sets" not found' in (end.message or "")
