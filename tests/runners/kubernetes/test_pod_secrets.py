"""The Secret with the secret variables of a job."""

from __future__ import annotations

import base64
from typing import Any

import pytest

from runners.base import JobSpec, Placement, RunnerRefused, RunnerUnavailable
from runners.kubernetes.api import Api
from runners.kubernetes.manifests import INSTALLATION, JOB, Artifact, job_pod, job_secret
from runners.kubernetes.options import Options
from runners.kubernetes.permissions import PERMISSIONS
from tests.runners.kubernetes_harness import IMAGE, KubernetesHarness

SECRETS = {"TOKEN": "correct horse"}
SPEC = JobSpec("0" * 32, "a" * 32, "", "true", {"A": "b", "TOKEN": "variable"}, secrets=SECRETS)


def secret_of(harness: KubernetesHarness, spec: JobSpec) -> Any:
    api = Api(Options.read(harness.options))
    try:
        return api.get(api.secret(spec.name))
    finally:
        api.close()


def test_manifests_refer_to_the_secret() -> None:
    pod = job_pod(SPEC, Artifact("image"), Options.read({"helper_image": "helper"}))
    variables = {variable.pop("name"): variable for variable in pod["spec"]["containers"][-1]["env"]}
    assert variables["A"] == {"value": "b"}
    assert variables["TOKEN"] == {"valueFrom": {"secretKeyRef": {"name": SPEC.name, "key": "TOKEN"}}}
    assert "horse" not in str(pod)
    assert job_secret(SPEC, "uid") == {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {
            "name": SPEC.name,
            "labels": {INSTALLATION: "a" * 32, JOB: "0" * 32, "app.kubernetes.io/managed-by": "polyjob"},
            "ownerReferences": [{"apiVersion": "v1", "kind": "Pod", "name": SPEC.name, "uid": "uid"}],
        },
        "type": "Opaque",
        "immutable": True,
        "data": {"TOKEN": base64.b64encode(b"correct horse").decode()},
    }


def test_pod_owns_the_secret(harness: KubernetesHarness) -> None:
    spec = harness.spec("true", secrets=SECRETS)
    handle = harness.runner.start(spec, None)
    (owner,) = secret_of(harness, spec)["metadata"]["ownerReferences"]
    assert owner["uid"] == harness.cluster.pod(spec.name)["metadata"]["uid"]
    assert harness.end(handle).succeeded


def test_start_that_died_before_the_secret_is_completed(harness: KubernetesHarness) -> None:
    spec = harness.spec('test "$TOKEN" = "correct horse"', secrets=SECRETS)
    harness.cluster.fail(None, times=1, verb="create", path="/secrets$")
    with pytest.raises(RunnerUnavailable):
        harness.runner.start(spec, None)
    handle = harness.another().start(spec, None)
    assert harness.end(handle).succeeded


def test_missing_permission_is_named(harness: KubernetesHarness) -> None:
    harness.cluster.permit([*PERMISSIONS])
    with pytest.raises(RunnerUnavailable, match='cannot create resource "secrets"'):
        harness.runner.start(harness.spec("true", secrets=SECRETS), None)


def test_build_steps_in_the_pod_get_no_secret(harness: KubernetesHarness) -> None:
    artifact = Artifact(IMAGE, IMAGE, ('test -z "$TOKEN" && echo none',), 60.0).text()
    spec = harness.spec('test -n "$TOKEN" && echo some', secrets=SECRETS, is_pinned=True)
    handle = harness.runner.start(spec, artifact)
    assert harness.end(handle).succeeded
    assert harness.log(spec, handle).splitlines()[1:] == [b"none", b"some"]


def test_log_is_refused_without_the_secret(harness: KubernetesHarness) -> None:
    spec = harness.spec("echo $TOKEN", secrets=SECRETS)
    handle = harness.runner.start(spec, None)
    assert harness.end(handle).succeeded
    harness.cluster.remove("secrets", spec.name)
    with pytest.raises(RunnerRefused, match="was deleted"):
        harness.runner.secret_values(handle)


def test_secrets_of_the_cluster_are_not_masked(harness: KubernetesHarness) -> None:
    harness.cluster.add("secrets", "keys", data={"WORD": base64.b64encode(b"of the cluster").decode()})
    spec = harness.spec("echo $WORD", placement=Placement(secrets=("keys",)))
    handle = harness.runner.start(spec, None)
    assert harness.end(handle).succeeded
    assert harness.log(spec, handle) == b"of the cluster\n"
    assert list(harness.runner.secret_values(handle)) == []
    harness.cluster.remove("secrets", "keys")
