"""The socket that the server listens on."""

from __future__ import annotations

import errno
import socket
import time
from typing import Any

from polyjob.settings import Settings

BACKLOG = 2048
PORT_PATIENCE_SECONDS = 5.0
"""Time for which processes of a killed server may still hold the port."""
_ADVICE = {
    errno.EADDRINUSE: "the port is taken; choose another one with --port",
    errno.EACCES: "the port needs root; choose one above 1023 with --port",
    errno.EADDRNOTAVAIL: "this machine does not have that address; choose another one with --host",
}


class CannotListen(Exception):
    """The server cannot listen on its address. The text says why and what to do."""


def listen(settings: Settings) -> socket.socket:
    """Return a listening socket for the host and port of the settings. Waits a few seconds for a port that is taken.

    Raises CannotListen.
    """
    address = f"{settings.host or '*'}:{settings.port}"
    try:
        candidates = socket.getaddrinfo(
            settings.host or None, settings.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
        family, kind, protocol, _, socket_address = candidates[0]
        listener = socket.socket(family, kind, protocol)
    except OSError as error:
        raise CannotListen(f"cannot listen on {address}: {error.strerror}") from error
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        _bind(listener, socket_address)
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        reason = _ADVICE.get(error.errno or 0, error.strerror)
        raise CannotListen(f"cannot listen on {address}: {reason}") from error
    return listener


def _bind(listener: socket.socket, socket_address: Any) -> None:
    deadline = time.monotonic() + PORT_PATIENCE_SECONDS
    while True:
        try:
            return listener.bind(socket_address)
        except OSError as error:
            if error.errno != errno.EADDRINUSE or time.monotonic() > deadline:
                raise
            time.sleep(0.1)
