"""Validation and defaults of new pods."""

from __future__ import annotations

import re
from typing import Any

from tests.simulators.kubernetes.answers import RequestRefused, invalid
from tests.simulators.kubernetes.quantities import amount
from tests.simulators.kubernetes.selectors import Object
from tests.simulators.kubernetes.store import stamp

SUBDOMAIN = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")
LABEL = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?")
QUALIFIED = re.compile(r"([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]")
VARIABLE = re.compile(r"[^=\x00-\x1f\x7f]+")
CORE = {"cpu", "memory", "ephemeral-storage"}
OUTLINE = (
    "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start "
    "and end with an alphanumeric character (e.g. 'example.com', regex used for validation is "
    f"'{SUBDOMAIN.pattern}')"
)
LABEL_OUTLINE = (
    "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end "
    f"with an alphanumeric character (e.g. 'my-name', regex used for validation is '{LABEL.pattern}')"
)

Causes = list[tuple[str, str, str]]


def check_pod(pod: Object) -> None:
    """Validate a pod. Raises RequestRefused: 422 with all errors, or 400 if the pod cannot be parsed."""
    causes: Causes = []
    metadata, spec = pod["metadata"], pod.get("spec") or {}
    name = metadata.get("name") or metadata.get("generateName", "")
    if not name:
        causes.append(("metadata.name", "FieldValueRequired", "Required value: name or generateName is required"))
    elif len(name) > 253 or not SUBDOMAIN.fullmatch(name):
        causes.append(("metadata.name", "FieldValueInvalid", f'Invalid value: "{name}": {OUTLINE}'))
    causes += check_metadata(metadata)
    volumes = _check_volumes(spec, causes)
    if not spec.get("containers"):
        causes.append(("spec.containers", "FieldValueRequired", "Required value"))
    names: set[str] = set()
    for field in ("initContainers", "containers"):
        for position, container in enumerate(spec.get(field) or []):
            _check_container(f"spec.{field}[{position}]", container, volumes, names, causes)
    if spec.get("restartPolicy", "Always") not in ("Always", "OnFailure", "Never"):
        supported = 'supported values: "Always", "Never", "OnFailure"'
        causes.append(
            (
                "spec.restartPolicy",
                "FieldValueNotSupported",
                f'Unsupported value: "{spec["restartPolicy"]}": {supported}',
            )
        )
    for field, least in (("activeDeadlineSeconds", 1), ("terminationGracePeriodSeconds", 0)):
        value = spec.get(field)
        if value is not None and value < least:
            between = "must be between 1 and 2147483647, inclusive" if least else "must be greater than or equal to 0"
            causes.append((f"spec.{field}", "FieldValueInvalid", f"Invalid value: {value}: {between}"))
    if causes:
        raise invalid("Pod", name, causes)


def check_metadata(metadata: dict[str, Any]) -> Causes:
    causes: Causes = []
    for field in ("labels", "annotations"):
        for key, value in (metadata.get(field) or {}).items():
            if not isinstance(value, str):
                raise RequestRefused(
                    400,
                    f'Pod in version "v1" cannot be handled as a Pod: json: cannot unmarshal '
                    f"{'number' if isinstance(value, int | float) else 'object'} into Go struct field "
                    f"ObjectMeta.metadata.{field} of type string",
                )
            causes += _check_key(f"metadata.{field}", key)
            if field == "labels" and value and (len(value) > 63 or not QUALIFIED.fullmatch(value)):
                limit = (
                    "must be no more than 63 bytes"
                    if len(value) > 63
                    else "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.'"
                )
                causes.append(("metadata.labels", "FieldValueInvalid", f'Invalid value: "{value}": {limit}'))
    return causes


def _check_key(field: str, key: str) -> Causes:
    prefix, slash, name = key.rpartition("/")
    if (slash and not SUBDOMAIN.fullmatch(prefix)) or len(name) > 63 or not QUALIFIED.fullmatch(name):
        text = f"Invalid value: \"{key}\": name part must consist of alphanumeric characters, '-', '_' or '.'"
        return [(field, "FieldValueInvalid", text)]
    return []


