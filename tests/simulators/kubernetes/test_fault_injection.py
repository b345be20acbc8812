"""Faults of the simulator, with the messages of a real cluster."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path
from typing import Any

import kubernetes
import pytest
from kubernetes.client import ApiException
from urllib3.exceptions import HTTPError

from tests.require import require_root
from tests.simulators.kubernetes.conftest import client_of, manifest, wait_for
from tests.simulators.kubernetes.remote import start


def running(cluster: Any, api: Any, name: str = "pod", command: str = "sleep 60") -> Any:
    api.create_namespaced_pod("default", manifest(name, command))
    wait_for(lambda: cluster.pod(name)["status"]["phase"] == "Running")


def ended(cluster: Any, api: Any, name: str = "pod") -> tuple[Any, Any]:
    """Return (status of the pod, end of its container)."""
    wait_for(lambda: cluster.pod(name)["status"]["phase"] in ("Succeeded", "Failed"))
    status = api.read_namespaced_pod(name, "default").status
    return status, status.container_statuses[0].state.terminated


def disruption(status: Any) -> str | None:
    return next((condition.reason for condition in status.conditions if condition.type == "DisruptionTarget"), None)


def test_container_out_of_memory_is_killed(cluster: Any, api: Any):
    running(cluster, api)
    cluster.run_out_of_memory("pod")
    _, end = ended(cluster, api)
    assert (end.exit_code, end.reason) == (137, "OOMKilled")


def test_evicted_pod_fails_and_stays(cluster: Any, api: Any):
    running(cluster, api)
    cluster.evict("pod", "The node was low on resource: ephemeral-storage.")
    status, end = ended(cluster, api)
    assert (status.phase, status.reason) == ("Failed", "Evicted")
    assert status.message == "The node was low on resource: ephemeral-storage."
    assert (disruption(status), end.exit_code) == ("TerminationByKubelet", 137)
    assert "Evicted" in [event["reason"] for event in cluster.events("pod")]


def test_preempted_pod_disappears(cluster: Any, api: Any):
    cluster.configure(cleanup=0.5)
    api.create_namespaced_pod("default", manifest(command="sleep 60; true", terminationGracePeriodSeconds=1))
    wait_for(lambda: cluster.pod("pod")["status"]["phase"] == "Running")
    cluster.preempt("pod")
    pod = api.read_namespaced_pod("pod", "default")
    assert disruption(pod.status) == "PreemptionByScheduler"
    assert pod.metadata.deletion_timestamp is not None
    status, end = ended(cluster, api)
    assert (disruption(status), end.exit_code) == ("PreemptionByScheduler", 137)
    wait_for(lambda: cluster.pod("pod") is None)


def test_deleted_pod_disappears(cluster: Any, api: Any):
    running(cluster, api)
    cluster.delete("pod", grace=0)
    with pytest.raises(ApiException) as refusal_of:
        api.read_namespaced_pod("pod", "default")
    assert refusal_of.value.status == 404


def test_restarted_node_lost_its_containers(cluster: Any, api: Any):
    running(cluster, api)
    process = cluster.processes("pod")["job"]
    cluster.lose_node("node-1")
    assert not os.path.exists(f"/proc/{process}")
    pod = api.read_namespaced_pod("pod", "default")
    assert (pod.status.phase, pod.status.container_statuses[0].state.running is not None) == ("Running", True)
    assert [condition.status for condition in pod.status.conditions if condition.type == "Ready"] == ["False"]
    with pytest.raises(ApiException) as refusal_of:
        api.read_namespaced_pod_log("pod", "default")
    assert (refusal_of.value.status, "no route to host" in refusal_of.value.body) == (500, True)
    cluster.restore_node("node-1")
    status, end = ended(cluster, api)
    assert (status.phase, end.exit_code, end.reason) == ("Failed", 137, "ContainerStatusUnknown")


def test_pods_of_a_removed_node_are_collected(cluster: Any, api: Any):
    running(cluster, api)
    cluster.lose_node("node-1")
    cluster.drain_lost_node("node-1")
    pod = api.read_namespaced_pod("pod", "default")
    assert (pod.status.phase, disruption(pod.status)) == ("Running", "DeletionByTaintManager")
    assert pod.metadata.deletion_timestamp is not None
    cluster.remove_node("node-1")
    assert cluster.pod("pod") is None


def test_images_are_pulled_or_refused(cluster: Any, api: Any):
    cluster.configure(backoff=0.2)
    for name, image in (("missing", "registry.example/none:1"), ("misspelt", "Not An Image"), ("never", "other")):
        pod = manifest(name)
        pod["spec"]["containers"][0] |= {"image": image, "imagePullPolicy": "Never" if name == "never" else "Always"}
        api.create_namespaced_pod("default", pod)

    def reason(name: str) -> Any:
        statuses = cluster.pod(name)["status"].get("containerStatuses", [{"state": {}}])
        return statuses[0]["state"].get("waiting", {}).get("reason")

    wait_for(lambda: reason("missing") == "ErrImagePull")
    wait_for(lambda: reason("missing") == "ImagePullBackOff")
    wait_for(lambda: reason("misspelt") == "InvalidImageName")
    wait_for(lambda: reason("never") == "ErrImageNeverPull")
    events = {(event["reason"], event["message"]) for event in cluster.events("missing")}
    assert ("BackOff", 'Back-off pulling image "registry.example/none:1"') in events
    assert ("Failed", "Error: ErrImagePull") in events
    assert cluster.pod("missing")["status"]["phase"] == "Pending"
    cluster.add_image("registry.example/none:1")
    wait_for(lambda: cluster.pod("missing")["status"]["phase"] == "Running")


def test_unreachable_api_can_return(cluster: Any, api: Any):
    running(cluster, api)
    process = cluster.processes("pod")["job"]
    cluster.go_away()
    with pytest.raises(HTTPError):
        api.list_namespaced_pod("default")
    cluster.come_back()
    assert len(api.list_namespaced_pod("default").items) == 1
    assert cluster.processes("pod")["job"] == process


def test_faults_hit_matching_requests(cluster: Any, api: Any):
    cluster.fail(429, times=2, retry_after=1)
    cluster.fail(500, verb="create")
    for _ in range(2):
        with pytest.raises(ApiException) as refusal_of:
            api.list_namespaced_pod("default")
        assert (refusal_of.value.status, refusal_of.value.headers["Retry-After"]) == (429, "1")
        assert refusal_of.value.body == "Too many requests, please try again later.\n"
    api.list_namespaced_pod("default")
    with pytest.raises(ApiException) as refusal_of:
        api.create_namespaced_pod("default", manifest())
    assert (refusal_of.value.status, json.loads(refusal_of.value.body)["reason"]) == (500, "InternalError")
    cluster.fail(None, path="/pods/pod$", times=None)
    with pytest.raises(HTTPError):
        api.read_namespaced_pod("pod", "default")
    cluster.heal()
    cluster.fail(None, verb="create", is_done=True)
    with pytest.raises(HTTPError):
        api.create_namespaced_pod("default", manifest())
    assert cluster.pod("pod"), "the pod was created, and only the response was lost"
    cluster.slow(0.3, verb="list")
    begin = time.monotonic()
    api.list_namespaced_pod("default")
    assert time.monotonic() - begin > 0.3
    assert cluster.counted() == {"list pods": 4, "create pods": 2, "get pods": 1}


def test_permissions_are_enforced(cluster: Any, api: Any):
    cluster.permit([("list", "pods", ""), ("get", "pods", "log")])
    api.list_namespaced_pod("default")
    for call in (
        lambda: api.create_namespaced_pod("default", manifest()),
        lambda: api.list_namespaced_pod("kube-system"),
        lambda: api.list_pod_for_all_namespaces(),
        lambda: api.delete_collection_namespaced_pod("default"),
    ):
        with pytest.raises(ApiException) as refusal_of:
            call()
        assert (refusal_of.value.status, json.loads(refusal_of.value.body)["reason"]) == (403, "Forbidden")
    reviews = kubernetes.client.AuthorizationV1Api(api.api_client)
    allowed = {}
    for verb, resource, sub in (("list", "pods", None), ("watch", "pods", None), ("get", "pods", "log")):
        attributes = {"verb": verb, "resource": resource, "subresource": sub, "namespace": "default"}
        body = {"spec": {"resourceAttributes": attributes}}
        allowed[verb, sub] = reviews.create_self_subject_access_review(body).status.allowed
    assert allowed == {("list", None): True, ("watch", None): False, ("get", "log"): True}


def test_wrong_token_is_unauthorized(cluster: Any, api: Any):
    cluster.tokens.clear()
    with pytest.raises(ApiException) as refusal_of:
        api.list_namespaced_pod("default")
    assert (refusal_of.value.status, json.loads(refusal_of.value.body)["reason"]) == (401, "Unauthorized")
    assert kubernetes.client.VersionApi(api.api_client).get_code().minor == "36"


def test_other_objects_can_be_created_and_read(cluster: Any, api: Any):
    cluster.add("persistentvolumeclaims", "data", spec={"accessModes": ["ReadWriteOnce"]})
    assert api.read_namespaced_persistent_volume_claim("data", "default").metadata.name == "data"
    assert api.read_namespace("default").status.phase == "Active"
    assert api.read_node("node-1").status.allocatable["pods"] == "2000"
    api.create_namespaced_secret("default", {"metadata": {"name": "key"}, "data": {"a": "Yg=="}})
    assert api.read_namespaced_secret("key", "default").data == {"a": "Yg=="}
    api.delete_namespaced_secret("key", "default")
    with pytest.raises(ApiException):
        api.read_namespaced_secret("key", "default")


def test_cluster_runs_in_its_own_process(tmp_path: Path):
    require_root()
    with start(tmp_path) as cluster:
        with client_of(cluster.kubeconfig) as api:
            api.create_namespaced_pod("default", manifest(command="setsid sleep 60 & sleep 60"))
            wait_for(lambda: cluster.pod("pod")["status"]["phase"] == "Running")
            assert cluster.counted()["create pods"] == 1
            names = cluster.pretend(3, {"app": "test"})
            assert {pod["metadata"]["name"] for pod in cluster.pods()} == {"pod", *names}
        process = cluster.processes("pod")["job"]
        os.kill(cluster.process.pid, signal.SIGKILL)
        wait_for(lambda: not os.path.exists(f"/proc/{process}"))
