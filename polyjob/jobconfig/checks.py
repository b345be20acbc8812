"""Checks that all schemas share: limits of documents and values, and errors with JSON pointers."""

from __future__ import annotations

import contextlib
import difflib
import itertools
import math
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from typing import Any

from marshmallow import Schema, ValidationError, missing

from polyjob.errors import Invalid, Problem

MAX_DOCUMENT_DEPTH = 40
"""Levels of a document."""
MAX_DOCUMENT_BYTES = 512 << 10
"""UTF-8 bytes of all keys and texts of a document, and of a config that is sent as text."""
MAX_DOCUMENT_VALUES = 20_000
"""Values of a document, including objects and lists."""
MAX_OBJECT_KEYS = 1_000
"""Keys of one object."""
MAX_KEY_LENGTH = 500
"""Characters of a key. Limited because every problem below the key repeats it in its pointer."""
MAX_INTEGER_DIGITS = 300
"""Digits of an integer. A larger one does not fit a float, and Python refuses to print more than 4,300 digits."""
MAX_PROBLEMS = 100
"""Problems that one error lists."""
MAX_QUOTED_KEY_LENGTH = 100
"""Characters of a key that an error message quotes."""
SLUG_PATTERN = r"[-a-zA-Z0-9_]+\Z"
MAX_NAME_LENGTH = 128
MAX_TAG_LENGTH = 64
MAX_TEXT_LENGTH = 100_000
"""Characters of a description."""
UNKNOWN_FIELD = "Unknown field."


def pointer_to(parent: str, key: str | int) -> str:
    """Return the JSON pointer to an item of the value at the pointer `parent`."""
    return f"{parent}/{str(key).replace('~', '~0').replace('/', '~1')}"


def check_values(document: Any, pointer: str = "") -> None:
    """Raise Invalid with every value that cannot be stored, or with the limit that the document exceeds.

    The check comes before any other work on the document, and ends at the first exceeded limit. So its work is limited.
    """
    if _is_surely_valid(document):
        return
    checker = _ValueChecker()
    with contextlib.suppress(_CheckEnded):
        checker.check(document, pointer, 0)
    if checker.problems:
        raise Invalid(checker.problems)


def _is_surely_valid(document: Any) -> bool:
    """Return whether the document is small and valid, as most are. False means that it has to be checked.

    A document with fewer values than `MAX_DOCUMENT_DEPTH` is not nested too deeply either.
    """
    values = [document]
    for value in values:  # which grows meanwhile
        kind = type(value)
        if kind is str:
            if len(value) > MAX_KEY_LENGTH or not value.isascii() or "\0" in value:
                return False
        elif kind is dict:
            if not all(type(key) is str for key in value):
                return False
            values += value
            values += value.values()
        elif kind is list:
            values += value
        elif value is not None and kind is not bool and not (kind is int and -_TOO_LARGE < value < _TOO_LARGE):
            return False
        if len(values) >= MAX_DOCUMENT_DEPTH:
            return False
    return True


class _CheckEnded(Exception):
    """A limit was exceeded, so the rest of the document is not checked."""


class _ValueChecker:
    """Visits every value of a document once, and collects problems."""

    def __init__(self) -> None:
        self.problems: list[Problem] = []
        self._nodes = self._bytes = 0

    def check(self, value: Any, pointer: str, depth: int) -> None:
        """Check a value and everything below it. Raises _CheckEnded."""
        self._nodes += 1
        if self._nodes > MAX_DOCUMENT_VALUES:
            self._exceed(pointer, f"The document has more than {MAX_DOCUMENT_VALUES} values.")
        if isinstance(value, str):
            self._check_text(value, pointer)
        elif isinstance(value, int):
            if abs(value) >= _TOO_LARGE:
                self._add(pointer, f"An integer has at most {MAX_INTEGER_DIGITS} digits.")
        elif isinstance(value, float):
            if not math.isfinite(value):
                self._add(pointer, "Not a finite number.")
        elif not isinstance(value, (Mapping, list)):
            return
        elif depth == MAX_DOCUMENT_DEPTH:
            self._add(pointer, f"Nested deeper than {MAX_DOCUMENT_DEPTH} levels.")
        elif isinstance(value, list):
            for index, item in enumerate(value):
                self.check(item, pointer_to(pointer, index), depth + 1)
        else:
            self._check_object(value, pointer, depth)

    def _check_object(self, value: Mapping[Any, Any], pointer: str, depth: int) -> None:
        if len(value) > MAX_OBJECT_KEYS:
            self._add(pointer, f"An object has at most {MAX_OBJECT_KEYS} keys; this one has {len(value)}.")
            return
        for key, item in value.items():
            if not isinstance(key, str) or any(_text_problems(key)):
                self._add(pointer, f"The key {shorten_key(key)!r} is not valid: a key is text without NUL characters.")
            elif len(key) > MAX_KEY_LENGTH:
                self._add(
                    pointer, f"A key has at most {MAX_KEY_LENGTH} characters, not {len(key)} as `{shorten_key(key)}`."
                )
            else:
                self._count_bytes(key, pointer)
                self.check(item, pointer_to(pointer, key), depth + 1)

    def _check_text(self, text: str, pointer: str) -> None:
        for detail in _text_problems(text):
            self._add(pointer, detail)
        self._count_bytes(text, pointer)

    def _count_bytes(self, text: str, pointer: str) -> None:
        self._bytes += len(text.encode(errors="surrogatepass"))
        if self._bytes > MAX_DOCUMENT_BYTES:
            self._exceed(pointer, f"The keys and texts of the document have more than {MAX_DOCUMENT_BYTES >> 10} KiB.")

    def _add(self, pointer: str, detail: str) -> None:
        self.problems.append(Problem(pointer, detail))
        if len(self.problems) == MAX_PROBLEMS:
            raise _CheckEnded

    def _exceed(self, pointer: str, detail: str) -> None:
        self._add(pointer, detail)
        raise _CheckEnded


