"""Load YAML safely: the core schema of YAML 1.2, within limits.

PyYAML alone is not enough, for two reasons:

- It implements YAML 1.1, which surprises users. Here only `true` and `false` are booleans, `0123` and `1:30` and dates
  stay text, explicit tags are refused, and a key may occur only once.
- It has no limits. Its fast loader recurses in C and would end the process, and aliases expand to any size. Here the
  depth is checked on the parser's events, and the size on the nodes, before anything is constructed.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import yaml

from polyjob.jobconfig.checks import (
    MAX_DOCUMENT_BYTES,
    MAX_DOCUMENT_DEPTH,
    MAX_DOCUMENT_VALUES,
    pointer_to,
    shorten_key,
)

_TOO_DEEP = "it is nested too deep"
_MERGE_TAG = "tag:yaml.org,2002:merge"
_NULL_TAG = "tag:yaml.org,2002:null"
_TEXT_TAG = "tag:yaml.org,2002:str"
_VARIABLE_PATHS = (("env_vars",), ("build", "env_vars"), ("environment", "env_vars"))
_BaseLoader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class _Loader(_BaseLoader):
    """The core schema of YAML 1.2."""

    yaml_implicit_resolvers: dict[str, Any] = {}

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        """Construct a value. PyYAML raises many kinds of errors for a scalar that does not fit its tag."""
        try:
            return super().construct_object(node, deep=deep)
        except (LookupError, AttributeError, ValueError, TypeError, OverflowError):
            kind = node.tag.rpartition(":")[2]
            raise _error_at(node, f"`{str(node.value)[:40]}` cannot be read as {kind}") from None

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        """Replace `<<` by the pairs that it merges. The mapping's own keys win, then the first source that has a key.

        Idempotent. PyYAML's own (6.0.4) takes the first pair for a key of one character, even if that was overridden.
        """
        own = [pair for pair in node.value if pair[0].tag != _MERGE_TAG]
        merged: dict[Any, Any] = {}
        for source in itertools.chain.from_iterable(map(_merge_sources, node.value)):
            self.flatten_mapping(source)
            for pair in source.value:
                merged.setdefault(_key_identity(pair[0]), pair)
        own_keys = {_key_identity(key) for key, _ in own}
        node.value = [pair for identity, pair in merged.items() if identity not in own_keys] + own


def _merge_sources(pair: tuple[Any, Any]) -> list[yaml.MappingNode]:
    """Return the mappings that a pair with the key `<<` merges; nothing for any other pair."""
    key, value = pair
    if key.tag != _MERGE_TAG:
        return []
    sources = value.value if isinstance(value, yaml.SequenceNode) else [value]
    for source in sources:
        if not isinstance(source, yaml.MappingNode):
            raise _error_at(source, "only mappings can be merged")
    return sources


def _key_identity(key: Any) -> Any:
    return (key.tag, key.value) if isinstance(key, yaml.ScalarNode) else id(key)


def _error_at(node: Any, problem: str) -> yaml.MarkedYAMLError:
    return yaml.MarkedYAMLError(problem=problem, problem_mark=node.start_mark)


def _resolve(tag: str, pattern: str, first: str) -> None:
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{tag}", re.compile(rf"(?:{pattern})\Z"), list(first))


_resolve("bool", "true|True|TRUE|false|False|FALSE", "tTfF")
_resolve("null", "~|null|Null|NULL|", "~nN")
_Loader.add_implicit_resolver(_NULL_TAG, re.compile(r"\Z"), [""])
_resolve("int", "[-+]?(?:0|[1-9][0-9]*)", "-+0123456789")
_resolve(
    "float",
    r"[-+]?(?:0|[1-9][0-9]*)(?:\.[0-9]*)?(?:[eE][-+]?[0-9]+)?|[-+]?\.[0-9]+(?:[eE][-+]?[0-9]+)?",
    "-+.0123456789",
)
_resolve("merge", "<<", "<")


def load_yaml(text: str) -> Any:
    """Return the document in the text. Raises yaml.YAMLError or ValueError.

    The values of variables (`env_vars`) keep the text with which they were written.
    """
    _check_events(text)
    loader = _Loader(text)
    try:
        root = loader.get_single_node()
        if root is None:
            return None
        _SizeCheck().size_of(root)
        _keep_variables_as_text(loader, root)
        document = loader.construct_document(root)
    finally:
        loader.dispose()
    _refuse_other_types(document)
    return document


def line_numbers(text: str) -> dict[str, int]:
    """Return the line, counted from 1, of each JSON pointer into the text; nothing if the text is not valid YAML."""
    try:
        _check_events(text)
        root = yaml.compose(text, _Loader)
    except (yaml.YAMLError, RecursionError, ValueError):
        return {}
    lines: dict[str, int] = {}
    pending: list[tuple[Any, str, int]] = [(root, "", 0)]
    while pending and len(lines) < MAX_DOCUMENT_VALUES:
        node, pointer, depth = pending.pop()
        if node is None or depth > MAX_DOCUMENT_DEPTH:
            continue
        lines[pointer] = node.start_mark.line + 1
        if isinstance(node, yaml.MappingNode):
            pending += [
                (value, pointer_to(pointer, key.value), depth + 1)
                for key, value in node.value
                if isinstance(key, yaml.ScalarNode)
            ]
        elif isinstance(node, yaml.SequenceNode):
            pending += [(value, pointer_to(pointer, index), depth + 1) for index, value in enumerate(node.value)]
    return lines


# Limits.


def _check_events(text: str) -> None:
    """Raise yaml.MarkedYAMLError at a tag, and where the text has too many values or is nested too deep.

    This must come before anything recurses, because the loader in C would end the process.
    """
    depth = nodes = 0
    try:
        for event in yaml.parse(text, _Loader):
            tag = getattr(event, "tag", None)
            if tag is not None:
                raise _error_at(event, f"the tag `{shorten_key(tag)}` is not supported; write the value without a tag")
            if isinstance(event, yaml.NodeEvent):
                nodes += 1
                if nodes > 2 * MAX_DOCUMENT_VALUES:  # keys are counted as well
                    raise _error_at(event, f"it has more than {MAX_DOCUMENT_VALUES} values")
            if isinstance(event, yaml.CollectionStartEvent):
                depth += 1
                if depth > MAX_DOCUMENT_DEPTH:
                    raise _error_at(event, _TOO_DEEP)
            elif isinstance(event, yaml.CollectionEndEvent):
                depth -= 1
    except yaml.MarkedYAMLError as error:
        if "nesting depth" in str(error.problem):  # the parser's own limit
            error.problem = _TOO_DEEP
        raise


class _Size(NamedTuple):
    nodes: int
    characters: int
    depth: int


class _SizeCheck:
    """Computes the size of a text with every alias expanded, without expanding it."""

    def __init__(self) -> None:
        self._sizes: dict[int, _Size | None] = {}
        """Size by id of a node; None while the node is being visited."""

    def size_of(self, node: Any) -> _Size:
        """Return the size of a node with everything below it; visits each node once.

        Raises MarkedYAMLError for a node that is too large, is nested too deep, contains itself, or repeats a key.
        """
        if isinstance(node, yaml.ScalarNode):
            return _Size(1, len(node.value), 0)
        if id(node) in self._sizes:
            size = self._sizes[id(node)]
            if size is None:
                raise _error_at(node, "it contains itself, and so is nested too deep")
            return size
        self._sizes[id(node)] = None
        if isinstance(node, yaml.MappingNode):
            _refuse_duplicate_keys(node)
            children = [part for pair in node.value for part in pair]
        else:
            children = node.value
        nodes, characters, depth = 1, 0, 0
        for child in children:
            size = self.size_of(child)
            nodes, characters, depth = nodes + size.nodes, characters + size.characters, max(depth, size.depth + 1)
        if nodes > MAX_DOCUMENT_VALUES or characters > MAX_DOCUMENT_BYTES:
            raise _error_at(node, "it is too large when every alias is expanded")
        if depth > MAX_DOCUMENT_DEPTH:
            raise _error_at(node, "it is nested too deep when every alias is expanded")
        self._sizes[id(node)] = result = _Size(nodes, characters, depth)
        return result


def _refuse_duplicate_keys(node: yaml.MappingNode) -> None:
    seen = set()
    for key, _ in node.value:
        if not isinstance(key, yaml.ScalarNode) or key.tag == _MERGE_TAG:
            continue
        if key.value in seen:
            raise _error_at(key, f"the key `{shorten_key(key.value)}` comes twice")
        seen.add(key.value)


def _refuse_other_types(document: Any) -> None:
    """Raise ValueError for a value that JSON does not have."""
    pending = [document]
    while pending:
        value = pending.pop()
        if isinstance(value, Mapping):
            pending += value.values()
        elif isinstance(value, list):
            pending += value
        elif not isinstance(value, str | int | float | bool | None):
            raise ValueError(f"it has a value of the type {type(value).__name__}, which JSON does not support")


# Variables.


def _keep_variables_as_text(loader: Any, root: Any) -> None:
    """Turn the values of variables into texts as they were written: `3.10` is not a number there."""
    for path in _VARIABLE_PATHS:
        node, parent, index = root, None, 0
        for key in path:
            if not isinstance(node, yaml.MappingNode):
                break
            loader.flatten_mapping(node)
            parent = node
            index = next((i for i, (name, _) in enumerate(node.value) if name.value == key), -1)
            if index < 0:
                break
            node = node.value[index][1]
        else:
            assert parent is not None
            parent.value[index] = (parent.value[index][0], _as_texts(node))


def _as_texts(node: Any) -> Any:
    """Return a copy of the node with its values as texts, except null.

    It is a copy, because aliases may share the node with other parts of the document.
    """
    if isinstance(node, yaml.MappingNode):
        pairs = [(key, _as_texts(value)) for key, value in node.value]
        return yaml.MappingNode(node.tag, pairs, node.start_mark, node.end_mark)
    if isinstance(node, yaml.SequenceNode):
        return yaml.SequenceNode(node.tag, [_as_texts(item) for item in node.value], node.start_mark, node.end_mark)
    tag = node.tag if node.tag == _NULL_TAG else _TEXT_TAG
    return yaml.ScalarNode(tag, node.value, node.start_mark, node.end_mark)
