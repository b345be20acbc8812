"""What a namespace's quota, limit range and policies make of a pod that is created."""

from __future__ import annotations

from dataclasses import dataclass, field
from decimal import Decimal

from tests.simulators.kubernetes.answers import Refused
from tests.simulators.kubernetes.quantities import amount, canonical
from tests.simulators.kubernetes.selectors import Object


@dataclass
class Admission:
    """The rules; may be changed while the cluster runs."""

    quota: dict[str, str] = field(default_factory=dict)
    """Resource, such as `pods` or `limits.cpu` → what all pods that have not ended may have of it together."""
    least: dict[str, str] = field(default_factory=dict)
    most: dict[str, str] = field(default_factory=dict)
    """Of a limit range: resource → what each container has to ask for at least, and may have at most."""
    default: dict[str, str] = field(default_factory=dict)
    default_request: dict[str, str] = field(default_factory=dict)
    """Of a limit range: resource → what containers that say nothing may have, and ask for."""
    ratio: dict[str, str] = field(default_factory=dict)
    """Of a limit range: resource → how many times what it asks for a container may have at most."""
    policy: str | None = None
    """Why every pod is refused, in the words of whatever refuses it; None = nothing does."""


def give_defaults(rules: Admission, pod: Object) -> None:
    """Fill in what a limit range says for containers that say nothing; it completes itself from its own bounds."""
    limits = {**rules.most, **rules.default}
    requests = {**rules.least, **limits, **rules.default_request}
    if not limits and not requests:
        return
    for container in [*(pod["spec"].get("initContainers") or []), *(pod["spec"].get("containers") or [])]:
        resources = container.setdefault("resources", {})
        resources["requests"] = {**requests, **(resources.get("limits") or {}), **(resources.get("requests") or {})}
        resources["limits"] = {**limits, **(resources.get("limits") or {})}


def admit(rules: Admission, pod: Object, others: list[Object]) -> None:
    """Raises Refused. `others` are the pods of the namespace."""
    name = pod["metadata"]["name"]
    if rules.policy:
        raise refused(name, rules.policy)
    causes = [cause for container in _containers(pod) for cause in _out_of_range(rules, container)]
    if causes:
        raise refused(name, causes[0] if len(causes) == 1 else f"[{', '.join(causes)}]")
    unsaid = _unsaid(rules, pod)
    if unsaid:
        raise refused(name, f"failed quota: compute: must specify {'; '.join(unsaid)}")
    asked = {resource: _asked(pod, resource) for resource in rules.quota}
    living = [other for other in others if other["status"].get("phase") not in ("Succeeded", "Failed")]
    used = {resource: sum((_asked(other, resource) for other in living), Decimal(0)) for resource in rules.quota}
    over = [resource for resource, limit in rules.quota.items() if asked[resource] + used[resource] > amount(limit)]
    if over:
        told = [
            ",".join(f"{resource}={canonical(amounts[resource])}" for resource in over) for amounts in (asked, used)
        ]
        told.append(",".join(f"{resource}={rules.quota[resource]}" for resource in over))
        raise refused(name, f"exceeded quota: compute, requested: {told[0]}, used: {told[1]}, limited: {told[2]}")


def refused(name: str, why: str) -> Refused:
    return Refused(403, f'pods "{name}" is forbidden: {why}', details={"name": name, "kind": "pods"})


def _containers(pod: Object) -> list[Object]:
    return [*(pod["spec"].get("initContainers") or []), *pod["spec"]["containers"]]


def _out_of_range(rules: Admission, container: Object) -> list[str]:
    causes = []
    resources = container.get("resources") or {}
    for resource, least in rules.least.items():
        asked = (resources.get("requests") or {}).get(resource)
        if asked is None:
            causes.append(f"minimum {resource} usage per Container is {least}.  No request is specified")
        elif amount(asked) < amount(least):
            causes.append(f"minimum {resource} usage per Container is {least}, but request is {asked}")
    for resource, most in rules.most.items():
        limit = (resources.get("limits") or {}).get(resource)
        if limit is None:
            causes.append(f"maximum {resource} usage per Container is {most}.  No limit is specified")
        elif amount(limit) > amount(most):
            causes.append(f"maximum {resource} usage per Container is {most}, but limit is {limit}")
    for resource, most in rules.ratio.items():
        limit = (resources.get("limits") or {}).get(resource, "0")
        asked = (resources.get("requests") or {}).get(resource, "0")
        if not amount(asked) or not amount(limit):
            causes.append(f"{resource} max limit to request ratio per Container is {most}, but no request is specified")
        elif amount(limit) / amount(asked) > amount(most):
            given = f"but provided ratio is {amount(limit) / amount(asked):.6f}"
            causes.append(f"{resource} max limit to request ratio per Container is {most}, {given}")
    return causes


def _unsaid(rules: Admission, pod: Object) -> list[str]:
    found = []
    for resource in rules.quota:
        kind, _, plain = resource.rpartition(".")
        names = [
            container["name"]
            for container in _containers(pod)
            if kind and plain not in ((container.get("resources") or {}).get(kind) or {})
        ]
        if names:
            found.append(f"{resource} for: {','.join(names)}")
    return found


def _asked(pod: Object, resource: str) -> Decimal:
    """What a pod takes of a quota: the sum of its containers, or its largest init container."""
    if resource == "pods":
        return Decimal(1)
    kind, _, plain = resource.rpartition(".")

    def of(container: Object) -> Decimal:
        return amount(((container.get("resources") or {}).get(kind) or {}).get(plain, "0"))

    largest = max((of(container) for container in pod["spec"].get("initContainers") or []), default=Decimal(0))
    return max(largest, sum((of(container) for container in pod["spec"]["containers"]), Decimal(0)))
