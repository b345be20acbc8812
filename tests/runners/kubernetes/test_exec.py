"""Commands in containers, if the server closes the connection first."""

from __future__ import annotations

import socket
from typing import Any

import pytest
import websocket

from runners.base import RunnerUnavailable
from runners.kubernetes.exec import run


class FakeApi:
    """An API server whose commands are at the other end of a socket."""

    def __init__(self, sock: socket.socket) -> None:
        self.connection: Any = websocket.WebSocket()
        self.connection.sock, self.connection.connected = sock, True

    def connect(self, *_: Any) -> Any:
        return self.connection


def test_connection_closed_by_the_server_is_closed_here() -> None:
    here, there = socket.socketpair()
    with here, there:
        api: Any = FakeApi(here)
        there.sendall(b"\x88\x02\x03\xe8")  # a close frame, and no status before it
        with pytest.raises(RunnerUnavailable, match="ended before the command did"):
            run(api, "pod", "job", ["true"], 5.0)
        assert here.fileno() == -1
