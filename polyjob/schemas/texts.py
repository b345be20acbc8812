"""A config that comes as text: JSON, YAML, or the Python literal that some old clients send. Bounded, and never code.

YAML is read as its version 1.2 has it where 1.1 surprises: only `true` and `false` are truths, `0123` and `1:30` and
dates stay text. Keys come once; what aliases stand for is counted each time.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Mapping
from typing import Any

import yaml

from polyjob.errors import Invalid, Problem
from polyjob.schemas.checks import DEEPEST, pointer_to

MOST_NODES = 100_000
_Base: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class _Loader(_Base):
    """The core schema of YAML 1.2, and no key twice."""

    yaml_implicit_resolvers: dict[str, Any] = {}

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        seen: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.tag != "tag:yaml.org,2002:merge":
                if key.value in seen:
                    raise yaml.MarkedYAMLError(
                        problem=f"the key `{key.value}` comes twice", problem_mark=key.start_mark
                    )
                seen.add(key.value)
        super().flatten_mapping(node)
        if len(node.value) > MOST_NODES:
            raise yaml.MarkedYAMLError(problem="it is too large", problem_mark=node.start_mark)


def _resolve(tag: str, pattern: str, first: str) -> None:
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{tag}", re.compile(rf"(?:{pattern})\Z"), list(first))


_resolve("bool", "true|True|TRUE|false|False|FALSE", "tTfF")
_resolve("null", "~|null|Null|NULL|", "~nN")
_Loader.add_implicit_resolver("tag:yaml.org,2002:null", re.compile(r"\Z"), [""])
_resolve("int", "[-+]?(?:0|[1-9][0-9]*)", "-+0123456789")
_resolve(
    "float",
    r"[-+]?(?:0|[1-9][0-9]*)(?:\.[0-9]*)?(?:[eE][-+]?[0-9]+)?|[-+]?\.[0-9]+(?:[eE][-+]?[0-9]+)?",
    "-+.0123456789",
)
_resolve("merge", "<<", "<")


def parse_content(text: str, pointer: str = "/content") -> Any:
    """The document in the text. Raises Invalid, which says where the text is wrong."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        pass
    if text.lstrip()[:1] in ("{", "["):
        try:
            return json.loads(json.dumps(ast.literal_eval(text.strip())))
        except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
            pass
    try:
        _refuse_what_is_too_deep(text)
        document = yaml.load(text, _Loader)
        _refuse_what_is_too_large(document)
        return document
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f" in line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise Invalid([Problem(pointer, f"The text is neither JSON nor YAML: {error.problem}{where}.")]) from None
    except (yaml.YAMLError, ValueError, TypeError, OverflowError, RecursionError) as error:
        is_deep = isinstance(error, RecursionError) or not str(error)
        reason = "it is nested too deep" if is_deep else str(error).splitlines()[0]
        raise Invalid([Problem(pointer, f"The text is neither JSON nor YAML: {reason}.")]) from None


def _refuse_what_is_too_deep(text: str) -> None:
    """Before anything recurses: the loader in C would end the process."""
    depth = 0
    for event in yaml.parse(text, _Loader):
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
            if depth > DEEPEST:
                mark: Any = event.start_mark
                raise yaml.MarkedYAMLError(problem="it is nested too deep", problem_mark=mark)
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1


def _refuse_what_is_too_large(document: Any) -> None:
    """What a few aliases stand for can be larger than any memory, once it is written out."""
    count, waiting = 0, [(document, 0)]
    while waiting:
        value, depth = waiting.pop()
        count += 1
        if count > MOST_NODES or depth > DEEPEST:
            raise ValueError("it is too large or nested too deep, once every alias is written out")
        if isinstance(value, Mapping):
            waiting += [(item, depth + 1) for item in value.values()]
        elif isinstance(value, list):
            waiting += [(item, depth + 1) for item in value]
        elif not isinstance(value, str | int | float | bool | None):
            raise ValueError(f"it holds a {type(value).__name__}, which JSON has not")


def lines_of(text: str) -> dict[str, int]:
    """Pointer → line (from 1) of each part of a text that is read as YAML; nothing for one that is not."""
    try:
        _refuse_what_is_too_deep(text)
        root = yaml.compose(text, _Loader)
    except (yaml.YAMLError, RecursionError, ValueError):
        return {}
    found: dict[str, int] = {}
    waiting: list[tuple[Any, str, int]] = [(root, "", 0)]
    while waiting and len(found) < MOST_NODES:
        node, pointer, depth = waiting.pop()
        if node is None or depth > DEEPEST:
            continue
        found[pointer] = node.start_mark.line + 1
        if isinstance(node, yaml.MappingNode):
            waiting += [
                (value, pointer_to(pointer, key.value), depth + 1)
                for key, value in node.value
                if isinstance(key, yaml.ScalarNode)
            ]
        elif isinstance(node, yaml.SequenceNode):
            waiting += [(value, pointer_to(pointer, index), depth + 1) for index, value in enumerate(node.value)]
    return found


def with_lines(problems: list[Problem], text: str, pointer: str) -> list[Problem]:
    """The problems with the line of the text that each points to, where it spans more than one."""
    if "\n" not in text.strip():
        return problems
    lines = lines_of(text)

    def line(problem: Problem) -> int | None:
        below = problem.pointer.removeprefix(pointer)
        while below and below not in lines:
            below = below.rpartition("/")[0]
        return lines.get(below)

    return [
        Problem(problem.pointer, f"{problem.detail} (line {number})") if (number := line(problem)) else problem
        for problem in problems
    ]
