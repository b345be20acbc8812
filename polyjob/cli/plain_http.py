"""Short requests to this machine's own server, without `requests`: its import takes longer than most commands."""

from __future__ import annotations

import contextlib
import http.client
import json
import re
import select
import socket
import threading
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlencode, urlsplit

_URL = re.compile(r"http://[!-~]+")
_OPTIONS = frozenset({"params", "json", "headers"})


class NotSent(Exception):
    """The request was not sent, because it needs more than this module can do, or because no server answers."""


class PlainResponse:
    """A complete response, with those members of a `requests.Response` that commands use."""

    def __init__(self, url: str, response: http.client.HTTPResponse) -> None:
        self.url = url
        self.status_code = response.status
        self.reason = response.reason
        self.headers = response.headers
        self.content = response.read()

    def json(self) -> Any:
        """Return the document in the body. Raises ValueError."""
        return json.loads(self.content)


class PlainConnection:
    """A connection to this machine's server, which stays open between requests. Serves one thread at a time."""

    def __init__(
        self, headers: Mapping[str, str], timeouts: tuple[float, float], socket_options: list[tuple[int, int, int]]
    ) -> None:
        """`timeouts` are the seconds to connect, and to wait for data."""
        self._headers = headers
        self._timeouts = timeouts
        self._socket_options = socket_options
        self._lock = threading.Lock()
        self._connection: http.client.HTTPConnection | None = None
        self._address: tuple[str, int] | None = None

    def request(self, method: str, url: str, **options: Any) -> PlainResponse:
        """Return the response to a request with the options `params`, `json` and `headers` of `requests`.

        Raises NotSent, OSError, and HTTPException if the connection broke after the request was sent.
        """
        if not options.keys() <= _OPTIONS or not _URL.fullmatch(url) or not self._lock.acquire(blocking=False):
            raise NotSent
        try:
            return self._request(method, url, **options)
        finally:
            self._lock.release()

    def _request(self, method: str, url: str, **options: Any) -> PlainResponse:
        headers = {**self._headers, **options.get("headers", {})}
        body = None
        if "json" in options:
            with _as_not_sent(ValueError):
                body = json.dumps(options["json"], allow_nan=False).encode()
            headers["Content-Type"] = "application/json"
        with _as_not_sent(ValueError):
            address = urlsplit(url)
            parameters = [(name, value) for name, value in options.get("params", {}).items() if value is not None]
            query = "&".join(filter(None, [address.query, urlencode(parameters, doseq=True)]))
            connection = self._connect(address.hostname or "", address.port or 80)
        target = (address.path or "/") + (f"?{query}" if query else "")
        try:
            connection.request(method, target, body, headers)
            return PlainResponse(url, connection.getresponse())
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Close the connection. The next request opens another one."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _connect(self, host: str, port: int) -> http.client.HTTPConnection:
        if self._address != (host, port) or self._has_ended():
            self.close()
        if self._connection is None:
            connection = http.client.HTTPConnection(host, port, timeout=self._timeouts[0])
            with _as_not_sent(OSError):
                connection.connect()
            for option in self._socket_options:
                connection.sock.setsockopt(*option)
            connection.sock.settimeout(self._timeouts[1])
            self._connection, self._address = connection, (host, port)
        return self._connection

    def _has_ended(self) -> bool:
        """Return whether the server has closed the connection, as it does when no request comes for a while."""
        connection: socket.socket | None = self._connection.sock if self._connection else None
        if connection is None:
            return True
        poll = select.poll()
        poll.register(connection, select.POLLIN)
        return bool(poll.poll(0))


@contextlib.contextmanager
def _as_not_sent(kind: type[Exception]) -> Any:
    try:
        yield
    except kind as error:
        raise NotSent from error
