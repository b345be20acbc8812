"""Check of manifests by the published types: refuse a wrong type, drop an unknown field with a warning."""

from __future__ import annotations

import re
from typing import Any

import kubernetes.client.models as models

from tests.simulators.kubernetes.answers import RequestRefused

SIMPLE = {"str": str, "int": int, "bool": bool, "float": (int, float)}


def known_fields(item: dict[str, Any], model: str, path: str = "") -> list[str]:
    """Drop unknown fields, and return the warnings of a server about them.

    Raises RequestRefused for a value of a wrong type.
    """
    kind = getattr(models, model)
    names = {wire: name for name, wire in kind.attribute_map.items()}
    warnings: list[str] = []
    for wire in list(item):
        where = f"{path}.{wire}" if path else wire
        if wire not in names:
            warnings.append(f'unknown field "{where}"')
            del item[wire]
        elif item[wire] is None:
            del item[wire]
        else:
            warnings += _check(item[wire], kind.openapi_types[names[wire]], where)
    return warnings


def _check(value: Any, kind: str, path: str) -> list[str]:
    match = re.fullmatch(r"(list|dict)[\[(](?:str, )?(.*)[\])]", kind, re.IGNORECASE)
    if match and match[1].lower() == "list":
        _must_be(value, list, path)
        return [text for position, item in enumerate(value) for text in _check(item, match[2], f"{path}[{position}]")]
    if match:
        _must_be(value, dict, path)
        return [text for key, item in value.items() for text in _check_quantity(item, match[2], f"{path}.{key}")]
    if kind in SIMPLE:
        _must_be(value, SIMPLE[kind], path)
    elif hasattr(getattr(models, kind, None), "openapi_types"):
        _must_be(value, dict, path)
        return known_fields(value, kind, path)
    return []


def _check_quantity(value: Any, kind: str, path: str) -> list[str]:
    """Check a value like `_check`. Quantities can be numbers, although their type is a text."""
    if re.search(r"\.(limits|requests)\.", path) and isinstance(value, int | float):
        return []
    return _check(value, kind, path)


def _must_be(value: Any, kind: Any, path: str) -> None:
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        names = {bool: "bool", int: "number", float: "number", str: "string", list: "array", dict: "object"}
        text = f"json: cannot unmarshal {names.get(type(value), 'object')} into Go struct field .{path}"
        raise RequestRefused(400, f'Pod in version "v1" cannot be handled as a Pod: {text}')
