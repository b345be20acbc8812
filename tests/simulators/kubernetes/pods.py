"""Requests of the API server for pods: validation, graceful deletion, patches, eviction."""

from __future__ import annotations

import copy
import json
import random
import string
import time
from typing import TYPE_CHECKING, Any

from tests.simulators.kubernetes import patches
from tests.simulators.kubernetes.admission import admit, apply_defaults, pod_forbidden
from tests.simulators.kubernetes.answers import RequestRefused, conflict, invalid, not_found
from tests.simulators.kubernetes.kubelet import End
from tests.simulators.kubernetes.pod_status import set_condition
from tests.simulators.kubernetes.schema import known_fields
from tests.simulators.kubernetes.selectors import Object, Test
from tests.simulators.kubernetes.store import Stored, stamp
from tests.simulators.kubernetes.validation import check_metadata, check_pod, fill_in

if TYPE_CHECKING:
    from tests.simulators.kubernetes.cluster import Cluster


def create(cluster: Cluster, namespace: str, pod: Object, is_dry: bool = False) -> tuple[Stored, list[str]]:
    """Create a pod. Return it and the warnings for the client. `is_dry`: only check the request."""
    if pod.get("kind", "Pod") != "Pod" or pod.get("apiVersion", "v1") != "v1":
        text = f"the API version in the data ({pod.get('apiVersion')}) does not match the expected API version (v1)"
        raise RequestRefused(400, text)
    warnings = known_fields(pod, "V1Pod")
    pod = {key: value for key, value in pod.items() if key in ("metadata", "spec")}
    pod.setdefault("spec", {})
    metadata = pod.setdefault("metadata", {})
    if metadata.get("namespace", namespace) != namespace:
        raise RequestRefused(
            400, "the namespace of the provided object does not match the namespace sent on the request"
        )
    if cluster.store.find("namespaces", "", namespace) is None:
        raise not_found("namespaces", namespace)
    apply_defaults(cluster.admission, pod)
    check_pod(pod)
    if not metadata.get("name"):
        letters = string.ascii_lowercase + string.digits
        metadata["name"] = metadata["generateName"] + "".join(random.choices(letters, k=5))
    fill_in(pod, namespace)
    account = pod["spec"]["serviceAccountName"]
    if cluster.store.find("serviceaccounts", namespace, account) is None:
        message = f'error looking up service account {namespace}/{account}: serviceaccount "{account}" not found'
        raise pod_forbidden(metadata["name"], message)
    with cluster.store.lock:
        existing = cluster.store.list("pods", namespace, lambda item: True)[1]
        admit(cluster.admission, pod, [stored.object for stored in existing])  # before the name is checked
        if is_dry and (namespace, metadata["name"]) not in cluster.store.objects["pods"]:
            return Stored(0, pod, json.dumps(pod).encode()), warnings
        stored = cluster.store.create("pods", pod)
        cluster.labels[metadata["name"]] = metadata.get("labels") or {}
    cluster.scheduler.add(stored.object)
    return stored, warnings


def _is_over(pod: Object) -> bool:
    return pod["status"].get("phase") in ("Succeeded", "Failed")


def delete(cluster: Cluster, namespace: str, name: str, options: dict[str, Any]) -> Stored:
    """Delete a pod gracefully, or at once if it has no node or has ended. Return the object afterwards."""
    preconditions = options.get("preconditions") or {}
    grace = options.get("gracePeriodSeconds")
    if grace is not None and grace < 0:
        grace = 1
    with cluster.store.lock:
        pod = cluster.store.get("pods", namespace, name).object
        metadata = pod["metadata"]
        for field, label in (("uid", "UID"), ("resourceVersion", "ResourceVersion")):
            if preconditions.get(field) and preconditions[field] != metadata[field]:
                message = (
                    f"the {label} in the precondition ({preconditions[field]}) does not match the {label} in record "
                )
                message += f"({metadata[field]})."
                raise conflict("pods", name, f"{message} The object might have been deleted and then recreated")
        if grace is None:
            grace = pod["spec"]["terminationGracePeriodSeconds"]
        if not pod["spec"].get("nodeName") or _is_over(pod):
            grace = 0
        before = metadata.get("deletionGracePeriodSeconds")
        if before is not None and grace >= before:
            return cluster.store.get("pods", namespace, name)
        if options.get("dryRun"):
            return cluster.store.get("pods", namespace, name)
        if grace == 0:
            stored = cluster.store.remove("pods", namespace, name)
            assert stored
        else:

            def change(item: Object) -> None:
                item["metadata"]["deletionTimestamp"] = stamp(time.time() + grace)
                item["metadata"]["deletionGracePeriodSeconds"] = grace

            stored = cluster.store.update("pods", namespace, name, change)
    _end(cluster, stored.object, grace)
    return stored