def _check_volumes(spec: dict[str, Any], causes: Causes) -> set[str]:
    volumes: set[str] = set()
    for position, volume in enumerate(spec.get("volumes") or []):
        field = f"spec.volumes[{position}]"
        name = volume.get("name", "")
        if not name:
            causes.append((f"{field}.name", "FieldValueRequired", "Required value"))
        elif len(name) > 63 or not LABEL.fullmatch(name):
            causes.append((f"{field}.name", "FieldValueInvalid", f'Invalid value: "{name}": {LABEL_OUTLINE}'))
        elif name in volumes:
            causes.append((f"{field}.name", "FieldValueDuplicate", f'Duplicate value: "{name}"'))
        if len(volume.keys() - {"name"}) > 1:
            causes.append((field, "FieldValueForbidden", "Forbidden: may not specify more than 1 volume type"))
        volumes.add(name)
    return volumes


def _check_container(field: str, container: dict[str, Any], volumes: set[str], names: set[str], causes: Causes) -> None:
    name = container.get("name", "")
    if not name:
        causes.append((f"{field}.name", "FieldValueRequired", "Required value"))
    elif len(name) > 63 or not LABEL.fullmatch(name):
        causes.append((f"{field}.name", "FieldValueInvalid", f'Invalid value: "{name}": {LABEL_OUTLINE}'))
    elif name in names:
        causes.append((f"{field}.name", "FieldValueDuplicate", f'Duplicate value: "{name}"'))
    names.add(name)
    image = container.get("image", "")
    if not image:
        causes.append((f"{field}.image", "FieldValueRequired", "Required value"))
    elif image != image.strip():
        causes.append(
            (
                f"{field}.image",
                "FieldValueInvalid",
                f'Invalid value: "{image}": must not have leading or trailing whitespace',
            )
        )
    paths: set[str] = set()
    for position, mount in enumerate(container.get("volumeMounts") or []):
        where = f"{field}.volumeMounts[{position}]"
        if mount.get("name") not in volumes:
            causes.append((f"{where}.name", "FieldValueNotFound", f'Not found: "{mount.get("name", "")}"'))
        path = mount.get("mountPath", "")
        if not path:
            causes.append((f"{where}.mountPath", "FieldValueRequired", "Required value"))
        elif ":" in path:
            causes.append(
                (f"{where}.mountPath", "FieldValueInvalid", f"Invalid value: \"{path}\": must not contain ':'")
            )
        elif path in paths:
            causes.append((f"{where}.mountPath", "FieldValueInvalid", f'Invalid value: "{path}": must be unique'))
        paths.add(path)
    for position, variable in enumerate(container.get("env") or []):
        where = f"{field}.env[{position}]"
        if not isinstance(variable.get("value", ""), str | None):
            raise RequestRefused(
                400,
                'Pod in version "v1" cannot be handled as a Pod: json: cannot unmarshal number into Go struct field '
                "EnvVar.spec.containers.env.value of type string",
            )
        if not VARIABLE.fullmatch(variable.get("name", "")):
            causes.append((f"{where}.name", "FieldValueInvalid", f'Invalid value: "{variable.get("name", "")}"'))
        if variable.get("value") and variable.get("valueFrom"):
            text = 'Invalid value: "": may not be specified when `value` is not empty'
            causes.append((f"{where}.valueFrom", "FieldValueInvalid", text))
    _check_resources(field, container.get("resources") or {}, causes)


def _check_resources(field: str, resources: dict[str, Any], causes: Causes) -> None:
    limits, requests = resources.get("limits") or {}, resources.get("requests") or {}
    for kind, given in (("limits", limits), ("requests", requests)):
        for resource, quantity in given.items():
            if amount(quantity) < 0:
                text = f'Invalid value: "{quantity}": must be greater than or equal to 0'
                causes.append((f"{field}.resources.{kind}[{resource}]", "FieldValueInvalid", text))
            if resource not in CORE and "/" not in resource and not resource.startswith("hugepages-"):
                text = f'Invalid value: "{resource}": must be a standard resource for containers'
                causes.append((f"{field}.resources.{kind}[{resource}]", "FieldValueInvalid", text))
            if "/" in resource and amount(quantity) % 1:
                text = f'Invalid value: "{quantity}": must be an integer'
                causes.append((f"{field}.resources.{kind}[{resource}]", "FieldValueInvalid", text))
    for resource, quantity in requests.items():
        limit = limits.get(resource)
        if limit is not None and amount(quantity) > amount(limit):
            text = f'Invalid value: "{quantity}": must be less than or equal to {resource} limit of {limit}'
            causes.append((f"{field}.resources.requests", "FieldValueInvalid", text))
        if "/" in resource and (limit is None or amount(limit) != amount(quantity)):
            text = (
                f'Invalid value: "{quantity}": must be equal to {resource} limit of {limit}'
                if limit is not None
                else "Required value: Limit must be set for non overcommitable resources"
            )
            causes.append((f"{field}.resources.limits", "FieldValueInvalid", text))


