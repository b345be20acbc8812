"""Where each part of a job's body came from, so that a refusal names the option or the file to change."""

from __future__ import annotations

import copy
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from polyjob.cli.client import ServerError, UsageError, field_name

STANDARD_INPUT = "standard input"


class Origins:
    """The config file that a command has read, and the fields of the body that its options have set."""

    def __init__(self) -> None:
        self._file: str | None = None
        self._document: Any = None
        self._options: dict[tuple[str, ...], str] = {}

    def read(self, path: Path) -> dict[str, Any]:
        """Return the mapping in a file of YAML or JSON (`-` is the standard input), read as the server reads one.

        Raises Wrong.
        """
        from polyjob.errors import Invalid
        from polyjob.jobconfig.parsing import parse_content

        is_piped = str(path) == "-"
        try:
            document = parse_content(sys.stdin.read() if is_piped else path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise UsageError(f"{path} cannot be read: {error}") from None
        except Invalid as error:
            raise UsageError(f"{path} cannot be read: {error.problems[0].detail}") from None
        if not isinstance(document, dict):
            raise UsageError(f"{path} holds no config: it is not a mapping.")
        self._file, self._document = STANDARD_INPUT if is_piped else str(path), copy.deepcopy(document)
        return document

    def note(self, option: str, *field: str | int) -> None:
        """Record that this option has set this field of the body."""
        self._options[tuple(map(str, field))] = option

    @contextmanager
    def explained(self) -> Iterator[None]:
        """Have a refusal name the option, or the file and the field in it, in place of a field of the body."""
        try:
            yield
        except ServerError as error:
            if not error.problems:
                raise
            lines = [f"{name}: {detail}" if name else detail for name, detail in self._named(error.problems)]
            raise ServerError(error.status, "\n".join(lines), error.problems) from None

    def _named(self, problems: Sequence[tuple[str, str]]) -> Iterator[tuple[str, str]]:
        for pointer, detail in problems:
            field = _tokens(pointer)
            option = self._option_at(field)
            if option is None and not self._is_in_file(field):
                option = self._option_below(field)
            yield option or self._place_in_file(field) or field_name(pointer), detail

    def _option_at(self, field: tuple[str, ...]) -> str | None:
        return next((name for set_field, name in self._options.items() if field[: len(set_field)] == set_field), None)

    def _option_below(self, field: tuple[str, ...]) -> str | None:
        """Return an option that has set a part of the field, which is more than the whole config."""
        below = (name for set_field, name in self._options.items() if set_field[: len(field)] == field)
        return next(below, None) if len(field) > 1 else None

    def _is_in_file(self, field: tuple[str, ...]) -> bool:
        return bool(field) and field[0] == "config" and self._found(field[1:]) == len(field) - 1

    def _place_in_file(self, field: tuple[str, ...]) -> str | None:
        """Return the file and the field in it. A field that is missing there belongs to the section that lacks it."""
        if self._file is None or not field or field[0] != "config" or self._found(field[1:]) < len(field) - 2:
            return None
        names, inside = [], self._document
        for token in field[1:]:
            inside, name, is_pair = _member(inside, token)
            names.append(name)
            if is_pair:
                break
        return ": ".join([self._file, *([".".join(names)] if names else [])])

    def _found(self, tokens: tuple[str, ...]) -> int:
        """Return how many of the tokens, one below the other, lead to something in the file."""
        inside, count = self._document, 0
        for token in tokens:
            inside, _, is_pair = _member(inside, token)
            if is_pair:
                return len(tokens)
            if inside is None:
                break
            count += 1
        return count


def _tokens(pointer: str) -> tuple[str, ...]:
    return tuple(part.replace("~1", "/").replace("~0", "~") for part in pointer.split("/")[1:])


def _member(inside: Any, token: str) -> tuple[Any, str, bool]:
    """Return (the member or None, its name, whether it is a pair). The server numbers the pairs of a mapping of
    variables, and points to the name and the value of a pair."""
    if isinstance(inside, dict) and token in inside:
        return inside[token], token, False
    if token.isdecimal() and isinstance(inside, dict | list) and int(token) < len(inside):
        if isinstance(inside, list):
            return inside[int(token)], token, False
        name = list(inside)[int(token)]
        return inside[name], name, True
    return None, token, False
