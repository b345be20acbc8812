"""Checks that every schema shares: errors as pointers, and values that no text or number of a document may have."""

from __future__ import annotations

import contextlib
import difflib
import itertools
import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from marshmallow import Schema, ValidationError

from polyjob.errors import Invalid, Problem

MAX_DOCUMENT_DEPTH = 40
"""Levels of a document."""
MAX_DOCUMENT_BYTES = 512 << 10
"""UTF-8 bytes of all keys and texts of a document, and of a config that is sent as text."""
MAX_DOCUMENT_VALUES = 20_000
"""Values of a document, objects and lists among them."""
MAX_OBJECT_KEYS = 1_000
"""Keys of one object."""
MAX_KEY_LENGTH = 500
"""Characters of a key: each problem below it repeats it in its pointer."""
MAX_INTEGER_DIGITS = 300
"""Digits of an integer. A float has a place for so many, and Python prints no more than 4,300."""
MAX_PROBLEMS = 100
MAX_QUOTED_KEY_LENGTH = 100
"""Characters of a key that an error repeats."""
SLUG_PATTERN = r"[-a-zA-Z0-9_]+\Z"
MAX_NAME_LENGTH = 128
MAX_TAG_LENGTH = 64
MAX_TEXT_LENGTH = 100_000
"""Characters of a description."""
UNKNOWN_FIELD = "Unknown field."


def pointer_to(parent: str, key: str | int) -> str:
    """The JSON pointer to an item of what `parent` points to."""
    return f"{parent}/{str(key).replace('~', '~0').replace('/', '~1')}"


def check_values(document: Any, pointer: str = "") -> None:
    """Raise Invalid with every value that no file or database takes, or with the bound that the document exceeds.

    The work is bounded: the check ends at the first bound, and before anything else looks at the document.
    """
    check = _ValueChecker()
    with contextlib.suppress(_CheckEnded):
        check.value(document, pointer, 0)
    if check.problems:
        raise Invalid(check.problems)


class _CheckEnded(Exception):
    """Nothing more needs to be looked at."""


class _ValueChecker:
    """Walks through a document once and collects problems."""

    def __init__(self) -> None:
        self.problems: list[Problem] = []
        self._nodes = self._bytes = 0

    def value(self, value: Any, pointer: str, depth: int) -> None:
        """Raises _Full."""
        self._nodes += 1
        if self._nodes > MAX_DOCUMENT_VALUES:
            self._exceed(pointer, f"The document has more than {MAX_DOCUMENT_VALUES} values.")
        if isinstance(value, str):
            self._text(value, pointer)
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
                self.value(item, pointer_to(pointer, index), depth + 1)
        else:
            self._object(value, pointer, depth)

    def _object(self, value: Mapping[Any, Any], pointer: str, depth: int) -> None:
        if len(value) > MAX_OBJECT_KEYS:
            self._add(pointer, f"An object has at most {MAX_OBJECT_KEYS} keys.")
            return
        for key, item in value.items():
            if not isinstance(key, str) or any(_unfit_text(key)):
                self._add(pointer, f"The key {shorten_key(key)!r} is not fit text.")
            elif len(key) > MAX_KEY_LENGTH:
                self._add(
                    pointer, f"A key has at most {MAX_KEY_LENGTH} characters, not {len(key)} as `{shorten_key(key)}`."
                )
            else:
                self._count(key, pointer)
                self.value(item, pointer_to(pointer, key), depth + 1)

    def _text(self, text: str, pointer: str) -> None:
        for detail in _unfit_text(text):
            self._add(pointer, detail)
        self._count(text, pointer)

    def _count(self, text: str, pointer: str) -> None:
        self._bytes += len(text.encode(errors="surrogatepass"))
        if self._bytes > MAX_DOCUMENT_BYTES:
            self._exceed(pointer, f"All keys and texts of the document have more than {MAX_DOCUMENT_BYTES >> 10} KiB.")

    def _add(self, pointer: str, detail: str) -> None:
        self.problems.append(Problem(pointer, detail))
        if len(self.problems) == MAX_PROBLEMS:
            raise _CheckEnded

    def _exceed(self, pointer: str, detail: str) -> None:
        self._add(pointer, detail)
        raise _CheckEnded


_TOO_LARGE = 10**MAX_INTEGER_DIGITS


def shorten_key(key: Any) -> Any:
    """A key as an error repeats it: the beginning of a long text, and no number of very many digits."""
    if isinstance(key, str):
        return key if len(key) <= MAX_QUOTED_KEY_LENGTH else f"{key[: MAX_QUOTED_KEY_LENGTH - 1]}…"
    return type(key).__name__ if isinstance(key, int) and abs(key) >= _TOO_LARGE else key


def reject_duplicate_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Make an object of JSON of its members, for `json.loads(…, object_pairs_hook=reject_duplicate_keys)`.

    Raises DuplicateKey, which names the first key that comes twice.
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
    """An object of JSON has a key twice. The text is a sentence for people."""


def _unfit_text(text: str) -> Iterator[str]:
    if "\0" in text:
        yield "Text must not hold NUL characters."
    if not text.isascii() and any("\ud800" <= character <= "\udfff" for character in text):
        yield "Text must not hold halves of surrogate pairs."


def deserialize(schema: Schema, document: Any, pointer: str) -> Any:
    """What the schema makes of the document. Raises Invalid with the first `MAX_PROBLEMS` problems, each with its
    pointer; no work is spent on the words of any others."""
    try:
        return schema.load(document)
    except ValidationError as error:
        problems = itertools.islice(_flatten(error.messages, pointer, schema, document), MAX_PROBLEMS)
        raise Invalid(list(problems)) from None


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
        yield Problem(pointer_to(pointer, key), _unknown(key, schema))
    elif isinstance(key, str) and isinstance(inner, Mapping) and inner.keys() <= {"key", "value"} and schema is None:
        for part in inner.values():
            yield from _flatten(part, pointer_to(pointer, key), None, None)
    else:
        yield from _flatten(inner, pointer_to(pointer, key), _below(schema, key), document)


def _unknown(key: str, schema: Any) -> str:
    known = list(schema.fields) if isinstance(schema, Schema) else []
    key = str(shorten_key(key))
    close = difflib.get_close_matches(key, known, n=1)
    return f"Unknown key `{key}`; did you mean `{close[0]}`?" if close else f"Unknown key `{key}`."


def _below(schema: Any, key: Any) -> Any:
    """The schema of a field, where it has one."""
    field = schema.fields.get(key) if isinstance(schema, Schema) else None
    return getattr(field, "schema", None)


def move_pointers(problems: Iterable[Problem], old: str, new: str) -> list[Problem]:
    """The problems with pointers at or below `old` moved to `new`."""
    return [
        Problem(new + problem.pointer.removeprefix(old), problem.detail)
        if problem.pointer == old or problem.pointer.startswith(f"{old}/")
        else problem
        for problem in problems
    ]
