"""Pods of the simulator: names, fields that the server sets, phases, deletion."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
import requests
from kubernetes.client import ApiException, V1DeleteOptions, V1Preconditions

from tests.simulators.kubernetes.conftest import manifest, wait_for


def refusal_of(call: Any, *arguments: Any, **named: Any) -> tuple[int, dict[str, Any]]:
    """Return the status code and the `Status` object of a call that must be refused."""
    with pytest.raises(ApiException) as error:
        call(*arguments, **named)
    return error.value.status, json.loads(error.value.body)


def is_(api: Any, phase: str, name: str = "pod") -> Any:
    """Return the pod once it is in a phase."""
    return wait_for(lambda: (pod := api.read_namespaced_pod(name, "default")).status.phase == phase and pod)


def test_pod_runs_to_its_end(cluster: Any, api: Any):
    created = api.create_namespaced_pod("default", manifest(command="exit 3"))
    assert (created.status.phase, bool(created.metadata.uid), created.spec.node_name) == ("Pending", True, None)
    assert created.metadata.creation_timestamp is not None
    pod = is_(api, "Failed")
    status = pod.status.container_statuses[0]
    ended = status.state.terminated
    assert (ended.exit_code, ended.reason, pod.spec.node_name) == (3, "Error", "node-1")
    assert ended.started_at <= ended.finished_at
    assert status.restart_count == 0
    assert status.image_id.startswith("docker.io/library/busybox@sha256:")
    assert pod.status.pod_ip
    assert pod.status.start_time
    assert int(pod.metadata.resource_version) > int(created.metadata.resource_version)
    conditions = {condition.type: (condition.status, condition.reason) for condition in pod.status.conditions}
    assert conditions["PodScheduled"] == ("True", None)
    assert conditions["Ready"] == ("False", "PodFailed")
    reasons = [event["reason"] for event in cluster.events("pod")]
    assert reasons == ["Scheduled", "Pulling", "Pulled", "Created", "Started"]


def test_server_fills_in_defaults(cluster: Any, api: Any):
    pod = manifest()
    del pod["spec"]["restartPolicy"], pod["spec"]["automountServiceAccountToken"]
    pod["spec"]["containers"][0]["resources"] = {"limits": {"memory": "64Mi"}}
    spec = api.create_namespaced_pod("default", pod).spec
    assert (spec.restart_policy, spec.service_account_name, spec.dns_policy) == ("Always", "default", "ClusterFirst")
    assert {toleration.toleration_seconds for toleration in spec.tolerations} == {300}
    assert spec.containers[0].image_pull_policy == "Always"
    assert spec.containers[0].resources.requests == {"memory": "64Mi"}
    assert spec.containers[0].volume_mounts[-1].mount_path == "/var/run/secrets/kubernetes.io/serviceaccount"


def test_name_can_be_used_once(cluster: Any, api: Any):
    api.create_namespaced_pod("default", manifest())
    code, status = refusal_of(api.create_namespaced_pod, "default", manifest())
    assert (code, status["reason"]) == (409, "AlreadyExists")
    assert status["message"] == 'pods "pod" already exists'
    assert status["details"] == {"name": "pod", "kind": "pods"}


@pytest.mark.parametrize(
    ("change", "field"),
    [
        (lambda pod: pod["metadata"].update(name="Pod_1"), "metadata.name"),
        (lambda pod: pod["metadata"].pop("name"), "metadata.name"),
        (lambda pod: pod["metadata"].update(labels={"a": "not/valid"}), "metadata.labels"),
        (lambda pod: pod["metadata"].update(labels={"a": "x" * 64}), "metadata.labels"),
        (lambda pod: pod["spec"].update(containers=[]), "spec.containers"),
        (lambda pod: pod["spec"].update(restartPolicy="Sometimes"), "spec.restartPolicy"),
        (lambda pod: pod["spec"].update(activeDeadlineSeconds=0), "spec.activeDeadlineSeconds"),
        (lambda pod: pod["spec"]["containers"][0].pop("image"), "spec.containers[0].image"),
        (lambda pod: pod["spec"]["containers"][0].update(name="Job"), "spec.containers[0].name"),
        (
            lambda pod: pod["spec"]["containers"][0].update(volumeMounts=[{"name": "v", "mountPath": "/v"}]),
            "spec.containers[0].volumeMounts[0].name",
        ),
        (
            lambda pod: pod["spec"]["containers"][0].update(
                resources={"limits": {"cpu": "1"}, "requests": {"cpu": "1500m"}}
            ),
            "spec.containers[0].resources.requests",
        ),
        (
            lambda pod: pod["spec"]["containers"][0].update(resources={"requests": {"nvidia.com/gpu": "1"}}),
            "spec.containers[0].resources.limits",
        ),
    ],
)
def test_faulty_manifest_is_invalid(cluster: Any, api: Any, change: Any, field: str):
    pod = manifest()
    change(pod)
    code, status = refusal_of(api.create_namespaced_pod, "default", pod)
    assert (code, status["reason"]) == (422, "Invalid")
    assert [cause["field"] for cause in status["details"]["causes"]] == [field]
    assert field in status["message"]


@pytest.mark.parametrize(
    "change",
    [
        lambda pod: pod["spec"]["containers"][0].update(env=[{"name": "A", "value": 1}]),
        lambda pod: pod["spec"]["containers"][0].update(command="sleep"),
        lambda pod: pod["spec"]["containers"][0].update(resources={"limits": {"memory": "much"}}),
        lambda pod: pod["metadata"].update(namespace="other"),
    ],
)
def test_unreadable_manifest_is_a_bad_request(cluster: Any, change: Any):
    """The request bypasses the client, which validates its objects itself."""
    pod = manifest()
    change(pod)
    answer = post(cluster, pod)
    assert (answer.status_code, answer.json()["reason"]) == (400, "BadRequest")


def post(cluster: Any, pod: Any) -> requests.Response:
    url = f"{cluster.url}/api/v1/namespaces/default/pods"
    return requests.post(url, json=pod, headers={"Authorization": f"Bearer {cluster.token}"}, timeout=10)


def test_too_large_request_is_refused(cluster: Any):
    pod = manifest()
    for size, expected in ((1_000_000, 201), (2_000_000, 500), (4_000_000, 413)):
        pod["metadata"]["name"] = f"pod-{size}"
        pod["spec"]["containers"][0]["args"] = ["x" * size]
        assert post(cluster, pod).status_code == expected


def test_unknown_fields_are_dropped_with_a_warning(cluster: Any):
    pod = manifest()
    pod["spec"]["containers"][0]["volume_mounts"] = []
    answer = post(cluster, pod)
    assert answer.status_code == 201
    assert answer.headers["Warning"] == r'299 - "unknown field \"spec.containers[0].volume_mounts\""'
    assert cluster.warnings == ['unknown field "spec.containers[0].volume_mounts"']
    assert "volume_mounts" not in cluster.pod("pod")["spec"]["containers"][0]


def test_missing_account_full_quota_and_missing_namespace_are_refused(cluster: Any, api: Any):
    code, status = refusal_of(api.create_namespaced_pod, "default", manifest(serviceAccountName="nobody"))
    assert (code, status["reason"]) == (403, "Forbidden")
    assert 'serviceaccount "nobody" not found' in status["message"]
    cluster.restrict(quota={"pods": "0"})
    code, status = refusal_of(api.create_namespaced_pod, "default", manifest())
    assert (code, status["reason"]) == (403, "Forbidden")
    assert "exceeded quota" in status["message"]
    assert refusal_of(api.create_namespaced_pod, "nowhere", manifest())[0] == 404


def test_init_containers_run_in_order_and_share_volumes(cluster: Any, api: Any):
    mounts = [{"name": "work", "mountPath": "/a/b c"}]

    def container(name: str, command: str) -> dict[str, Any]:
        return {"name": name, "image": "busybox", "command": ["sh", "-c", command], "volumeMounts": mounts}

    pod = manifest(
        volumes=[{"name": "work", "emptyDir": {}}],
        initContainers=[container("one", "echo 1 >>'/a/b c/file'"), container("two", "echo 2 >>'/a/b c/file'")],
        containers=[container("job", "cat '/a/b c/file'; pwd; id -u"), container("beside", "sleep 60")],
    )
    pod["spec"]["containers"][0]["workingDir"] = "/not/there/yet"
    api.create_namespaced_pod("default", pod)
    wait_for(lambda: cluster.pod("pod")["status"].get("containerStatuses", [{}])[0].get("state", {}).get("terminated"))
    assert api.read_namespaced_pod_log("pod", "default", container="job") == "1\n2\n/not/there/yet\n0\n"
    pod = is_(api, "Running")
    assert [status.state.terminated.exit_code for status in pod.status.init_container_statuses] == [0, 0]


def test_failing_init_container_fails_the_pod(cluster: Any, api: Any):
    bad = {"name": "bad", "image": "busybox", "command": ["sh", "-c", "exit 7"]}
    api.create_namespaced_pod("default", manifest(initContainers=[bad]))
    pod = is_(api, "Failed")
    assert pod.status.init_container_statuses[0].state.terminated.exit_code == 7
    assert pod.status.container_statuses[0].state.waiting.reason == "PodInitializing"


def test_sidecar_ends_last(cluster: Any, api: Any):
    beside = {
        "name": "beside",
        "image": "busybox",
        "restartPolicy": "Always",
        "command": ["sh", "-c", "trap 'echo bye; exit 0' TERM; echo hello; while :; do sleep 0.1; done"],
    }
    api.create_namespaced_pod("default", manifest(command="sleep 0.2", initContainers=[beside]))
    is_(api, "Succeeded")
    assert api.read_namespaced_pod_log("pod", "default", container="beside") == "hello\nbye\n"


def test_containers_restart_by_their_policy(cluster: Any, api: Any):
    cluster.configure(backoff=0.05)
    api.create_namespaced_pod("default", manifest(command="echo run; exit 1", restartPolicy="OnFailure"))
    pod = wait_for(
        lambda: (
            (pod := api.read_namespaced_pod("pod", "default")).status.container_statuses
            and pod.status.container_statuses[0].restart_count >= 2
            and pod
        )
    )
    assert pod.status.container_statuses[0].last_state.terminated.exit_code == 1
    assert pod.status.phase == "Running"
    assert api.read_namespaced_pod_log("pod", "default", previous=True) == "run\n"


def test_missing_command_is_a_start_error(cluster: Any, api: Any):
    pod = manifest()
    pod["spec"]["containers"][0]["command"] = ["no-such-program"]
    api.create_namespaced_pod("default", pod)
    ended = is_(api, "Failed").status.container_statuses[0].state.terminated
    assert (ended.exit_code, ended.reason) == (128, "StartError")
    assert 'exec: "no-such-program": executable file not found in $PATH' in ended.message


def test_variables_are_expanded(cluster: Any, api: Any):
    cluster.add("secrets", "key", data={"word": "c2VjcmV0"})
    cluster.add("configmaps", "settings", data={"color": "red"})
    pod = manifest(command="echo $$A $(A) $(NOT) $B $C $D")
    pod["spec"]["containers"][0]["env"] = [
        {"name": "A", "value": "one"},
        {"name": "B", "value": "$(A)-$$(A)"},
        {"name": "C", "valueFrom": {"secretKeyRef": {"name": "key", "key": "word"}}},
        {"name": "D", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
    ]
    pod["spec"]["containers"][0]["envFrom"] = [{"configMapRef": {"name": "settings"}, "prefix": "X_"}]
    pod["spec"]["containers"][0]["command"] = ["sh", "-c", 'echo "$$A $(A) $B $C $D $X_color"']
    api.create_namespaced_pod("default", pod)
    is_(api, "Succeeded")
    assert api.read_namespaced_pod_log("pod", "default") == "one one one-$(A) secret pod red\n"


def test_missing_secret_delays_the_container(cluster: Any, api: Any):
    cluster.configure(backoff=0.1)
    pod = manifest(command="echo $C")
    pod["spec"]["containers"][0]["env"] = [{"name": "C", "valueFrom": {"secretKeyRef": {"name": "key", "key": "word"}}}]
    api.create_namespaced_pod("default", pod)
    waiting = wait_for(
        lambda: (
            (statuses := api.read_namespaced_pod("pod", "default").status.container_statuses)
            and statuses[0].state.waiting.reason != "ContainerCreating"
            and statuses[0].state.waiting
        )
    )
    assert (waiting.reason, waiting.message) == ("CreateContainerConfigError", 'secret "key" not found')
    cluster.add("secrets", "key", data={"word": "c2VjcmV0"})
    is_(api, "Succeeded")


def test_missing_volume_delays_the_pod(cluster: Any, api: Any):
    cluster.configure(backoff=0.1)
    api.create_namespaced_pod("default", manifest(volumes=[{"name": "v", "secret": {"secretName": "key"}}]))
    wait_for(lambda: [event for event in cluster.events("pod") if event["reason"] == "FailedMount"])
    assert cluster.pod("pod")["status"]["phase"] == "Pending"
    cluster.add("secrets", "key")
    is_(api, "Running")


def test_security_context_sets_the_user(cluster: Any, api: Any):
    pod = manifest(
        command="id -u; id -g; touch /data/file; stat -c %g /data/file",
        securityContext={"runAsUser": 1234, "runAsGroup": 5, "fsGroup": 77, "runAsNonRoot": True},
        volumes=[{"name": "data", "emptyDir": {}}],
    )
    pod["spec"]["containers"][0]["volumeMounts"] = [{"name": "data", "mountPath": "/data"}]
    api.create_namespaced_pod("default", pod)
    is_(api, "Succeeded")
    assert api.read_namespaced_pod_log("pod", "default") == "1234\n5\n77\n"
    api.create_namespaced_pod("default", manifest("root", securityContext={"runAsNonRoot": True}))
    wait_for(lambda: "CreateContainerConfigError" in str(cluster.pod("root")["status"]))


def test_security_context_sets_the_capabilities(cluster: Any, api: Any):
    pod = manifest(command="chown 1:1 /tmp; grep CapEff /proc/self/status; grep NoNewPrivs /proc/self/status")
    pod["spec"]["containers"][0]["securityContext"] = {
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"], "add": ["DAC_OVERRIDE"]},
    }
    api.create_namespaced_pod("default", pod)
    is_(api, "Succeeded")
    log = api.read_namespaced_pod_log("pod", "default")
    assert "Operation not permitted" in log
    assert "CapEff:\t0000000000000002\n" in log
    assert "NoNewPrivs:\t1\n" in log


def test_termination_message_is_reported(cluster: Any, api: Any):
    api.create_namespaced_pod("default", manifest(command="printf 'no luck' > /dev/termination-log; exit 1"))
    assert is_(api, "Failed").status.container_statuses[0].state.terminated.message == "no luck"
    pod = manifest("other", command="echo from the log; exit 1")
    pod["spec"]["containers"][0]["terminationMessagePolicy"] = "FallbackToLogsOnError"
    api.create_namespaced_pod("default", pod)
    assert is_(api, "Failed", "other").status.container_statuses[0].state.terminated.message == "from the log"


def test_pre_stop_hook_runs_before_term(cluster: Any, api: Any):
    """The hook signals a process that process 1 would not signal, within the pod's grace."""
    pod = manifest(command="sleep 60; exit 5")
    hook = {"exec": {"command": ["sh", "-c", "kill -TERM -1"]}}
    pod["spec"]["containers"][0]["lifecycle"] = {"preStop": hook}
    pod["metadata"]["finalizers"] = ["example.com/keep"]
    api.create_namespaced_pod("default", pod)
    is_(api, "Running")
    begin = time.monotonic()
    api.delete_namespaced_pod("pod", "default")
    assert is_(api, "Failed").status.container_statuses[0].state.terminated.exit_code == 5
    assert time.monotonic() - begin < 5


