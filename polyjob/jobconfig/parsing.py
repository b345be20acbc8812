"""A config that comes as text: JSON, YAML, or the Python literal that some old clients send. Bounded, and never code.

YAML is read as its version 1.2 has it where 1.1 surprises: only `true` and `false` are truths, `0123` and `1:30` and
dates stay text, and explicit tags are refused. Keys come once, in JSON too; what aliases stand for is counted each
time, before it is made. The values of variables keep the text that they were written with.
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Mapping
from typing import Any

import yaml

from polyjob.errors import Invalid, Problem
from polyjob.jobconfig.checks import (
    MAX_DOCUMENT_BYTES,
    MAX_DOCUMENT_DEPTH,
    MAX_DOCUMENT_VALUES,
    pointer_to,
    reject_duplicate_keys,
    shorten_key,
)

TOO_DEEP_MESSAGE = "it is nested too deep"
_MERGE = "tag:yaml.org,2002:merge"
_Base: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class _Loader(_Base):
    """The core schema of YAML 1.2."""

    yaml_implicit_resolvers: dict[str, Any] = {}

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        """What PyYAML makes of a scalar whose tag promises something else is any error at all."""
        try:
            return super().construct_object(node, deep=deep)
        except (LookupError, AttributeError, ValueError, TypeError, OverflowError):
            raise _marked(f"`{str(node.value)[:40]}` cannot be read as {node.tag.rpartition(':')[2]}", node) from None

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        """Put what `<<` names in its place: the mapping's own keys win, then the first that has one. Idempotent.

        PyYAML's own (6.0.4) takes the first pair for a key of one character, also where that was overridden since.
        """
        own = [pair for pair in node.value if pair[0].tag != _MERGE]
        merged: dict[Any, Any] = {}
        for source in itertools.chain.from_iterable(map(_sources, node.value)):
            self.flatten_mapping(source)
            for pair in source.value:
                merged.setdefault(_identity(pair[0]), pair)
        known = {_identity(key) for key, _ in own}
        node.value = [pair for identity, pair in merged.items() if identity not in known] + own


def _sources(pair: tuple[Any, Any]) -> list[yaml.MappingNode]:
    """The mappings that a pair of a mapping merges into it."""
    key, value = pair
    if key.tag != _MERGE:
        return []
    found = value.value if isinstance(value, yaml.SequenceNode) else [value]
    for source in found:
        if not isinstance(source, yaml.MappingNode):
            raise _marked("only mappings can be merged", source)
    return found


def _identity(key: Any) -> Any:
    return (key.tag, key.value) if isinstance(key, yaml.ScalarNode) else id(key)


def _marked(problem: str, node: Any) -> yaml.MarkedYAMLError:
    return yaml.MarkedYAMLError(problem=problem, problem_mark=node.start_mark)


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
    """Return the document in the text. Raises Invalid, which says where the text is wrong."""
    if len(text.encode(errors="surrogatepass")) > MAX_DOCUMENT_BYTES:
        raise Invalid([Problem(pointer, f"The text of a config has at most {MAX_DOCUMENT_BYTES >> 10} KiB.")])
    for read in (_json, _python):
        try:
            return read(text)
        except (ValueError, RecursionError):
            continue
    try:
        return _yaml(text)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f" in line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise Invalid([Problem(pointer, f"The text is neither JSON nor YAML: {error.problem}{where}.")]) from None
    except (yaml.YAMLError, ValueError) as error:
        raise Invalid([Problem(pointer, f"The text is neither JSON nor YAML: {str(error).splitlines()[0]}.")]) from None


def _json(text: str) -> Any:
    """Raises ValueError, also for a key that comes twice: the reader of YAML says where."""
    return json.loads(text, object_pairs_hook=reject_duplicate_keys)


_LITERAL = re.compile(
    r"""\s*(?:(?P<sign>[][{}(),:])|(?P<number>-?[0-9][0-9.eE+-]*)|(?P<word>True|False|None)\b
    |[uU]?(?P<text>'(?:[^'\\\n]|\\.)*'|"(?:[^"\\\n]|\\.)*"))\s*""",
    re.VERBOSE,
)
_WORDS = {"True": "true", "False": "false", "None": "null"}
_SIGNS = {"(": "[", ")": "]"}
_ESCAPE = re.compile(
    r"""\\(?:x([0-9a-fA-F]{2})|u([0-9a-fA-F]{4})|U(000[0-9a-fA-F]{5}|0010[0-9a-fA-F]{4})|(.?))""", re.DOTALL
)
_ESCAPED = {"n": "\n", "r": "\r", "t": "\t", "\\": "\\", "'": "'", '"': '"'}


