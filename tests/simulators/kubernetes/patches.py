"""The three kinds of patches. Each returns the patched object, and changes no argument."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from tests.simulators.kubernetes.answers import RequestRefused
from tests.simulators.kubernetes.selectors import Object

ADDED = {"finalizers"}
"""Lists that a strategic patch extends. Lists of named items are merged by name; all others are replaced."""
LESS = "$deleteFromPrimitiveList/"


def merge(item: Any, change: Any) -> Any:
    """Apply a merge patch of RFC 7396. Lists are replaced completely."""
    if not isinstance(change, dict):
        return change
    merged = dict(item) if isinstance(item, dict) else {}
    for key, value in change.items():
        if value is None:
            merged.pop(key, None)
        else:
            merged[key] = merge(merged.get(key), value)
    return merged


def strategic(item: Any, change: Any) -> Any:
    if not isinstance(change, dict):
        return change
    merged = dict(item) if isinstance(item, dict) else {}
    for key, value in change.items():
        before = merged.get(key)
        if key.startswith(LESS):
            name = key.removeprefix(LESS)
            merged[name] = [existing for existing in merged.get(name) or [] if existing not in value]
        elif key.startswith("$"):
            continue
        elif value is None:
            merged.pop(key, None)
        elif key in ADDED:
            merged[key] = [*(before or []), *(new for new in value if new not in (before or []))]
        elif isinstance(value, list) and before and all("name" in existing for existing in [*before, *value]):
            changes = {new["name"]: new for new in value}
            merged[key] = [strategic(existing, changes.pop(existing["name"], {})) for existing in before]
            merged[key] += changes.values()
        else:
            merged[key] = strategic(before, value)
    return merged


def json_patch(item: Object, operations: list[dict[str, Any]]) -> Object:
    patched = json.loads(json.dumps(item))
    for operation in operations:
        steps = [step.replace("~1", "/").replace("~0", "~") for step in operation["path"].split("/")[1:]]
        at: Any = patched
        try:
            for step in steps[:-1]:
                at = at[int(step)] if isinstance(at, list) else at[step]
            _operate(at, steps[-1], operation)
        except (KeyError, IndexError, ValueError) as error:
            raise RequestRefused(
                422, f"the server rejected our request due to an error in our request: {error}"
            ) from error
    return patched


def _operate(at: Any, step: str, operation: dict[str, Any]) -> None:
    kind = operation["op"]
    if isinstance(at, list):
        position = len(at) if step == "-" else int(step)
        if kind == "add":
            at.insert(position, operation["value"])
            return
        if kind == "test" and at[position] != operation["value"]:
            raise ValueError(f"testing path {operation['path']} value failed")
        if kind == "remove":
            del at[position]
        if kind == "replace":
            at[position] = operation["value"]
        return
    if kind in ("remove", "replace") and step not in at:
        raise KeyError(f"{kind} operation does not apply: doc is missing key: {operation['path']}")
    if kind == "test" and at.get(step) != operation["value"]:
        raise ValueError(f"testing path {operation['path']} value failed")
    if kind == "remove":
        del at[step]
    if kind in ("add", "replace"):
        at[step] = operation["value"]


APPLY: dict[str, Callable[[Object, Any], Object]] = {
    "application/json-patch+json": json_patch,
    "application/merge-patch+json": merge,
    "application/strategic-merge-patch+json": strategic,
}
