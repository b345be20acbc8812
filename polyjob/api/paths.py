"""Paths as people write them: a final slash or none, doubled slashes and, in the API, a final `.json` all lead to the
same view, never elsewhere.

Done before routing, because a router's own answer to such paths is a redirect, which turns a POST into a GET.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Any

_SLASHES = re.compile("//+")


UPGRADE = "polyjob.upgrade"
"""What the request offers to speak instead of HTTP, in small letters. Hidden from the router, to which such a request
is another kind: it would answer by itself where a view has more to say."""


class PlainPaths:
    """WSGI middleware: one slash for several, and none at the end; an upgrade as `UPGRADE` alone."""

    def __init__(self, app: Callable[..., Iterable[bytes]]) -> None:
        self._app = app

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        environ["PATH_INFO"] = plain(environ.get("PATH_INFO", ""))
        environ[UPGRADE] = environ.pop("HTTP_UPGRADE", "").lower()
        return self._app(environ, start_response)


def plain(path: str) -> str:
    """The path is as WSGI has it, already decoded: `%2F` is a slash here, and no name has one."""
    path = _SLASHES.sub("/", path).rstrip("/") or "/"
    return path.removesuffix(".json") if path.startswith("/api/v1/") else path
