"""Connections of the API server: complete responses, streams in chunks, and cutting them."""

from __future__ import annotations

import contextlib
import json
import socket
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

from tests.simulators.kubernetes.answers import RequestRefused
from tests.simulators.kubernetes.faults import HangUp

if TYPE_CHECKING:
    from tests.simulators.kubernetes.cluster import Cluster


class Listener(ThreadingHTTPServer):
    """A listener that can cut its connections."""

    daemon_threads = True
    block_on_close = False
    allow_reuse_address = True
    request_queue_size = 256

    def __init__(self, port: int, cluster: Cluster, handler: type[Answering]) -> None:
        self.cluster = cluster
        self.connections: set[socket.socket] = set()
        self.lock = threading.Lock()
        super().__init__(("127.0.0.1", port), handler)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Ignore broken connections. Keep all other errors: they are defects of the simulator."""
        error = sys.exception()
        if not isinstance(error, OSError | HangUp):
            self.cluster.defects.append(error)
            super().handle_error(request, client_address)

    def cut(self) -> None:
        with self.lock:
            connections = list(self.connections)
        for connection in connections:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)


class Answering(BaseHTTPRequestHandler):
    """One connection, with methods to answer its requests."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = 1 << 16
    server: Listener
    query: dict[str, str]
    """The parameters of the current request. The last value of a repeated parameter counts."""
    is_streaming = False

    @property
    def cluster(self) -> Cluster:
        return self.server.cluster

    def setup(self) -> None:
        super().setup()
        with self.server.lock:
            self.server.connections.add(self.connection)

    def finish(self) -> None:
        with self.server.lock:
            self.server.connections.discard(self.connection)
        with contextlib.suppress(OSError):
            super().finish()

    def log_message(self, format: str, *arguments: Any) -> None:
        pass

    def _send(self, code: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(code)
        for key, value in {"Content-Type": "application/json", **(headers or {})}.items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _say(self, item: dict[str, Any], code: int = 200) -> None:
        self._send(code, json.dumps(item).encode())

    def _begin_stream(self, kind: str) -> None:
        self.is_streaming = True
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        self.wfile.flush()

    def _chunk(self, data: bytes) -> None:
        if data:
            self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))
            self.wfile.flush()

    def _end_stream(self) -> None:
        self.wfile.write(b"0\r\n\r\n")
        self.wfile.flush()

    def _is_closed(self) -> bool:
        """Return whether the client has closed the connection."""
        try:
            return self.connection.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT) == b""
        except BlockingIOError:
            return False


def read_json(body: bytes) -> Any:
    try:
        return json.loads(body or b"{}")
    except ValueError as error:
        raise RequestRefused(400, f"couldn't get version/kind; json parse error: {error}") from None