def _python(text: str) -> Any:
    """Return the list or dictionary that Python's `repr` wrote. Raises ValueError.

    Python's own parser is never asked, as it takes quadratic time for some texts: each token is translated, and what
    that makes is read as JSON.
    """
    if text.lstrip()[:1] not in ("{", "["):
        raise ValueError("no list or dictionary")
    at = 0
    tokens: list[str] = []
    while at < len(text):
        match = _LITERAL.match(text, at)
        if match is None or len(tokens) > 4 * MAX_DOCUMENT_VALUES:
            raise ValueError("no literal")
        at = match.end()
        token = _as_json(match)
        if token in ("]", "}") and tokens[-1:] == [","] and tokens[-2] not in ("[", "{"):
            tokens.pop()
        tokens.append(token)
    return _json("".join(tokens))


def _as_json(token: re.Match[str]) -> str:
    if token["text"] is not None:
        return json.dumps(_ESCAPE.sub(_unescaped, token["text"][1:-1]))
    if token["word"] is not None:
        return _WORDS[token["word"]]
    return _SIGNS.get(token["sign"], token["sign"]) or token["number"]


def _unescaped(match: re.Match[str]) -> str:
    """Raises ValueError for what `repr` does not write."""
    digits = match[1] or match[2] or match[3]
    if digits:
        return chr(int(digits, 16))
    if match[4] not in _ESCAPED:
        raise ValueError("another escape")
    return _ESCAPED[match[4]]


def _yaml(text: str) -> Any:
    """Raises ValueError and yaml.YAMLError."""
    _check_events(text)
    loader = _Loader(text)
    try:
        root = loader.get_single_node()
        if root is None:
            return None
        _Weight().of(root)
        _keep_variables(loader, root)
        document = loader.construct_document(root)
    finally:
        loader.dispose()
    _refuse_what_json_has_not(document)
    return document


def _check_events(text: str) -> None:
    """Raise yaml.MarkedYAMLError at a tag, or at what is too much or nested too deep.

    This comes before anything recurses: the loader in C would end the process.
    """
    depth = nodes = 0
    try:
        for event in yaml.parse(text, _Loader):
            tag = getattr(event, "tag", None)
            if tag is not None:
                raise _marked(f"the tag `{shorten_key(tag)}` is not supported; write the value without a tag", event)
            if isinstance(event, yaml.NodeEvent):
                nodes += 1
                if nodes > 2 * MAX_DOCUMENT_VALUES:  # keys count here, too
                    raise _marked(f"it has more than {MAX_DOCUMENT_VALUES} values", event)
            if isinstance(event, yaml.CollectionStartEvent):
                depth += 1
                if depth > MAX_DOCUMENT_DEPTH:
                    raise _marked(TOO_DEEP_MESSAGE, event)
            elif isinstance(event, yaml.CollectionEndEvent):
                depth -= 1
    except yaml.MarkedYAMLError as error:
        if "nesting depth" in str(error.problem):  # a bound of the parser's own
            error.problem = TOO_DEEP_MESSAGE
        raise


# Variables.


def _keep_variables(loader: Any, root: Any) -> None:
    """Make texts of the values of variables, as they were written: `3.10` is no number there."""
    for path in (("env_vars",), ("build", "env_vars"), ("environment", "env_vars")):
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
    """A copy of the node with its values as texts. Null stays null, and what aliases share with it stays as it is."""
    if isinstance(node, yaml.MappingNode):
        pairs = [(key, _as_texts(value)) for key, value in node.value]
        return yaml.MappingNode(node.tag, pairs, node.start_mark, node.end_mark)
    if isinstance(node, yaml.SequenceNode):
        return yaml.SequenceNode(node.tag, [_as_texts(item) for item in node.value], node.start_mark, node.end_mark)
    tag = node.tag if node.tag.endswith(":null") else "tag:yaml.org,2002:str"
    return yaml.ScalarNode(tag, node.value, node.start_mark, node.end_mark)