def _end(cluster: Cluster, pod: Object, grace: float) -> None:
    """Tell the node that a pod is deleted. Without a grace, the pod disappears from the API before it has ended."""
    node = cluster.nodes.get(pod["spec"].get("nodeName", ""))
    uid = pod["metadata"]["uid"]
    worker = node.worker(uid) if node else None
    if node is None or worker is None:
        if grace and pod["spec"].get("nodeName") and uid in cluster.pretended:
            cluster.store.remove("pods", pod["metadata"]["namespace"], pod["metadata"]["name"], uid)
        return
    if grace == 0 and cluster.store.find("pods", worker.namespace, worker.name) is None:
        cluster.run_in_background(lambda: node.forget(uid))
        return
    worker.order_end(End(grace))
    if worker.is_over and not node.is_lost:
        cluster.run_in_background(lambda: node.removed(worker))


def delete_all(cluster: Cluster, namespace: str, chosen: Test, options: dict[str, Any]) -> list[Stored]:
    deleted = cluster.store.list("pods", namespace, chosen)[1]
    for stored in deleted:
        try:
            delete(cluster, namespace, stored.object["metadata"]["name"], options)
        except RequestRefused as error:
            if error.code != 404:
                raise
    return deleted


def evict(cluster: Cluster, namespace: str, name: str, options: dict[str, Any]) -> None:
    """Evict a pod as a drain does: set a condition with the reason, then delete the pod."""

    def change(pod: Object) -> None:
        set_condition(pod["status"], "DisruptionTarget", True, "EvictionByEvictionAPI", "Eviction API: evicting")

    cluster.store.update("pods", namespace, name, change)
    delete(cluster, namespace, name, options)


def patch(cluster: Cluster, resource: str, namespace: str, name: str, kind: str, body: Any) -> Stored:
    """Apply a patch of one of the three kinds. Only metadata and the mutable part of the spec change."""
    if kind not in patches.APPLY:
        raise RequestRefused(
            415,
            "the body of the request was in an unknown format - accepted media types include: "
            + ", ".join(sorted(patches.APPLY)),
        )
    before = cluster.store.get(resource, namespace, name).object
    version = (body.get("metadata") or {}).get("resourceVersion") if isinstance(body, dict) else None

    def change(item: Object) -> None:
        patched = patches.APPLY[kind](item, body)
        for field in ("name", "namespace", "uid", "creationTimestamp", "resourceVersion"):
            if field in item["metadata"]:
                patched["metadata"][field] = item["metadata"][field]
        if resource == "pods":
            patched["status"] = item["status"]
            _check_change(item, patched)
        causes = check_metadata(patched["metadata"])
        if causes:
            raise invalid("Pod", name, causes)
        item.clear()
        item.update(patched)

    return cluster.store.update(resource, namespace, name, change, uid=before["metadata"]["uid"], version=version)


def _check_change(before: Object, after: Object) -> None:
    """Refuse changes of a pod's spec other than of images, to a shorter deadline, or of additional tolerations."""
    old, new = copy.deepcopy(before["spec"]), copy.deepcopy(after["spec"])
    for spec in (old, new):
        for container in [*(spec.get("initContainers") or []), *spec["containers"]]:
            container.pop("image", None)
        for field in ("activeDeadlineSeconds", "tolerations", "terminationGracePeriodSeconds", "schedulingGates"):
            spec.pop(field, None)
    if old != new:
        text = (
            "Forbidden: pod updates may not change fields other than `spec.containers[*].image`,"
            "`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to "
            "existing tolerations),`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously "
            "negative)"
        )
        raise invalid("Pod", before["metadata"]["name"], [("spec", "FieldValueForbidden", text)])
