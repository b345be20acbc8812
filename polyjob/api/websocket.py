"""A WebSocket on the connection of a request.

gunicorn's threaded worker passes the socket to the application. wsproto implements the protocol. This module adds the
socket, a thread that reads from the client, and the lock between that thread and the sender.
"""

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

CLOSE_SECONDS = 2.0
"""Time that a client has to answer the closing frame."""


class ClientDisconnected(Exception):
    """The client closed the connection."""


class WebSocket:
    """Sends texts, and answers pings and the client's closing frame in a thread of its own.

    That thread calls `on_disconnect` once, when the client is disconnected.
    """

    def __init__(self, environ: dict[str, Any], on_disconnect: Callable[[], None]) -> None:
        """Accept the handshake of the request. Raises Invalid for a malformed one."""
        self._socket: socket.socket = environ["gunicorn.socket"]
        self._on_disconnect = on_disconnect
        self._lock = threading.Lock()
        self._is_open = True
        self._connection = WSConnection(ConnectionType.SERVER)
        try:
            self._connection.receive_data(_handshake_bytes(environ))
            if not any(isinstance(event, Request) for event in self._connection.events()):
                raise RemoteProtocolError("the request is incomplete")
        except RemoteProtocolError as error:
            raise Invalid([Problem("", f"Invalid WebSocket handshake: {error}.")]) from None
        self._send(AcceptConnection())
        self._reader = threading.Thread(target=self._read, name="polyjob-websocket", daemon=True)
        self._reader.start()

    def send(self, text: str) -> None:
        """Send a text message. Blocks while the client does not read. Raises ClientDisconnected."""
        self._send(TextMessage(data=text))

    def ping(self) -> None:
        """Send a ping. Raises ClientDisconnected."""
        self._send(Ping())

    def close(self, reason: CloseReason) -> None:
        """Send a closing frame, wait up to `CLOSE_SECONDS` for the client's own, and close. Idempotent."""
        with contextlib.suppress(ClientDisconnected):
            self._send(CloseConnection(code=reason))
            self._reader.join(CLOSE_SECONDS)
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
            self._on_disconnect()


def is_upgrade(environ: dict[str, Any]) -> bool:
    """Return whether the request asks for WebSocket. Raises Unavailable on a server that does not pass its sockets."""
    if environ[UPGRADE] != "websocket":
        return False
    if "gunicorn.socket" not in environ:
        raise Unavailable("This server does not support WebSocket.")
    return True


def _handshake_bytes(environ: dict[str, Any]) -> bytes:
    """Return the request of the handshake, rebuilt from the environment, as wsproto needs it."""
    names = ("Host", "Connection", "Sec-WebSocket-Key", "Sec-WebSocket-Version")
    lines = [f"{name}: {environ.get('HTTP_' + name.upper().replace('-', '_'), '')}" for name in names]
    return ("\r\n".join(["GET / HTTP/1.1", f"Upgrade: {environ[UPGRADE]}", *lines]) + "\r\n\r\n").encode("latin-1")
