"""The shell text of a config's `run.cmd` and `build_steps`: how it is read, and how a list becomes one text. Pure."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from typing import Any

_FOLD = re.compile(r"(?<!\\)(?:\\\\)*\\(?:[ \t]|\Z)")
"""A backslash that escapes a blank or nothing: what is left of a backslash at the end of a line once YAML has joined
the lines of a plain or `>` text."""
_BLANKS = re.compile(r"[ \t]+")
_LINE_END = re.compile(r"(?<!\r)\r+\n")
"""Looked for only where a run of carriage returns begins: from each of them, a long run takes quadratic time."""
_NEXT = "\ncase $? in 0) ;; *) exit ;; esac\n"
"""Ends the shell with the exit code of the item before, unless that succeeded."""


def normalize_commands(document: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the document of a job or build with its command and its build steps as they are meant. Idempotent.

    Whatever has another type than expected stays as it is.
    """
    found = dict(document)
    for name, key, read in (("run", "cmd", normalize_command), ("build", "build_steps", normalize_line_ends)):
        section = document.get(name)
        if isinstance(section, Mapping) and key in section:
            found[name] = {**section, key: _each(section[key], read)}
    if "build_steps" in document:
        found["build_steps"] = _each(document["build_steps"], normalize_line_ends)
    return found


def _each(value: Any, read: Any) -> Any:
    if isinstance(value, list):
        return [read(item) if isinstance(item, str) else item for item in value]
    return read(value) if isinstance(value, str) else value


def normalize_command(text: str) -> str:
    """Return the command without what YAML left of its continued lines, and with line feeds as line ends.

    A text of one line that has an escaped blank was folded: its words are separated by blanks, and backslashes at the
    ends of words go. A text of several lines keeps them, and so does one that begins with a line feed, whatever is in
    it. Idempotent.
    """
    text = normalize_line_ends(text)
    if "\n" in text.rstrip() or text.startswith("\n") or not _FOLD.search(text.rstrip()):
        return text
    words = (word.strip("\\") for word in _BLANKS.split(text.strip()))
    return " ".join(word for word in words if word)


def normalize_line_ends(text: str) -> str:
    """Return the text with line feeds as line ends; one that begins with a line feed is taken as it is."""
    return text if text.startswith("\n") else _LINE_END.sub("\n", text)


def literal_command(text: str) -> str:
    """Return shell text that means `text` and that `normalize_command` leaves as it is."""
    return text if normalize_command(text) == text else f"\n{text}"


def shell_text(command: str | list[str]) -> str:
    """Return the text that the job's shell runs.

    Of a list, each item is a text of its own, so that a comment, a heredoc or an open quote ends with it. The next one
    runs in the same shell, only if the one before succeeded; else its exit code is the job's.
    """
    if isinstance(command, str):
        return command
    items = [item.strip() for item in command]
    if len(items) == 1:
        return items[0]
    # A shell reads a group to its end before it runs any of it: an item with a syntax error cannot confuse the rest.
    # The blank keeps an item that begins with a dash from being an option of eval.
    return "{ " + _NEXT.join(f"eval {shlex.quote(f' {item}')}" for item in items) + "\n}"
