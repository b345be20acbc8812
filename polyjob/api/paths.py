"""Prepare the path of a request before routing: the prefix of a proxy, and the normal form of the rest.

A final slash, doubled slashes and, in the API, a final `.json` make no difference. A router would redirect, and a
redirect turns a POST into a GET.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Any

from polyjob.auth.users import RESERVED_USERNAMES

_PREFIX = re.compile(r"(?:/(?!\.\.?(?:/|$))[-\w.~]+)+", re.ASCII)
_SLASHES = re.compile("//+")

UPGRADE = "polyjob.upgrade"
"""Key of the WSGI environment: the protocol that the request offers in `Upgrade`, in lower case.

The header is hidden from the router. The router would refuse an upgrade by itself, with less information than a view.
"""


class BelowPrefix:
    """WSGI middleware for a server that users reach below a path, such as `/jobs`.

    `SCRIPT_NAME` becomes the path of the public URL. Without a public URL, it stays what a trusted proxy or the WSGI
    server has set. One that is not a plain path is dropped: in a link, `//host` would lead to another server.
    """

    def __init__(self, app: Callable[..., Iterable[bytes]], public_path: str | None) -> None:
        self._app = app
        self._public_path = public_path
        first_segment = (public_path or "").split("/")[1:2]
        self._is_own_path = bool(RESERVED_USERNAMES.intersection(first_segment))

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        if self._public_path is None:
            prefix = environ.get("SCRIPT_NAME", "").rstrip("/")
            environ["SCRIPT_NAME"] = prefix if _PREFIX.fullmatch(prefix) else ""
        else:
            environ["SCRIPT_NAME"] = self._public_path
            environ["PATH_INFO"] = self._below(environ.get("PATH_INFO", ""))
        return self._app(environ, start_response)

    def _below(self, path: str) -> str:
        """Return the path without the prefix, which some proxies pass on, and browsers on this machine send."""
        if self._is_own_path or not f"{path}/".startswith(f"{self._public_path}/"):
            return path
        return path.removeprefix(self._public_path or "")


class NormalizePaths:
    """WSGI middleware that normalizes the path, and moves the `Upgrade` header to `UPGRADE`."""

    def __init__(self, app: Callable[..., Iterable[bytes]]) -> None:
        self._app = app

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        environ["PATH_INFO"] = normalize(environ.get("PATH_INFO", ""))
        environ[UPGRADE] = environ.pop("HTTP_UPGRADE", "").lower()
        return self._app(environ, start_response)


def normalize(path: str) -> str:
    """Return the normalized path. WSGI has decoded it already: a `%2F` is a slash here, but no name has one."""
    path = _SLASHES.sub("/", path).rstrip("/") or "/"
    return path.removesuffix(".json") if path.startswith("/api/v1/") else path
