"""The API reference: the operations and schemas of the OpenAPI document, ready for a template."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

COMMON_ERRORS = ("400", "401", "403", "404", "413", "415", "503")
"""Statuses of errors that the page names once, not for each route that needs a token."""


@dataclass(frozen=True)
class Operation:
    name: str
    method: str
    path: str
    tag: str
    summary: str
    description: str
    parameters: list[dict[str, Any]]
    bodies: list[tuple[str, str, str]]
    """(media type, type, example as JSON or empty) of the request body."""
    responses: list[tuple[str, str, str, list[str]]]
    """(HTTP status, description, type, headers) of each response, without those of `COMMON_ERRORS`."""
    is_public: bool
    """True if it needs no token."""


@dataclass(frozen=True)
class Schema:
    name: str
    description: str
    members: list[tuple[str, str, str]]
    """(name, type, description)"""


def operations(document: Mapping[str, Any]) -> list[Operation]:
    """Return all operations in the order of the document."""
    return [
        _operation(document, path, method, members[method], members.get("parameters", []))
        for path, members in document["paths"].items()
        for method in members
        if method != "parameters"
    ]


def schemas(document: Mapping[str, Any]) -> list[Schema]:
    """Return all named schemas that have members, sorted by name."""
    return [
        Schema(name, _one_line(schema.get("description", "")), list(_members(schema)))
        for name, schema in sorted(document["components"]["schemas"].items())
        if schema.get("properties")
    ]


def type_of(schema: Mapping[str, Any]) -> str:
    """Return a readable name of a schema's type, such as `Job`, `list of text`, or `number or null`."""
    if "$ref" in schema:
        return str(schema["$ref"]).rsplit("/", 1)[-1]
    for keyword in ("allOf", "anyOf", "oneOf"):
        if keyword in schema:
            return " or ".join(dict.fromkeys(type_of(part) for part in schema[keyword]))
    types = schema.get("type", "anything")
    return " or ".join(_type_name(name, schema) for name in ([types] if isinstance(types, str) else types))


_TYPE_NAMES = {"string": "text", "integer": "integer", "boolean": "true or false"}


def _type_name(name: str, schema: Mapping[str, Any]) -> str:
    if name == "array":
        return f"list of {type_of(schema.get('items', {}))}"
    if schema.get("format") == "binary":
        return "bytes"
    return _TYPE_NAMES.get(name, name)


def _operation(
    document: Mapping[str, Any], path: str, method: str, operation: Mapping[str, Any], shared: list[dict[str, Any]]
) -> Operation:
    body = operation.get("requestBody", {}).get("content", {})
    is_public = operation.get("security") == []
    responses = [_response(document, code, item) for code, item in sorted(operation["responses"].items())]
    return Operation(
        name=operation["operationId"],
        method=method.upper(),
        path=path,
        tag=operation["tags"][0],
        summary=operation.get("summary", ""),
        description=operation.get("description", ""),
        parameters=[*shared, *operation.get("parameters", [])],
        bodies=[(media, type_of(content.get("schema", {})), _example(content)) for media, content in body.items()],
        responses=[response for response in responses if is_public or response[0] not in COMMON_ERRORS],
        is_public=is_public,
    )


def _response(document: Mapping[str, Any], code: str, response: Mapping[str, Any]) -> tuple[str, str, str, list[str]]:
    if "$ref" in response:
        response = document["components"]["responses"][response["$ref"].rsplit("/", 1)[-1]]
    types = [type_of(content.get("schema", {})) for content in response.get("content", {}).values()]
    return code, response.get("description", ""), ", ".join(dict.fromkeys(types)), list(response.get("headers", {}))


def _example(content: Mapping[str, Any]) -> str:
    return json.dumps(content["example"], indent=2, ensure_ascii=False) if "example" in content else ""


def _members(schema: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    for name, member in schema["properties"].items():
        yield name, type_of(member), _one_line(member.get("description", ""))


def _one_line(text: str) -> str:
    return " ".join(text.split())
