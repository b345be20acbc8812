"""The OpenAPI document as a page: every route with its parameters, bodies, answers and errors."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Operation:
    name: str
    method: str
    path: str
    group: str
    summary: str
    description: str
    parameters: list[dict[str, Any]]
    bodies: list[tuple[str, str, str]]
    """(media type, the name or shape of what is sent, an example as JSON or nothing)"""
    answers: list[tuple[str, str, str, list[str]]]
    """(status, what it means, the name or shape of what comes, headers)"""
    is_open: bool


@dataclass(frozen=True)
class Shape:
    name: str
    description: str
    members: list[tuple[str, str, str]]
    """(name, type, description)"""


def operations(document: Mapping[str, Any]) -> list[Operation]:
    """Every operation, in the order of the document's paths."""
    return [
        _operation(document, path, method, members[method], members.get("parameters", []))
        for path, members in document["paths"].items()
        for method in members
        if method != "parameters"
    ]


def shapes(document: Mapping[str, Any]) -> list[Shape]:
    """Every named schema that has members, by name."""
    return [
        Shape(name, _one_line(schema.get("description", "")), list(_members(schema)))
        for name, schema in sorted(document["components"]["schemas"].items())
        if schema.get("properties")
    ]


def type_of(schema: Mapping[str, Any]) -> str:
    """A schema in a word: `Job`, `list of text`, `number or null`."""
    if "$ref" in schema:
        return str(schema["$ref"]).rsplit("/", 1)[-1]
    for key in ("allOf", "anyOf", "oneOf"):
        if key in schema:
            return " or ".join(dict.fromkeys(type_of(part) for part in schema[key]))
    kinds = schema.get("type", "anything")
    words = [_word(kind, schema) for kind in ([kinds] if isinstance(kinds, str) else kinds)]
    return " or ".join(words)


_WORDS = {"string": "text", "integer": "whole number", "boolean": "true or false"}


def _word(kind: str, schema: Mapping[str, Any]) -> str:
    if kind == "array":
        return f"list of {type_of(schema.get('items', {}))}"
    if schema.get("format") == "binary":
        return "bytes"
    return _WORDS.get(kind, kind)


def _operation(
    document: Mapping[str, Any], path: str, method: str, operation: Mapping[str, Any], shared: list[dict[str, Any]]
) -> Operation:
    body = operation.get("requestBody", {}).get("content", {})
    return Operation(
        name=operation["operationId"],
        method=method.upper(),
        path=path,
        group=operation["tags"][0],
        summary=operation.get("summary", ""),
        description=operation.get("description", ""),
        parameters=[*shared, *operation.get("parameters", [])],
        bodies=[(kind, type_of(content.get("schema", {})), _example(content)) for kind, content in body.items()],
        answers=[_answer(document, code, answer) for code, answer in sorted(operation["responses"].items())],
        is_open=operation.get("security") == [],
    )


def _answer(document: Mapping[str, Any], code: str, answer: Mapping[str, Any]) -> tuple[str, str, str, list[str]]:
    if "$ref" in answer:
        answer = document["components"]["responses"][answer["$ref"].rsplit("/", 1)[-1]]
    contents = [type_of(content.get("schema", {})) for content in answer.get("content", {}).values()]
    return code, answer.get("description", ""), ", ".join(dict.fromkeys(contents)), list(answer.get("headers", {}))


def _example(content: Mapping[str, Any]) -> str:
    return json.dumps(content["example"], indent=2, ensure_ascii=False) if "example" in content else ""


def _members(schema: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    for name, member in schema["properties"].items():
        yield name, type_of(member), _one_line(member.get("description", ""))


def _one_line(text: str) -> str:
    return " ".join(text.split())
