"""Commands in containers, where the other side is the first to end."""

from __future__ import annotations

import socket
from typing import Any

import pytest
import websocket

from runners.base import RunnerUnavailable
from runners.kubernetes.exec import run


class Connected:
    """An API server whose every command is at the other end of a socket."""

    def __init__(self, sock: socket.socket) -> None:
        self.line: Any = websocket.WebSocket()
        self.line.sock, self.line.connected = sock, True

    def connect(self, *_: Any) -> Any:
        return self.line


def test_a_connection_that_the_server_closes_first_is_not_left_open() -> None:
    here, there = socket.socketpair()
    with here, there:
        api: Any = Connected(here)
        there.sendall(b"\x88\x02\x03\xe8")  # a close frame, and no status before it
        with pytest.raises(RunnerUnavailable, match="ended before the command did"):
            run(api, "pod", "job", ["true"], 5.0)
        assert here.fileno() == -1
