"""Names of outputs in lists and paths: each name has a listed form in printable UTF-8, and no two share one."""

from __future__ import annotations

import re
import urllib.parse

_HEX_DIGITS = "(?:[0189A-F][0-9A-F]|7F|25)"
_UNPRINTABLE = re.compile(f"[\x00-\x1f\x7f\udc80-\udcff]|%(?={_HEX_DIGITS})")
_ESCAPED = re.compile(f"(?:%{_HEX_DIGITS})+")


def escape_name(name: str) -> str:
    """Return the listed form of a name. Different names have different listed forms.

    Control characters and bytes that are not UTF-8 become `%` and two hex digits. So does a `%` that is followed by two
    such digits in the name itself.
    """
    escaped = _UNPRINTABLE.sub(lambda match: f"%{match[0].encode('utf-8', 'surrogateescape')[0]:02X}", name)
    return escaped.encode("utf-8", "replace").decode()


def unescape_name(listed: str) -> str:
    """Return the name or path that `escape_name` lists as `listed`."""
    return _ESCAPED.sub(lambda match: urllib.parse.unquote(match[0], errors="surrogateescape"), listed)


def possible_paths(path: str) -> list[str]:
    """Return the paths that `path` may stand for. The first one that exists is meant.

    A path is taken as a listed one first, and then literally.
    """
    return list(dict.fromkeys([unescape_name(path), path]))
