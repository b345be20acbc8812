"""Label and field selectors."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from tests.simulators.kubernetes.answers import RequestRefused

Object = dict[str, Any]
Test = Callable[[Object], bool]

FIELDS = {
    "pods": {
        "metadata.name",
        "metadata.namespace",
        "spec.nodeName",
        "spec.restartPolicy",
        "spec.schedulerName",
        "spec.serviceAccountName",
        "spec.hostNetwork",
        "status.phase",
        "status.podIP",
        "status.nominatedNodeName",
    },
    "events": {
        "metadata.name",
        "metadata.namespace",
        "involvedObject.kind",
        "involvedObject.namespace",
        "involvedObject.name",
        "involvedObject.uid",
        "involvedObject.apiVersion",
        "involvedObject.resourceVersion",
        "involvedObject.fieldPath",
        "reason",
        "reportingComponent",
        "source",
        "type",
    },
    "secrets": {"metadata.name", "metadata.namespace", "type"},
}
"""Fields by which each resource can be selected; name and namespace for any other resource."""

NAME = r"(?:[A-Za-z0-9.-]+/)?[A-Za-z0-9](?:[A-Za-z0-9_.-]*[A-Za-z0-9])?"
VALUE = r"(?:[A-Za-z0-9](?:[A-Za-z0-9_.-]*[A-Za-z0-9])?)?"
REQUIREMENT = re.compile(
    rf"\s*(?:(?P<absent>!)\s*(?P<absent_key>{NAME})"
    rf"|(?P<set_key>{NAME})\s+(?P<set>in|notin)\s*\((?P<values>[^()]*)\)"
    rf"|(?P<key>{NAME})\s*(?P<operator>==|=|!=)\s*(?P<value>{VALUE})"
    rf"|(?P<present_key>{NAME}))\s*(?:,|$)"
)


def labels(text: str) -> Test:
    """Parse a label selector. Raises RequestRefused if it is invalid."""
    tests: list[Callable[[dict[str, str]], bool]] = []
    position = 0
    while position < len(text.strip()):
        match = REQUIREMENT.match(text, position)
        if match is None:
            raise RequestRefused(
                400, f'unable to parse requirement: found {text[position:]!r}, expected: identifier or "," or "in"'
            )
        tests.append(_requirement(match))
        position = match.end()

    def chosen(item: Object) -> bool:
        given = item["metadata"].get("labels") or {}
        return all(test(given) for test in tests)

    return chosen


def _requirement(match: re.Match[str]) -> Callable[[dict[str, str]], bool]:
    if match["absent"]:
        return lambda given: match["absent_key"] not in given
    if match["present_key"]:
        return lambda given: match["present_key"] in given
    if match["set"]:
        values = {value.strip() for value in match["values"].split(",")}
        if match["set"] == "in":
            return lambda given: given.get(match["set_key"]) in values
        return lambda given: given.get(match["set_key"]) not in values
    if match["operator"] == "!=":
        return lambda given: given.get(match["key"]) != match["value"]
    return lambda given: given.get(match["key"]) == match["value"]


def fields(text: str, resource: str) -> Test:
    """Parse a field selector. Raises RequestRefused if it is invalid, or if the resource does not support the field."""
    tests: list[tuple[list[str], bool, str]] = []
    for term in filter(None, text.split(",")):
        match = re.fullmatch(r"\s*([^=!\s]+)\s*(==|=|!=)\s*(.*?)\s*", term)
        if match is None:
            raise RequestRefused(400, f"invalid selector: '{text}'; can't understand '{term}'")
        if match[1] not in FIELDS.get(resource, {"metadata.name", "metadata.namespace"}):
            raise RequestRefused(400, f"field label not supported: {match[1]}")
        tests.append((match[1].split("."), match[2] != "!=", match[3]))

    def chosen(item: Object) -> bool:
        return all((_value(item, path) == value) is equal for path, equal, value in tests)

    return chosen


def _value(item: Object, path: list[str]) -> str:
    value: Any = item
    if path == ["source"]:
        path = ["source", "component"]
    for step in path:
        value = (value or {}).get(step)
    return "" if value is None else str(value)


def both(label_selector: str | None, field_selector: str | None, resource: str) -> Test:
    first = labels(label_selector or "")
    second = fields(field_selector or "", resource)
    return lambda item: first(item) and second(item)