_TOO_LARGE = 10**MAX_INTEGER_DIGITS


def shorten_key(key: Any) -> Any:
    """Return a key for an error message: the beginning of a long text, and the type of a very large integer."""
    if isinstance(key, str):
        return key if len(key) <= MAX_QUOTED_KEY_LENGTH else f"{key[: MAX_QUOTED_KEY_LENGTH - 1]}…"
    return type(key).__name__ if isinstance(key, int) and abs(key) >= _TOO_LARGE else key


def reject_duplicate_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return the members of a JSON object as a dictionary. Raises DuplicateKey if a key comes twice.

    For `json.loads(…, object_pairs_hook=reject_duplicate_keys)`.
    """
    members = dict(pairs)
    if len(members) < len(pairs):
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                raise DuplicateKey(f"The key `{shorten_key(key)}` comes twice.")
            seen.add(key)
    return members


class DuplicateKey(ValueError):
    """A JSON object has a key twice; the text is a sentence that names it."""


def _text_problems(text: str) -> Iterator[str]:
    if "\0" in text:
        yield "Text must not contain NUL characters."
    if not text.isascii() and any("\ud800" <= character <= "\udfff" for character in text):
        yield "Text must not contain unpaired surrogates."


def deserialize(schema: Schema, document: Any, pointer: str) -> Any:
    """Return the document as loaded by the schema. Raises Invalid with the first `MAX_PROBLEMS` problems.

    The pointers of the problems begin with `pointer`. Messages of further problems are not even created, so that the
    work is limited.
    """
    try:
        return schema.load(document, partial=_optional_names(type(schema)))
    except ValidationError as error:
        problems = itertools.islice(_flatten(error.messages, pointer, schema, document), MAX_PROBLEMS)
        raise Invalid(list(problems)) from None


@cache
def _optional_names(schema: type[Schema]) -> tuple[str, ...]:
    """Return the fields that a document may lack. If marshmallow knows them, it does not visit the missing ones."""
    fields = schema().fields.items()
    return tuple(name for name, field in fields if not field.required and field.load_default is missing)


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
    elif inner == [UNKNOWN_FIELD]:
        yield Problem(pointer_to(pointer, key), _unknown_key_message(key, schema))
    elif isinstance(key, str) and isinstance(inner, Mapping) and inner.keys() <= {"key", "value"} and schema is None:
        for part in inner.values():
            yield from _flatten(part, pointer_to(pointer, key), None, None)
    else:
        yield from _flatten(inner, pointer_to(pointer, key), _nested_schema(schema, key), document)


def _unknown_key_message(key: str, schema: Any) -> str:
    known = list(schema.fields) if isinstance(schema, Schema) else []
    key = str(shorten_key(key))
    close = difflib.get_close_matches(key, known, n=1)
    return f"Unknown key `{key}`; did you mean `{close[0]}`?" if close else f"Unknown key `{key}`."


def _nested_schema(schema: Any, key: Any) -> Any:
    """Return the nested schema of a field, or None."""
    field = schema.fields.get(key) if isinstance(schema, Schema) else None
    return getattr(field, "schema", None)


def move_pointers(problems: Iterable[Problem], old: str, new: str) -> list[Problem]:
    """Return the problems, with every pointer at or below `old` moved to `new`."""
    return [
        Problem(new + problem.pointer.removeprefix(old), problem.detail)
        if problem.pointer == old or problem.pointer.startswith(f"{old}/")
        else problem
        for problem in problems
    ]
