"""The origin of each part of a job's body, so that an error names the option or the file to change."""

from __future__ import annotations

import copy
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from polyjob.cli.errors import ServerError, UsageError
from polyjob.cli.refusals import field_name, problem_lines
from polyjob.jobconfig.compose import ComposedJob

OPTIONS = {
    "command": "COMMAND", "image": "--image", "build_steps": "--step", "env_vars": "--env",
    "secrets": "--secret",
    "workdir": "the current folder", "caller_vars": "a variable of this shell", "cpu": "--cpu",
    "memory": "--memory", "gpu": "--gpu", "params": "--param", "backend": "--backend", "timeout": "--timeout",
    "retries": "--retries", "after": "--after", "inputs_from": "--inputs-from", "name": "--name", "tags": "--tag",
    "notify": "--notify", "volumes": "--volume",
}  # fmt: skip
"""Field of a composed job → the option or argument that sets it."""
_MISSING: dict[tuple[str, ...], str] = {("config", "build", "image"): OPTIONS["image"]}
"""Field that a runner can require → the option that would have set it."""


class Origins:
    """The config file that a command has read, and the fields of the body that its options have set."""

    def __init__(self, *, command: str = "COMMAND") -> None:
        """`command` is the option or argument of the command of the job."""
        self._names = OPTIONS | {"command": command}
        self._file: str | None = None
        self._document: Any = None
        self._options: dict[tuple[str, ...], str] = {}

    def read(self, path: Path) -> dict[str, Any]:
        """Return the mapping in a YAML or JSON file (`-` is the standard input), parsed as the server parses it.

        Raises UsageError.
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
            raise UsageError(f"{path} is not a config: not a mapping.")
        self._file, self._document = "standard input" if is_piped else str(path), copy.deepcopy(document)
        return document

    def note(self, job: ComposedJob) -> None:
        """Record the options that have set fields of a composed job."""
        self._options.update({pointer: self._names[field] for pointer, field in job.sources.items()})

    def note_fields(self, options: Mapping[str, str]) -> None:
        """Record the options that set fields beside the job."""
        self._options.update({(field,): option for field, option in options.items()})

    def note_field(self, field: tuple[str, ...], option: str) -> None:
        """Record the option that has set a field beside those of the job."""
        self._options[field] = option

    @contextmanager
    def name_in_errors(self) -> Iterator[None]:
        """Make the errors of a refused body name the option, or the file and the field in it."""
        try:
            yield
        except ServerError as error:
            if not error.problems:
                raise
            raise ServerError(error.status, problem_lines(self._named(error.problems)), error.problems) from None

    def _named(self, problems: Sequence[tuple[str, str]]) -> Iterator[tuple[str, str]]:
        for pointer, detail in problems:
            field = _split_pointer(pointer)
            option = self._option_at(field)
            if option is None and not self._is_in_file(field):
                option = self._option_below(field)
            yield option or self._location_in_file(field) or _MISSING.get(field) or field_name(pointer), detail

    def _option_at(self, field: tuple[str, ...]) -> str | None:
        return next((name for set_field, name in self._options.items() if field[: len(set_field)] == set_field), None)

    def _option_below(self, field: tuple[str, ...]) -> str | None:
        """Return an option that has set a part of the field. The complete config does not count as a field."""
        below = (name for set_field, name in self._options.items() if set_field[: len(field)] == field)
        return next(below, None) if len(field) > 1 else None

    def _is_in_file(self, field: tuple[str, ...]) -> bool:
        return bool(field) and field[0] == "config" and self._depth_in_file(field[1:]) == len(field) - 1

    def _location_in_file(self, field: tuple[str, ...]) -> str | None:
        """Return the file and the field in it. A field that is missing there belongs to the section that lacks it."""
        if self._file is None or not field or field[0] != "config":
            return None
        if self._depth_in_file(field[1:]) < len(field) - 2:
            return None
        names, value = [], self._document
        for token in field[1:]:
            value, name, is_pair = _member(value, token)
            names.append(name)
            if is_pair:
                break
        return ": ".join([self._file, *([".".join(names)] if names else [])])

    def _depth_in_file(self, tokens: tuple[str, ...]) -> int:
        """Return how many leading tokens of a path lead to a value in the file."""
        value, depth = self._document, 0
        for token in tokens:
            value, _, is_pair = _member(value, token)
            if is_pair:
                return len(tokens)
            if value is None:
                break
            depth += 1
        return depth


def _split_pointer(pointer: str) -> tuple[str, ...]:
    return tuple(part.replace("~1", "/").replace("~0", "~") for part in pointer.split("/")[1:])


def _member(value: Any, token: str) -> tuple[Any, str, bool]:
    """Return (the member or None, its name, whether it is a pair).

    The server turns a mapping of variables into a list of pairs. Its pointers have the index of a pair, and below it
    the index of the name or value.
    """
    if isinstance(value, dict) and token in value:
        return value[token], token, False
    if token.isdecimal() and isinstance(value, dict | list) and int(token) < len(value):
        if isinstance(value, list):
            return value[int(token)], token, False
        name = list(value)[int(token)]
        return value[name], name, True
    return None, token, False
