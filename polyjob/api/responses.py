"""Responses, as the application passes them to the WSGI server."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import flask

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment

_STATUSES_WITHOUT_BODY = frozenset({204, 304})
_REWRITTEN_HEADERS = frozenset({"location", "content-location"})


class Response(flask.Response):
    """A response. A complete body and its headers are passed to the WSGI server as they are.

    werkzeug does the same, but copies the headers and wraps the body several times. It still sends all other responses:
    streams, files, redirects, and those without a body.
    """

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        if not self._is_complete() or environ["REQUEST_METHOD"] == "HEAD":
            return super().__call__(environ, start_response)
        start_response(self.status, self.headers.to_wsgi_list())
        body: list[bytes] = self.response  # type: ignore[assignment]
        return body

    def _is_complete(self) -> bool:
        """Return whether werkzeug would change neither body nor headers."""
        body: Any = self.response
        if type(body) is not list or len(body) != 1 or type(body[0]) is not bytes:
            return False
        if self._on_close or self.status_code < 200 or self.status_code in _STATUSES_WITHOUT_BODY:
            return False
        names = {name.lower() for name, _ in self.headers}
        return "content-length" in names and names.isdisjoint(_REWRITTEN_HEADERS)
