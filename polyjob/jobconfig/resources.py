"""Resources: translate every supported spelling to one canonical form.

Canonical: `{cpu, memory, gpu, tpu, pids}`, each with `{limits, requests}` of numbers or null. `cpu` is in cores,
`memory` in MiB, and `pids` in processes and threads at a time, which have only a limit. Quantities as text (`500m`,
`1Gi`) and the Kubernetes layout `{limits: {cpu, memory}, requests: {…}}` are supported as well.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

from marshmallow import ValidationError

RESOURCE_KINDS = ("cpu", "memory", "gpu", "tpu", "pids")
WHOLE_NUMBER_KINDS = ("gpu", "tpu", "pids")
BOUNDS = ("limits", "requests")
MAX_RESOURCE_AMOUNT = 1e12
"""Amount of one resource, in its canonical unit."""
_ALIASES = {"nvidia.com/gpu": "gpu", "amd.com/gpu": "gpu", "google.com/tpu": "tpu"}
_QUANTITY = re.compile(r"(\d{1,15}(?:\.\d{0,9})?)\s*(m|[kKMGTP]i?B?|)\Z", re.ASCII)
_POWERS = {"k": 1, "M": 2, "G": 3, "T": 4, "P": 5}
_MIB = 1 << 20
_EXAMPLES = {
    "cpu": "`2` or `500m`",
    "memory": "MiB as a number, or `512Mi` or `1Gi`",
    "gpu": "`1`",
    "tpu": "`8`",
    "pids": "`256`",
}

Number = int | float


def canonical_resources(value: Any) -> dict[str, dict[str, Number | None]]:
    """Return the canonical form, without nulls and empty objects. Raises ValidationError with every problem."""
    if not isinstance(value, Mapping):
        raise ValidationError("Not an object with the keys `cpu`, `memory`, `gpu`, `tpu` and `pids`.")
    errors: dict[str, Any] = {}
    amounts: dict[str, dict[str, Number | None]] = {}
    is_kubernetes = any(bound in value for bound in BOUNDS)
    for outer, inner in value.items():
        allowed = BOUNDS if is_kubernetes else RESOURCE_KINDS
        if outer not in allowed:
            errors[outer] = [f"Unknown key `{outer}`; use {', '.join(allowed)}."]
        elif inner is not None and not isinstance(inner, Mapping):
            errors[outer] = [f"Not an object with the keys {', '.join(RESOURCE_KINDS if is_kubernetes else BOUNDS)}."]
        elif inner is not None:
            _read_amounts(outer, inner, is_kubernetes, amounts, errors)
    _compare_bounds(amounts, is_kubernetes, errors)
    if errors:
        raise ValidationError(errors)
    return {kind: amounts[kind] for kind in RESOURCE_KINDS if kind in amounts}


def _read_amounts(
    outer: str, inner: Mapping[str, Any], is_kubernetes: bool, amounts: dict[str, Any], errors: Any
) -> None:
    allowed = ", ".join(RESOURCE_KINDS if is_kubernetes else BOUNDS)
    for key, amount in inner.items():
        kind, bound = (_ALIASES.get(key, key), outer) if is_kubernetes else (outer, key)
        if kind not in RESOURCE_KINDS or bound not in BOUNDS:
            errors.setdefault(outer, {})[key] = [f"Unknown key `{key}`; use {allowed}."]
        elif amount is not None:
            try:
                number = _amount(kind, amount, is_kubernetes)
            except ValueError:
                errors.setdefault(outer, {})[key] = [f"Not an amount of {kind}; write {_EXAMPLES[kind]}."]
                continue
            if kind == "pids" and (bound == "requests" or number < 1):
                message = "At least 1." if number < 1 else "Processes have no request; set `limits` only."
                errors.setdefault(outer, {})[key] = [message]
                continue
            amounts.setdefault(kind, dict.fromkeys(BOUNDS))[bound] = number


def _amount(kind: str, amount: Any, is_kubernetes: bool) -> Number:
    """Return the amount in the canonical unit. Raises ValueError.

    A plain number of memory is in MiB; in the Kubernetes layout it is in bytes.
    """
    if isinstance(amount, bool) or not isinstance(amount, (int, float, str)):
        raise ValueError
    number = _quantity(amount, kind, is_kubernetes) if isinstance(amount, str) else float(amount)
    if kind == "memory" and is_kubernetes and not isinstance(amount, str):
        number /= _MIB
    if not math.isfinite(number) or not 0 <= number <= MAX_RESOURCE_AMOUNT:
        raise ValueError
    if kind in WHOLE_NUMBER_KINDS and number != int(number):
        raise ValueError
    return int(number) if number == int(number) else round(number, 6)


def _quantity(text: str, kind: str, is_kubernetes: bool) -> float:
    match = _QUANTITY.match(text.strip())
    if match is None:
        raise ValueError
    number, unit = float(match[1]), match[2]
    if kind != "memory":
        if unit not in ("", "m"):
            raise ValueError
        return number / 1000 if unit == "m" else number
    if unit == "m" or (unit == "" and not is_kubernetes):
        raise ValueError  # ambiguous: bytes or MiB
    if unit == "":
        return number / _MIB
    base = 1024 if "i" in unit else 1000
    return float(number * base ** _POWERS[unit[0].replace("K", "k")] / _MIB)


def _compare_bounds(amounts: Mapping[str, Mapping[str, Any]], is_kubernetes: bool, errors: dict[str, Any]) -> None:
    for kind, bounds in amounts.items():
        limit, request = bounds["limits"], bounds["requests"]
        if limit is not None and request is not None and request > limit:
            outer, inner = ("requests", kind) if is_kubernetes else (kind, "requests")
            message = f"The request of {request} exceeds the limit of {limit}."
            errors.setdefault(outer, {}).setdefault(inner, []).append(message)
