"""The shell texts `run.cmd` and `build_steps`: repair what YAML does to them, join a list of them, and shorten them
for lists. Pure."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Mapping
from typing import Any

MAX_SHOWN_COMMAND_LENGTH = 200
"""Characters of a command that lists show."""
_FOLDED_LINE = re.compile(r"(?<!\\)(?:\\\\)*\\(?:[ \t]|\Z)")
"""A backslash before a blank or at the end: the remains of a backslash at the end of a line, after YAML has joined the
lines of a plain text or of one with `>`."""
_BLANKS = re.compile(r"[ \t]+")
_LINE_END = re.compile(r"(?<!\r)\r+\n")
"""Matches only at the first of several carriage returns. Matching at each of them takes quadratic time."""
_STOP_ON_FAILURE = "\ncase $? in 0) ;; *) exit ;; esac\n"
"""Ends the shell with the exit code of the previous item if that failed."""


def normalize_commands(document: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the document of a job or build with its command and build steps normalized. Idempotent.

    Values of an unexpected type are not changed; the schema refuses them later.
    """
    normalized = dict(document)
    for name, key, normalize in (("run", "cmd", normalize_command), ("build", "build_steps", normalize_line_ends)):
        section = document.get(name)
        if isinstance(section, Mapping) and key in section:
            normalized[name] = {**section, key: _map_texts(section[key], normalize)}
    if "build_steps" in document:
        normalized["build_steps"] = _map_texts(document["build_steps"], normalize_line_ends)
    return normalized


def _map_texts(value: Any, normalize: Callable[[str], str]) -> Any:
    if isinstance(value, list):
        return [normalize(item) if isinstance(item, str) else item for item in value]
    return normalize(value) if isinstance(value, str) else value


def normalize_command(text: str) -> str:
    """Return the command with line feeds as line ends, and without the remains of folded lines. Idempotent.

    A text of one line with an escaped blank counts as folded by YAML. It is split at blanks, and backslashes at the
    ends of words are removed. A text of several lines, or one that begins with a line feed, is not changed further.
    """
    text = normalize_line_ends(text)
    if "\n" in text.rstrip() or text.startswith("\n") or not _FOLDED_LINE.search(text.rstrip()):
        return text
    words = (word.strip("\\") for word in _BLANKS.split(text.strip()))
    return " ".join(word for word in words if word)


def normalize_line_ends(text: str) -> str:
    """Return the text with line feeds as line ends. A text that begins with a line feed is not changed."""
    return text if text.startswith("\n") else _LINE_END.sub("\n", text)


def literal_command(text: str) -> str:
    """Return shell text that means the same as `text`, and that `normalize_command` does not change."""
    return text if normalize_command(text) == text else f"\n{text}"


def shell_text(command: str | list[str]) -> str:
    """Return the text that the job's shell runs.

    Each item of a list is a separate text, so a comment, a heredoc or an open quote ends with it. Each item runs in the
    same shell, and only if the previous one succeeded. Otherwise the job ends with the exit code of that one.
    """
    if isinstance(command, str):
        return command
    items = [item.strip() for item in command]
    if len(items) == 1:
        return items[0]
    # A shell reads the group completely before it runs any of it, so a syntax error in one item cannot affect the rest.
    # The blank prevents eval from taking an item that begins with a dash as an option.
    return "{ " + _STOP_ON_FAILURE.join(f"eval {shlex.quote(f' {item}')}" for item in items) + "\n}"


def shown_command(config: Mapping[str, Any] | None) -> str | None:
    """Return the beginning of the config's command, or of the first item of a list; None if it has no command."""
    command = ((config or {}).get("run") or {}).get("cmd")
    text = command[0] if isinstance(command, list) else command
    return text[:MAX_SHOWN_COMMAND_LENGTH] if text else None
