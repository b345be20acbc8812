"""Normalize paths: a final slash, doubled slashes and, in the API, a final `.json` make no difference.

This happens before routing. A router would redirect, and a redirect turns a POST into a GET.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Any

_SLASHES = re.compile("//+")

UPGRADE = "polyjob.upgrade"
"""Key of the WSGI environment: the protocol that the request offers in `Upgrade`, in lower case.

The header is hidden from the router. The router would refuse an upgrade by itself, with less information than a view.
"""


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
