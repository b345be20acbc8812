"""One WebSocket on the connection of a request, which gunicorn's threads hand over as it is. wsproto speaks the
protocol; here are the socket, the thread that reads what the client sends, and the lock between the two."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable
from typing import Any

from wsproto import ConnectionType, WSConnection
from wsproto.events import AcceptConnection, CloseConnection, Event, Ping, Request, TextMessage
from wsproto.frame_protocol import CloseReason
from wsproto.utilities import LocalProtocolError, RemoteProtocolError

from polyjob.api.paths import UPGRADE
from polyjob.errors import Invalid, Problem, Unavailable

GOODBYE = 2.0
"""Seconds that a client has to answer that the connection is closed."""


class ClientDisconnected(Exception):
    """The client is there no more."""


class WebSocket:
    """Sends texts; answers pings and the client's own goodbye in a thread. `on_gone` is called once, from there."""

    def __init__(self, environ: dict[str, Any], on_gone: Callable[[], None]) -> None:
        """Accepts the request's offer to speak WebSocket. Raises Invalid where the offer is not good."""
        self._socket: socket.socket = environ["gunicorn.socket"]
        self._on_gone = on_gone
        self._lock = threading.Lock()
        self._is_open = True
        self._connection = WSConnection(ConnectionType.SERVER)
        try:
            self._connection.receive_data(_request_as_sent(environ))
            if not any(isinstance(event, Request) for event in self._connection.events()):
                raise RemoteProtocolError("the request is not whole")
        except RemoteProtocolError as error:
            raise Invalid([Problem("", f"This is no WebSocket handshake: {error}.")]) from None
        self._send(AcceptConnection())
        self._reader = threading.Thread(target=self._read, name="polyjob-websocket", daemon=True)
        self._reader.start()

    def send(self, text: str) -> None:
        """Blocks while the client takes no more. Raises ClientDisconnected."""
        self._send(TextMessage(data=text))

    def ping(self) -> None:
        """Raises ClientDisconnected."""
        self._send(Ping())

    def close(self, reason: CloseReason) -> None:
        """Say goodbye and why, and give the client a moment to say it, too. Idempotent."""
        with contextlib.suppress(ClientDisconnected):
            self._send(CloseConnection(code=reason))
            self._reader.join(GOODBYE)
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)

    def _send(self, event: Event) -> None:
        try:
            with self._lock:
                if not self._is_open:
                    raise ClientDisconnected
                self._socket.sendall(self._connection.send(event))
        except (OSError, LocalProtocolError):
            raise ClientDisconnected from None

    def _read(self) -> None:
        try:
            while self._is_open:
                data = self._socket.recv(4096)
                with self._lock:
                    self._connection.receive_data(data or None)
                    for event in self._connection.events():
                        if isinstance(event, Ping):
                            self._socket.sendall(self._connection.send(event.response()))
                        elif isinstance(event, CloseConnection):
                            self._is_open = False
                            with contextlib.suppress(LocalProtocolError):
                                self._socket.sendall(self._connection.send(event.response()))
        except (OSError, RemoteProtocolError, LocalProtocolError):
            pass
        finally:
            self._is_open = False
            self._on_gone()


def offers(environ: dict[str, Any]) -> bool:
    """Whether the request offers to speak WebSocket. Raises Unavailable on a server that cannot hand over."""
    if environ[UPGRADE] != "websocket":
        return False
    if "gunicorn.socket" not in environ:
        raise Unavailable("This server speaks no WebSocket.")
    return True


def _request_as_sent(environ: dict[str, Any]) -> bytes:
    """The lines of the handshake, which were parsed before we were asked."""
    names = ("Host", "Connection", "Sec-WebSocket-Key", "Sec-WebSocket-Version")
    lines = [f"{name}: {environ.get('HTTP_' + name.upper().replace('-', '_'), '')}" for name in names]
    return ("\r\n".join(["GET / HTTP/1.1", f"Upgrade: {environ[UPGRADE]}", *lines]) + "\r\n\r\n").encode("latin-1")
