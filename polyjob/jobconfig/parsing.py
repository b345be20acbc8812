"""Parse a config that is sent as text: JSON, YAML, or a Python literal. The size is limited, and no code runs."""

from __future__ import annotations

import json
from typing import Any

import yaml

from polyjob.errors import Invalid, Problem
from polyjob.jobconfig.checks import MAX_DOCUMENT_BYTES, reject_duplicate_keys
from polyjob.jobconfig.python_literal import parse_python_literal
from polyjob.jobconfig.yaml_loader import line_numbers, load_yaml


def parse_content(text: str, pointer: str = "/content") -> Any:
    """Return the document in the text. Raises Invalid, which names the line of the error."""
    size = len(text.encode(errors="surrogatepass"))
    if size > MAX_DOCUMENT_BYTES:
        detail = f"The text of a config has at most {MAX_DOCUMENT_BYTES >> 10} KiB; this one has {size} bytes."
        raise Invalid([Problem(pointer, detail)])
    for parse in (_parse_json, parse_python_literal):
        try:
            return parse(text)
        except (ValueError, RecursionError):
            continue
    try:
        return load_yaml(text)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        position = f" (line {mark.line + 1}, column {mark.column + 1})" if mark else ""
        raise Invalid([Problem(pointer, f"The text is not valid JSON or YAML: {error.problem}{position}.")]) from None
    except (yaml.YAMLError, ValueError) as error:
        detail = f"The text is not valid JSON or YAML: {str(error).splitlines()[0]}."
        raise Invalid([Problem(pointer, detail)]) from None


def _parse_json(text: str) -> Any:
    """Raise ValueError also for a duplicate key; the YAML loader then reports its position."""
    return json.loads(text, object_pairs_hook=reject_duplicate_keys)


def add_line_numbers(problems: list[Problem], text: str, pointer: str) -> list[Problem]:
    """Add the line to each problem within the text at `pointer`, if the text has more than one line."""
    if "\n" not in text.strip():
        return problems
    lines = line_numbers(text)

    def line_of(problem: Problem) -> int | None:
        if problem.pointer != pointer and not problem.pointer.startswith(f"{pointer}/"):
            return None
        path = problem.pointer.removeprefix(pointer)
        while path and path not in lines:
            path = path.rpartition("/")[0]
        return lines.get(path)

    return [
        Problem(problem.pointer, f"{problem.detail} (line {line})") if (line := line_of(problem)) else problem
        for problem in problems
    ]


class _Dumper(yaml.SafeDumper):
    """Writes texts of several lines as literal blocks, and no aliases."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _represent_text(dumper: yaml.SafeDumper, text: str) -> yaml.Node:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)


_Dumper.add_representer(str, _represent_text)


def dump_yaml(document: Any) -> str:
    """Return the document as YAML for reading."""
    return str(yaml.dump(document, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=1000))


def to_yaml(document: Any) -> str:
    """Return the document as YAML for editing, or as JSON if `parse_content` would read the YAML differently."""
    text = dump_yaml(document)
    try:
        if parse_content(text) == document:
            return text
    except Invalid:
        pass
    return json.dumps(document, indent=2, ensure_ascii=False)
