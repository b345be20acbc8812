"""Admission of new pods: the quota, limit range and policies of a namespace."""

from __future__ import annotations

from dataclasses import dataclass, field
from decimal import Decimal

from tests.simulators.kubernetes.answers import RequestRefused
from tests.simulators.kubernetes.quantities import amount, canonical
from tests.simulators.kubernetes.selectors import Object


@dataclass
class Admission:
    """The rules. They can be changed while the cluster runs."""

    quota: dict[str, str] = field(default_factory=dict)
    """Quota: resource, such as `pods` or `limits.cpu` → maximum for all active pods together."""
    least: dict[str, str] = field(default_factory=dict)
    most: dict[str, str] = field(default_factory=dict)
    """Limit range: resource → minimum request and maximum limit of each container."""
    default: dict[str, str] = field(default_factory=dict)
    default_request: dict[str, str] = field(default_factory=dict)
    """Limit range: resource → default limits and requests of containers."""
    ratio: dict[str, str] = field(default_factory=dict)
    """Limit range: resource → maximum ratio of a container's limit to its request."""
    policy: str | None = None
    """The message with which an admission plugin refuses every pod; None = pods are admitted."""


def apply_defaults(rules: Admission, pod: Object) -> None:
    """Fill in the defaults of a limit range. Missing defaults come from its minimum and maximum."""
    limits = {**rules.most, **rules.default}
    requests = {**rules.least, **limits, **rules.default_request}
    if not limits and not requests:
        return
    for container in [*(pod["spec"].get("initContainers") or []), *(pod["spec"].get("containers") or [])]:
        resources = container.setdefault("resources", {})
        resources["requests"] = {**requests, **(resources.get("limits") or {}), **(resources.get("requests") or {})}
        resources["limits"] = {**limits, **(resources.get("limits") or {})}


def admit(rules: Admission, pod: Object, others: list[Object]) -> None:
    """Raise RequestRefused if a rule refuses a pod. `others` are the pods of the namespace."""
    name = pod["metadata"]["name"]
    if rules.policy:
        raise pod_forbidden(name, rules.policy)
    causes = [cause for container in _containers(pod) for cause in _out_of_range(rules, container)]
    if causes:
        raise pod_forbidden(name, causes[0] if len(causes) == 1 else f"[{', '.join(causes)}]")
    missing = _missing_amounts(rules, pod)
    if missing:
        raise pod_forbidden(name, f"failed quota: compute: must specify {'; '.join(missing)}")
    requested = {resource: _amount_of(pod, resource) for resource in rules.quota}
    active = [other for other in others if other["status"].get("phase") not in ("Succeeded", "Failed")]
    used = {resource: sum((_amount_of(other, resource) for other in active), Decimal(0)) for resource in rules.quota}
    over = [resource for resource, limit in rules.quota.items() if requested[resource] + used[resource] > amount(limit)]
    if over:
        texts = [
            ",".join(f"{resource}={canonical(amounts[resource])}" for resource in over) for amounts in (requested, used)
        ]
        texts.append(",".join(f"{resource}={rules.quota[resource]}" for resource in over))
        raise pod_forbidden(
            name,
            f"exceeded quota: compute, requested: {texts[0]}, used: {texts[1]}, limited: {texts[2]}",
        )


def pod_forbidden(name: str, reason: str) -> RequestRefused:
    return RequestRefused(403, f'pods "{name}" is forbidden: {reason}', details={"name": name, "kind": "pods"})


def _containers(pod: Object) -> list[Object]:
    return [*(pod["spec"].get("initContainers") or []), *pod["spec"]["containers"]]


def _out_of_range(rules: Admission, container: Object) -> list[str]:
    causes = []
    resources = container.get("resources") or {}
    for resource, least in rules.least.items():
        request = (resources.get("requests") or {}).get(resource)
        if request is None:
            causes.append(f"minimum {resource} usage per Container is {least}.  No request is specified")
        elif amount(request) < amount(least):
            causes.append(f"minimum {resource} usage per Container is {least}, but request is {request}")
    for resource, most in rules.most.items():
        limit = (resources.get("limits") or {}).get(resource)
        if limit is None:
            causes.append(f"maximum {resource} usage per Container is {most}.  No limit is specified")
        elif amount(limit) > amount(most):
            causes.append(f"maximum {resource} usage per Container is {most}, but limit is {limit}")
    for resource, most in rules.ratio.items():
        limit = (resources.get("limits") or {}).get(resource, "0")
        request = (resources.get("requests") or {}).get(resource, "0")
        if not amount(request) or not amount(limit):
            causes.append(f"{resource} max limit to request ratio per Container is {most}, but no request is specified")
        elif amount(limit) / amount(request) > amount(most):
            ratio_text = f"but provided ratio is {amount(limit) / amount(request):.6f}"
            causes.append(f"{resource} max limit to request ratio per Container is {most}, {ratio_text}")
    return causes


def _missing_amounts(rules: Admission, pod: Object) -> list[str]:
    messages = []
    for resource in rules.quota:
        kind, _, plain = resource.rpartition(".")
        names = [
            container["name"]
            for container in _containers(pod)
            if kind and plain not in ((container.get("resources") or {}).get(kind) or {})
        ]
        if names:
            messages.append(f"{resource} for: {','.join(names)}")
    return messages


def _amount_of(pod: Object, resource: str) -> Decimal:
    """Return the amount that counts in a quota: the sum of the containers, or the largest init container."""
    if resource == "pods":
        return Decimal(1)
    kind, _, plain = resource.rpartition(".")

    def of(container: Object) -> Decimal:
        return amount(((container.get("resources") or {}).get(kind) or {}).get(plain, "0"))

    largest = max((of(container) for container in pod["spec"].get("initContainers") or []), default=Decimal(0))
    return max(largest, sum((of(container) for container in pod["spec"]["containers"]), Decimal(0)))
