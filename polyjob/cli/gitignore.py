"""Ignore files with the rules of git: gitignore(5), and the matching of git's wildmatch.

A pattern is compared with one entry and never with the folders above it, because git does not look into an ignored
folder at all. Libraries that match a complete path let a pattern on a folder decide about everything below it, so that
`!src/` brings back ignored files.

Like git, patterns match bytes: `?` is one byte, so it does not match `é`. Here each byte is one letter (Latin-1).
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from typing import Self

_CLASSES = {
    "alnum": "0-9A-Za-z", "alpha": "A-Za-z", "blank": " \\t", "cntrl": "\\x00-\\x1f\\x7f", "digit": "0-9",
    "graph": "\\x21-\\x7e", "lower": "a-z", "print": "\\x20-\\x7e",
    "punct": "\\x21-\\x2f\\x3a-\\x40\\x5b-\\x60\\x7b-\\x7e", "space": "\\s", "upper": "A-Z", "xdigit": "0-9A-Fa-f",
}  # fmt: skip


@dataclass(frozen=True)
class Pattern:
    """One line of an ignore file."""

    regex: re.Pattern[str]
    is_negated: bool
    only_folders: bool
    has_path: bool
    """The pattern has a slash before its end, so it is compared with the path below its file, not only the name."""

    @classmethod
    def parse(cls, line: str) -> Self | None:
        """Return the pattern of a line, or None for a comment, an empty line, or a line that can never match."""
        line = re.sub(r"(?<!\\)((?:\\\\)*) +\Z", r"\1", line)
        if not line or line.startswith("#"):
            return None
        is_negated = line.startswith("!")
        text = line[1:] if is_negated else line
        only_folders = text.endswith("/")
        text = text[:-1] if only_folders else text
        has_path = "/" in text
        regex = _translate(text.removeprefix("/"), has_path)
        return (
            None
            if regex is None or not text
            else cls(re.compile(regex, re.ASCII | re.DOTALL), is_negated, only_folders, has_path)
        )

    def matches(self, path: str, is_folder: bool) -> bool:
        """Return whether the entry at `path` (below the ignore file's folder) itself matches."""
        if self.only_folders and not is_folder:
            return False
        return bool(self.regex.fullmatch(path if self.has_path else path.rpartition("/")[2]))


class IgnoreFile:
    """The patterns of one `.gitignore`, for its folder and everything below."""

    def __init__(self, data: bytes) -> None:
        text = data.removeprefix(b"\xef\xbb\xbf").decode("latin-1")
        lines = (line.removesuffix("\r") for line in text.split("\n"))
        self._patterns = [pattern for line in lines if (pattern := Pattern.parse(line))]

    def verdict(self, path: str, is_folder: bool) -> bool | None:
        """Return True if the entry is ignored, False if it is explicitly kept, None if the file does not name it.

        The last pattern that matches decides.
        """
        path = os.fsencode(path).decode("latin-1")
        for pattern in reversed(self._patterns):
            if pattern.matches(path, is_folder):
                return not pattern.is_negated
        return None


def _translate(text: str, has_path: bool) -> str | None:
    """Return the regular expression of a pattern, or None for one that matches nothing (an unclosed bracket)."""
    parts, at = [], 0
    any_letter, any_run = ("[^/]", "[^/]*") if has_path else (".", ".*")
    while at < len(text):
        letter = text[at]
        if letter == "*":
            end = at + len(text[at:]) - len(text[at:].lstrip("*"))
            is_folders = (
                has_path and end - at == 2 and text[at - 1 : at] in ("", "/") and text[end : end + 1] in ("", "/")
            )
            if is_folders and end < len(text):
                parts.append("(?:.*/)?")
                end += 1
            else:
                parts.append(".*" if is_folders else any_run)
            at = end
        elif letter == "?":
            parts.append(any_letter)
            at += 1
        elif letter == "[":
            bracket = _bracket(text, at + 1)
            if bracket is None:
                return None
            expression, at = bracket
            parts.append(f"(?!/){expression}" if has_path else expression)
        elif letter == "\\":
            if at + 1 == len(text):
                return None
            parts.append(re.escape(text[at + 1]))
            at += 2
        else:
            parts.append(re.escape(letter))
            at += 1
    return "".join(parts)


def _bracket(text: str, at: int) -> tuple[str, int] | None:
    """Return the regular expression of a bracket that begins before `at`, and the index after it; None if unclosed."""
    is_negated = text[at : at + 1] in ("!", "^")
    at += is_negated
    items: list[str] = []
    first = at
    while at < len(text) and (text[at] != "]" or at == first):
        if text.startswith("[:", at) and (close := text.find(":]", at)) > 0:
            if text[at + 2 : close] not in _CLASSES:
                return None
            items.append(_CLASSES[text[at + 2 : close]])
            at = close + 2
            continue
        low, at = _letter(text, at)
        if text.startswith("-", at) and text[at + 1 : at + 2] not in ("", "]"):
            high, at = _letter(text, at + 1)
            items.append(f"{re.escape(low)}-{re.escape(high)}" if low <= high else "")
        else:
            items.append(re.escape(low))
    if at >= len(text):
        return None
    inner = "".join(items)
    if not inner:
        return ("." if is_negated else r"(?!)"), at + 1
    return f"[{'^' if is_negated else ''}{inner}]", at + 1


def _letter(text: str, at: int) -> tuple[str, int]:
    """Return the letter at an index of a bracket, and the index after it. A backslash escapes the next letter."""
    if text[at] == "\\" and at + 1 < len(text):
        return text[at + 1], at + 2
    return text[at], at + 1