def test_deletion_sends_term_first(cluster: Any, api: Any):
    command = "trap 'echo bye; exit 0' TERM; echo ready; while :; do sleep 0.1; done"
    api.create_namespaced_pod("default", manifest(command=command))
    is_(api, "Running")
    wait_for(lambda: api.read_namespaced_pod_log("pod", "default"))
    deleted = api.delete_namespaced_pod("pod", "default")
    assert deleted.metadata.deletion_grace_period_seconds == 5
    assert deleted.metadata.deletion_timestamp > deleted.metadata.creation_timestamp
    begin = time.monotonic()
    wait_for(lambda: cluster.pod("pod") is None)
    assert time.monotonic() - begin < 5
    assert refusal_of(api.read_namespaced_pod, "pod", "default")[1]["reason"] == "NotFound"
    assert refusal_of(api.delete_namespaced_pod, "pod", "default")[0] == 404


def test_process_that_ignores_term_is_killed(cluster: Any, api: Any):
    """TERM has no default action for process 1 of a namespace."""
    api.create_namespaced_pod("default", manifest(command="sleep 60; true"))
    is_(api, "Running")
    process = cluster.processes("pod")["job"]
    begin = time.monotonic()
    api.delete_namespaced_pod("pod", "default", grace_period_seconds=1)
    pod = wait_for(lambda: api.read_namespaced_pod("pod", "default"))
    assert pod.status.phase == "Running"
    wait_for(lambda: cluster.pod("pod") is None)
    assert 0.9 < time.monotonic() - begin < 4
    assert not is_alive(process)


