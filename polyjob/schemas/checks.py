"""Checks that every schema shares: errors as pointers, and values that no text or number of a document may have."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from marshmallow import Schema, ValidationError

from polyjob.errors import Invalid, Problem

DEEPEST = 40
"""Levels of a document."""
MOST_PROBLEMS = 100
SLUG = r"[-a-zA-Z0-9_]+\Z"
NAME_LENGTH = 128
TAG_LENGTH = 64
TEXT_LENGTH = 100_000
"""Characters of a description."""
UNKNOWN = "Unknown field."


def pointer_to(parent: str, key: str | int) -> str:
    """The JSON pointer to an item of what `parent` points to."""
    return f"{parent}/{str(key).replace('~', '~0').replace('/', '~1')}"


def check_values(document: Any, pointer: str = "") -> None:
    """Raises Invalid that names every text that no file or database takes, and what is nested too deep."""
    problems = [problem for problem, _ in zip(_unfit(document, pointer, 0), range(MOST_PROBLEMS), strict=False)]
    if problems:
        raise Invalid(problems)


def _unfit(value: Any, pointer: str, depth: int) -> Iterator[Problem]:
    if isinstance(value, str):
        yield from (Problem(pointer, detail) for detail in _unfit_text(value))
    elif isinstance(value, float) and not math.isfinite(value):
        yield Problem(pointer, "Not a finite number.")
    elif not isinstance(value, (Mapping, list)):
        return
    elif depth == DEEPEST:
        yield Problem(pointer, f"Nested deeper than {DEEPEST} levels.")
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from _unfit(item, pointer_to(pointer, index), depth + 1)
    else:
        for key, item in value.items():
            if not isinstance(key, str) or any(_unfit_text(key)):
                yield Problem(pointer, f"The key {key!r} is not fit text.")
            else:
                yield from _unfit(item, pointer_to(pointer, key), depth + 1)


def _unfit_text(text: str) -> Iterator[str]:
    if "\0" in text:
        yield "Text must not hold NUL characters."
    if not text.isascii() and any("\ud800" <= character <= "\udfff" for character in text):
        yield "Text must not hold halves of surrogate pairs."


def load(schema: Schema, document: Any, pointer: str) -> Any:
    """What the schema makes of the document. Raises Invalid with every problem, each with its pointer."""
    try:
        return schema.load(document)
    except ValidationError as error:
        problems = list(_flatten(error.messages, pointer, schema, document))
        raise Invalid(problems[:MOST_PROBLEMS]) from None


def _flatten(messages: Any, pointer: str, schema: Any, document: Any) -> Iterator[Problem]:
    if isinstance(messages, Mapping):
        for key, inner in messages.items():
            yield from _flatten_item(key, inner, pointer, schema, document)
        return
    for message in messages if isinstance(messages, list) else [messages]:
        yield Problem(pointer, str(message))


def _flatten_item(key: Any, inner: Any, pointer: str, schema: Any, document: Any) -> Iterator[Problem]:
    if key == "_schema":
        yield from _flatten(inner, pointer, None, document)
    elif inner == [UNKNOWN]:
        yield Problem(pointer_to(pointer, key), _unknown(key, schema))
    elif isinstance(key, str) and isinstance(inner, Mapping) and inner.keys() <= {"key", "value"} and schema is None:
        for part in inner.values():
            yield from _flatten(part, pointer_to(pointer, key), None, None)
    else:
        yield from _flatten(inner, pointer_to(pointer, key), _below(schema, key), document)


def _unknown(key: str, schema: Any) -> str:
    known = list(schema.fields) if isinstance(schema, Schema) else []
    close = difflib.get_close_matches(str(key), known, n=1)
    return f"Unknown key `{key}`; did you mean `{close[0]}`?" if close else f"Unknown key `{key}`."


def _below(schema: Any, key: Any) -> Any:
    """The schema of a field, where it has one."""
    field = schema.fields.get(key) if isinstance(schema, Schema) else None
    return getattr(field, "schema", None)


def renamed(problems: Iterable[Problem], old: str, new: str) -> list[Problem]:
    """The problems with pointers at or below `old` moved to `new`."""
    return [
        Problem(new + problem.pointer.removeprefix(old), problem.detail)
        if problem.pointer == old or problem.pointer.startswith(f"{old}/")
        else problem
        for problem in problems
    ]
