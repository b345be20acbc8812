"""An HTTP client that costs much less than the server: raw sockets, prepared requests, and hardly any parsing."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

PIECE = 1 << 20
MAX_IDLE_SECONDS = 3.0
"""Time after which a connection is opened again, because the server closes one that is idle for five seconds."""


class Connection:
    """One kept-open connection, with at most one request at a time."""

    def __init__(self, port: int, timeout: float = 120.0) -> None:
        self._address = ("127.0.0.1", port)
        self._timeout = timeout
        self.sent_at = 0.0
        self._received = b""
        self._open()

    def _open(self) -> None:
        self.socket = socket.create_connection(self._address, self._timeout)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._used_at = time.perf_counter()

    def send(self, request: bytes) -> None:
        self._received = b""
        self.sent_at = time.perf_counter()
        if self.sent_at - self._used_at > MAX_IDLE_SECONDS:
            self.close()
            self._open()
        self.socket.sendall(request)

    def receive(self) -> bytes | None:
        """Read once. Return the response when it is complete, else None."""
        piece = self.socket.recv(1 << 16)
        if not piece:
            raise ConnectionError("the server closed the connection")
        self._received = data = self._received + piece if self._received else piece
        self._used_at = time.perf_counter()
        end = data.find(b"\r\n\r\n")
        return data if end >= 0 and len(data) >= end + 4 + content_length(data[:end]) else None

    def exchange(self, request: bytes) -> bytes:
        """Send a request and return its response."""
        self.send(request)
        while (response := self.receive()) is None:
            pass
        return response

    def download(self, request: bytes) -> int:
        """Send a request, and return the length of the body.

        The kernel discards the body (`MSG_TRUNC`), so that the figure is the speed of the server.
        """
        self.send(request)
        data = b""
        while (end := data.find(b"\r\n\r\n")) < 0:
            data += self._read(1 << 16)
        check(data)
        length = content_length(data[:end])
        remaining = length - (len(data) - end - 4)
        buffer = bytearray(PIECE)
        while remaining > 0:
            remaining -= self.socket.recv_into(buffer, min(PIECE, remaining), socket.MSG_TRUNC) or self._closed()
        return length

    def close(self) -> None:
        self.socket.close()

    def _read(self, size: int) -> bytes:
        return self.socket.recv(size) or bytes(self._closed())

    def _closed(self) -> int:
        raise ConnectionError("the server closed the connection")


class Client:
    """The API of a project, over one connection."""

    def __init__(self, port: int, token: str, project: str = "root/quick-start") -> None:
        self.connection = Connection(port)
        self.token = token
        self.jobs = f"/api/v1/{project}/jobs"

    def request(self, method: str, path: str = "", body: object = None) -> bytes:
        """Prepare a request for a path below the project's jobs."""
        return prepare(method, self.jobs + path, authorization(self.token), body)

    def call(self, method: str, path: str = "", body: object = None) -> Any:
        return parse(self.connection.exchange(self.request(method, path, body)))

    def submit(self, command: str, **sections: object) -> int:
        return int(self.call("POST", "", job(command, **sections))["id"])

    def await_status(self, number: int, status: str) -> None:
        """Poll a job until it has a status."""
        while self.call("GET", f"/{number}")["last_status"] != status:
            time.sleep(0.02)

    def wait(self, number: int) -> str:
        """Return the status of a job once it is terminal."""
        request = self.request("GET", f"/{number}?wait=30")
        while not (found := parse(self.connection.exchange(request)))["finished_at"]:
            pass
        return str(found["last_status"])

    def run(self, command: str, **sections: object) -> int:
        """Submit a job and return its id once it has succeeded."""
        number = self.submit(command, **sections)
        if (status := self.wait(number)) != "succeeded":
            raise RuntimeError(f"job {number} is {status}")
        return number

    def close(self) -> None:
        self.connection.close()


def job(command: str, **sections: object) -> dict[str, object]:
    """Return the body that submits a job."""
    return {"config": {"version": 1, "kind": "job", **sections, "run": {"cmd": command}}}


def prepare(method: str, path: str, headers: Mapping[str, str] = MappingProxyType({}), body: object = None) -> bytes:
    data = b"" if body is None else json.dumps(body).encode()
    complete = {
        "Host": "127.0.0.1",
        "Content-Type": "application/json",
        "Content-Length": str(len(data)),
        **headers,
    }
    lines = [f"{method} {path} HTTP/1.1", *(f"{name}: {value}" for name, value in complete.items()), "", ""]
    return "\r\n".join(lines).encode() + data


def authorization(token: str) -> dict[str, str]:
    return {"Authorization": f"token {token}"}


def content_length(head: bytes) -> int:
    if status_of(head) == 204:
        return 0
    name = head.lower().index(b"content-length:") + len(b"content-length:")
    return int(head[name:].split(b"\r", 1)[0])


def status_of(response: bytes) -> int:
    return int(response[9:12])


def check(response: bytes) -> None:
    if status_of(response) >= 300:
        raise RuntimeError(response.decode(errors="replace"))


def parse(response: bytes) -> Any:
    """Return the JSON of a successful response."""
    check(response)
    body = response.partition(b"\r\n\r\n")[2]
    return json.loads(body) if body else None