def is_alive(process: int) -> bool:
    try:
        with open(f"/proc/{process}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_second_deletion_can_shorten_the_grace(cluster: Any, api: Any):
    api.create_namespaced_pod("default", manifest(command="sleep 60; true", terminationGracePeriodSeconds=60))
    is_(api, "Running")
    api.delete_namespaced_pod("pod", "default")
    api.delete_namespaced_pod("pod", "default", grace_period_seconds=90)
    assert cluster.pod("pod")["metadata"]["deletionGracePeriodSeconds"] == 60
    process = cluster.processes("pod")["job"]
    api.delete_namespaced_pod("pod", "default", grace_period_seconds=0)
    assert cluster.pod("pod") is None
    wait_for(lambda: not is_alive(process))


def test_deletion_of_another_pod_of_that_name_is_refused(cluster: Any, api: Any):
    pod = api.create_namespaced_pod("default", manifest())
    options = V1DeleteOptions(preconditions=V1Preconditions(uid="another"))
    code, status = refusal_of(api.delete_namespaced_pod, "pod", "default", body=options)
    assert (code, status["reason"]) == (409, "Conflict")
    options = V1DeleteOptions(preconditions=V1Preconditions(uid=pod.metadata.uid), grace_period_seconds=0)
    api.delete_namespaced_pod("pod", "default", body=options)
    assert cluster.pod("pod") is None


def test_ended_pod_is_deleted_at_once(cluster: Any, api: Any):
    api.create_namespaced_pod("default", manifest(command="true"))
    is_(api, "Succeeded")
    api.delete_namespaced_pod("pod", "default")
    assert cluster.pod("pod") is None
    wait_for(lambda: list((cluster.state / "pods").iterdir()) == [])


def test_finalizers_keep_a_deleted_pod(cluster: Any, api: Any):
    pod = manifest(command="true")
    pod["metadata"]["finalizers"] = ["example.com/keep"]
    api.create_namespaced_pod("default", pod)
    is_(api, "Succeeded")
    api.delete_namespaced_pod("pod", "default")
    pod = api.read_namespaced_pod("pod", "default")
    assert pod.metadata.deletion_timestamp is not None
    assert api.read_namespaced_pod_log("pod", "default") == ""
    body = {"metadata": {"$deleteFromPrimitiveList/finalizers": ["example.com/keep"]}}
    api.patch_namespaced_pod("pod", "default", body)
    assert cluster.pod("pod") is None


def test_patches_change_the_mutable_part(cluster: Any, api: Any):
    api.create_namespaced_pod("default", manifest())
    body = {"metadata": {"labels": {"a": "1"}, "annotations": {"b": "2"}}}
    patched = api.patch_namespaced_pod("pod", "default", body)
    assert patched.metadata.labels == {"app": "test", "a": "1"}
    patched = api.patch_namespaced_pod(
        "pod",
        "default",
        [{"op": "remove", "path": "/metadata/labels/a"}, {"op": "test", "path": "/metadata/name", "value": "pod"}],
    )
    assert patched.metadata.labels == {"app": "test"}
    body = {"spec": {"containers": [{"name": "job", "command": ["true"]}]}}
    code, status = refusal_of(api.patch_namespaced_pod, "pod", "default", body)
    assert (code, status["reason"]) == (422, "Invalid")
    body = {"metadata": {"labels": {"a": "1"}, "resourceVersion": "1"}}
    code, status = refusal_of(api.patch_namespaced_pod, "pod", "default", body)
    assert (code, status["reason"]) == (409, "Conflict")


def test_many_pods_can_be_deleted_at_once(cluster: Any, api: Any):
    for name in ("a", "b"):
        api.create_namespaced_pod("default", manifest(name, command="true"))
        is_(api, "Succeeded", name)
    api.create_namespaced_pod("default", {**manifest("c"), "metadata": {"name": "c"}})
    api.delete_collection_namespaced_pod("default", label_selector="app=test")
    assert [pod["metadata"]["name"] for pod in cluster.pods()] == ["c"]


def test_deadline_ends_the_pod(cluster: Any, api: Any):
    command = "trap 'exit 0' TERM; echo ready; while :; do sleep 0.1; done"
    api.create_namespaced_pod("default", manifest(command=command, activeDeadlineSeconds=100))
    is_(api, "Running")
    wait_for(lambda: api.read_namespaced_pod_log("pod", "default"))
    api.patch_namespaced_pod("pod", "default", {"spec": {"activeDeadlineSeconds": 1}})
    pod = is_(api, "Failed")
    assert (pod.status.reason, pod.status.container_statuses[0].state.terminated.exit_code) == ("DeadlineExceeded", 0)


def test_deadline_ends_a_pod_before_its_command(cluster: Any, api: Any):
    pod = manifest(activeDeadlineSeconds=1)
    pod["spec"]["containers"][0]["image"] = "not-there"
    api.create_namespaced_pod("default", pod)
    pod = is_(api, "Failed")
    ended = pod.status.container_statuses[0].state.terminated
    assert (pod.status.reason, ended.reason) == ("DeadlineExceeded", "ContainerStatusUnknown")
    assert ended.started_at is None


def test_unschedulable_pod_reports_the_reason(cluster: Any, api: Any):
    def message(name: str) -> Any:
        conditions = cluster.pod(name)["status"].get("conditions", [])
        return next((condition.get("message") for condition in conditions if condition["type"] == "PodScheduled"), None)

    big = manifest("big")
    big["spec"]["containers"][0]["resources"] = {"requests": {"cpu": "100", "memory": "1Gi"}}
    api.create_namespaced_pod("default", big)
    assert "0/1 nodes are available: 1 Insufficient cpu." in wait_for(lambda: message("big"))
    api.create_namespaced_pod("default", manifest("picky", nodeSelector={"disk": "fast"}))
    assert "didn't match Pod's node affinity/selector" in wait_for(lambda: message("picky"))
    claim = [{"name": "v", "persistentVolumeClaim": {"claimName": "data"}}]
    api.create_namespaced_pod("default", manifest("claims", volumes=claim))
    assert wait_for(lambda: message("claims")) == 'persistentvolumeclaim "data" not found'
    assert {event["reason"] for event in cluster.events()} == {"FailedScheduling"}
    cluster.add_node("node-2", labels={"disk": "fast"}, cpu="200")
    cluster.add("persistentvolumeclaims", "data")
    for name in ("big", "picky", "claims"):
        is_(api, "Running", name)
    assert cluster.pod("picky")["spec"]["nodeName"] == "node-2"
    cluster.schedule_nothing("0/2 nodes are available: full.")
    api.create_namespaced_pod("default", manifest("late"))
    assert wait_for(lambda: message("late")) == "0/2 nodes are available: full."
    api.delete_namespaced_pod("late", "default")
    assert cluster.pod("late") is None