class _Weight:
    """How much a text is once every alias is written out, told without writing it out."""

    def __init__(self) -> None:
        self._known: dict[int, tuple[int, int, int] | None] = {}

    def of(self, node: Any) -> tuple[int, int, int]:
        """(nodes, characters, levels) of a node, and of all below it; each node is looked into once. Raises
        MarkedYAMLError for one that is too large, is nested too deep, holds itself, or has a key twice."""
        if isinstance(node, yaml.ScalarNode):
            return 1, len(node.value), 0
        if id(node) in self._known:
            known = self._known[id(node)]
            if known is None:
                raise _marked("it holds itself, and so is nested too deep", node)
            return known
        self._known[id(node)] = None
        if isinstance(node, yaml.MappingNode):
            _refuse_twice(node)
            below = [part for pair in node.value for part in pair]
        else:
            below = node.value
        nodes, characters, levels = 1, 0, 0
        for part in below:
            more = self.of(part)
            nodes, characters, levels = nodes + more[0], characters + more[1], max(levels, more[2] + 1)
        if nodes > MAX_DOCUMENT_VALUES or characters > MAX_DOCUMENT_BYTES:
            raise _marked("it is too large, once every alias is written out", node)
        if levels > MAX_DOCUMENT_DEPTH:
            raise _marked("it is nested too deep, once every alias is written out", node)
        self._known[id(node)] = nodes, characters, levels
        return nodes, characters, levels


def _refuse_twice(node: yaml.MappingNode) -> None:
    seen = set()
    for key, _ in node.value:
        if not isinstance(key, yaml.ScalarNode) or key.tag == _MERGE:
            continue
        if key.value in seen:
            raise _marked(f"the key `{shorten_key(key.value)}` comes twice", key)
        seen.add(key.value)


def _refuse_what_json_has_not(document: Any) -> None:
    """Tags make sets, dates and bytes."""
    waiting = [document]
    while waiting:
        value = waiting.pop()
        if isinstance(value, Mapping):
            waiting += value.values()
        elif isinstance(value, list):
            waiting += value
        elif not isinstance(value, str | int | float | bool | None):
            raise ValueError(f"it holds a {type(value).__name__}, which JSON has not")


def line_numbers(text: str) -> dict[str, int]:
    """Pointer → line (from 1) of each part of a text that is read as YAML; nothing for one that is not."""
    try:
        _check_events(text)
        root = yaml.compose(text, _Loader)
    except (yaml.YAMLError, RecursionError, ValueError):
        return {}
    found: dict[str, int] = {}
    waiting: list[tuple[Any, str, int]] = [(root, "", 0)]
    while waiting and len(found) < MAX_DOCUMENT_VALUES:
        node, pointer, depth = waiting.pop()
        if node is None or depth > MAX_DOCUMENT_DEPTH:
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


def add_line_numbers(problems: list[Problem], text: str, pointer: str) -> list[Problem]:
    """The problems with the line of the text that each points to, where it spans more than one; those of what stands
    elsewhere as they are."""
    if "\n" not in text.strip():
        return problems
    lines = line_numbers(text)

    def line(problem: Problem) -> int | None:
        if problem.pointer != pointer and not problem.pointer.startswith(f"{pointer}/"):
            return None
        below = problem.pointer.removeprefix(pointer)
        while below and below not in lines:
            below = below.rpartition("/")[0]
        return lines.get(below)

    return [
        Problem(problem.pointer, f"{problem.detail} (line {number})") if (number := line(problem)) else problem
        for problem in problems
    ]


class _Dumper(yaml.SafeDumper):
    """Writes multi-line strings as block scalars, and repeats values instead of using aliases."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _represent_text(dumper: yaml.SafeDumper, text: str) -> yaml.Node:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)


_Dumper.add_representer(str, _represent_text)


def dump_yaml(document: Any) -> str:
    """Dump the document as YAML for reading."""
    return str(yaml.dump(document, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=1000))


def to_yaml(document: Any) -> str:
    """Dump the document for editing: as YAML, or as JSON if its YAML would be parsed to something else."""
    text = dump_yaml(document)
    try:
        if parse_content(text) == document:
            return text
    except Invalid:
        pass
    return json.dumps(document, indent=2, ensure_ascii=False)