def fill_in(pod: Object, namespace: str) -> None:
    """Fill in the defaults of a pod, and its first status."""
    metadata, spec = pod["metadata"], pod["spec"]
    metadata["namespace"] = namespace
    for field in ("uid", "resourceVersion", "creationTimestamp", "deletionTimestamp", "deletionGracePeriodSeconds"):
        metadata.pop(field, None)
    for name, value in (
        ("restartPolicy", "Always"),
        ("terminationGracePeriodSeconds", 30),
        ("dnsPolicy", "ClusterFirst"),
        ("schedulerName", "default-scheduler"),
        ("securityContext", {}),
        ("enableServiceLinks", True),
        ("preemptionPolicy", "PreemptLowerPriority"),
        ("priority", 0),
    ):
        spec.setdefault(name, value)
    account = spec.setdefault("serviceAccountName", spec.get("serviceAccount") or "default")
    spec["serviceAccount"] = account
    tolerations = spec.setdefault("tolerations", [])
    for name in ("not-ready", "unreachable"):
        key = f"node.kubernetes.io/{name}"
        if not any(
            existing.get("key") in (key, None) and existing.get("effect") in ("NoExecute", None)
            for existing in tolerations
        ):
            tolerations.append({"key": key, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300})
    mounts = _account_volume(spec)
    for container in [*(spec.get("initContainers") or []), *spec["containers"]]:
        tag = container["image"].rpartition("/")[2].partition(":")[2]
        digest = "@" in container["image"]
        container.setdefault("imagePullPolicy", "Always" if tag in ("", "latest") and not digest else "IfNotPresent")
        container.setdefault("terminationMessagePath", "/dev/termination-log")
        container.setdefault("terminationMessagePolicy", "File")
        resources = container.setdefault("resources", {})
        for resource, limit in (resources.get("limits") or {}).items():
            resources.setdefault("requests", {}).setdefault(resource, limit)
        if mounts:
            container["volumeMounts"] = [*(container.get("volumeMounts") or []), mounts]
    metadata["generation"] = 1
    metadata["managedFields"] = [
        {
            "manager": "polyjob",
            "operation": "Update",
            "apiVersion": "v1",
            "time": stamp(),
            "fieldsType": "FieldsV1",
            "fieldsV1": _owned({"metadata": {"labels": metadata.get("labels") or {}}, "spec": spec}),
        }
    ]
    pod["status"] = {"phase": "Pending", "qosClass": _quality(spec)}


def _owned(item: Any) -> dict[str, Any]:
    """Return the fields of an item, for `managedFields`. A server has these on every object; they double its size."""
    if isinstance(item, dict):
        return {f"f:{key}": _owned(value) for key, value in item.items()}
    if isinstance(item, list) and item and isinstance(item[0], dict) and "name" in item[0]:
        return {f'k:{{"name":"{existing["name"]}"}}': {".": {}, **_owned(existing)} for existing in item}
    return {}


def _account_volume(spec: dict[str, Any]) -> dict[str, Any] | None:
    """Add a volume with the service account's token, unless the pod declines it. Return the mount."""
    if spec.get("automountServiceAccountToken") is False:
        return None
    name = "kube-api-access"
    token = {"serviceAccountToken": {"expirationSeconds": 3607, "path": "token"}}
    spec["volumes"] = [*(spec.get("volumes") or []), {"name": name, "projected": {"sources": [token]}}]
    return {"name": name, "mountPath": "/var/run/secrets/kubernetes.io/serviceaccount", "readOnly": True}


def _quality(spec: dict[str, Any]) -> str:
    all_resources = [container.get("resources") or {} for container in spec["containers"]]
    requests = [resources.get("requests") or {} for resources in all_resources]
    if not any(requests) and not any(resources.get("limits") for resources in all_resources):
        return "BestEffort"
    for resources in all_resources:
        limits, requests = resources.get("limits") or {}, resources.get("requests") or {}
        if any(
            name not in limits or amount(limits[name]) != amount(requests.get(name, limits[name]))
            for name in ("cpu", "memory")
        ):
            return "Burstable"
    return "Guaranteed"
