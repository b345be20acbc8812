"""`pods/exec` over WebSocket: the channels of v4.channel.k8s.io and v5.channel.k8s.io, joined to a real process."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import threading
from typing import Any

from wsproto import ConnectionType, WSConnection
from wsproto.events import AcceptConnection, BytesMessage, CloseConnection, Ping, Request, TextMessage

from tests.simulators.kubernetes.containers import Container

V4, V5 = "v4.channel.k8s.io", "v5.channel.k8s.io"
STDIN, STDOUT, STDERR, ERROR, RESIZE, CLOSE = 0, 1, 2, 3, 4, 255
CHUNK_BYTES = 32 << 10


class Execution:
    """One command in a container, with the connection of its client."""

    def __init__(
        self, sock: socket.socket, container: Container | None, name: str, query: dict[str, list[str]], v5: bool
    ) -> None:
        self.sock = sock
        self.container = container
        self.name = name
        self.command = query.get("command", [])
        self.streams = {
            stream: query.get(stream, ["false"])[0].lower() in ("true", "1") for stream in ("stdin", "stdout", "stderr")
        }
        self.v5 = v5
        self.socket_lock = threading.Lock()
        self.is_cut = False
        self.cut_after: int | None = None
        """Number of bytes of standard output after which the connection breaks."""
        self.cut_after_input: int | None = None
        self.taken = 0
        self.sent = 0
        self.connection = WSConnection(ConnectionType.SERVER)

    def run(self, headers: list[tuple[bytes, bytes]], path: str) -> None:
        """Serve the connection after its request was read. Blocks until the command has ended."""
        self.connection.initiate_upgrade_connection(headers, path)
        for event in self.connection.events():
            if isinstance(event, Request):
                self._send(AcceptConnection(subprotocol=V5 if self.v5 else V4))
        first = STDOUT if self.streams["stdout"] else STDERR if self.streams["stderr"] else ERROR
        self._write(first, b"")
        if self.container is None or not self.container.is_running:
            self._finish(_failure(500, f'container not found ("{self.name}")', "InternalError"))
            return
        self._play(self.container)

    def _play(self, container: Container) -> None:
        pipes = [os.pipe() for _ in range(3)]
        try:
            process, complaint = container.join(self.command, (pipes[0][0], pipes[1][1], pipes[2][1]))
        finally:
            for end in (pipes[0][0], pipes[1][1], pipes[2][1]):
                os.close(end)
        inward = os.fdopen(pipes[0][1], "wb", buffering=0)
        if not self.streams["stdin"]:
            inward.close()
        pumps = [
            threading.Thread(target=self._pump, args=(pipe[0], channel, self.streams[stream]), daemon=True)
            for pipe, channel, stream in ((pipes[1], STDOUT, "stdout"), (pipes[2], STDERR, "stderr"))
        ]
        for pump in pumps:
            pump.start()
        listener = threading.Thread(target=self._listen, args=(inward,), daemon=True)
        listener.start()
        for pump in pumps:
            pump.join()
        code = process.wait()
        error_text = complaint.read_text() if complaint.exists() else ""
        if error_text:
            self._finish(_failure(500, _exec_error(container, error_text), "InternalError"))
        elif code == 0:
            self._finish({"metadata": {}, "status": "Success"})
        else:
            self._finish(_exit_status(self.command, code))
        listener.join(5)

    def _pump(self, pipe: int, channel: int, is_requested: bool) -> None:
        """Copy the command's output to the client, or discard it once the client has disconnected.

        The command goes on without a client.
        """
        with os.fdopen(pipe, "rb", buffering=0) as stream:
            while data := stream.read(CHUNK_BYTES):
                if is_requested and not self.is_cut:
                    self._write(channel, data)

    def _listen(self, inward: Any) -> None:
        """Copy input from the client to the command, until the client closes the connection or its input."""
        try:
            while not self.is_cut:
                for event in list(self.connection.events()):
                    if isinstance(event, BytesMessage | TextMessage):
                        self._take(event, inward)
                    elif isinstance(event, Ping):
                        self._send(event.response())
                    elif isinstance(event, CloseConnection):
                        self._send(event.response())
                        return
                data = self.sock.recv(1 << 16)
                if not data:
                    return
                with self.socket_lock:
                    self.connection.receive_data(data)
        except OSError:
            return
        finally:
            self.is_cut = True
            if not inward.closed:
                inward.close()

    _rest: int | None = None
    """Return the channel of a message that is incomplete."""

    def _take(self, event: BytesMessage | TextMessage, inward: Any) -> None:
        data = event.data.encode() if isinstance(event.data, str) else bytes(event.data)
        if self._rest is None:
            if not data:
                return
            channel, data = data[0], data[1:]
        else:
            channel = self._rest
        self._rest = None if event.message_finished else channel
        if channel == CLOSE and self.v5:
            if data[:1] == b"\x00" and not inward.closed:
                inward.close()
        elif channel == STDIN and not inward.closed:
            if self.cut_after_input is not None:
                data = data[: self.cut_after_input - self.taken]
            self.taken += len(data)
            try:
                while data:
                    data = data[inward.write(data) :]
            except BrokenPipeError:
                inward.close()
            if self.taken == self.cut_after_input:
                self.cut()

    def _write(self, channel: int, data: bytes) -> None:
        if self.cut_after is not None and channel == STDOUT:
            data = data[: self.cut_after - self.sent]
            self.sent += len(data)
        self._send(BytesMessage(data=bytes([channel]) + data))
        if self.cut_after is not None and self.sent >= self.cut_after:
            self.cut()

    def _send(self, event: Any) -> None:
        try:
            with self.socket_lock:
                data = self.connection.send(event)
                self.sock.sendall(data)
        except Exception:  # the client has closed the connection
            self.is_cut = True

    def _finish(self, status: dict[str, Any]) -> None:
        self._write(ERROR, json.dumps(status).encode())
        self._send(CloseConnection(code=1000))

    def cut(self) -> None:
        """Break the connection at once."""
        self.is_cut = True
        with contextlib.suppress(OSError):
            self.sock.shutdown(socket.SHUT_RDWR)


def _failure(code: int, message: str, reason: str) -> dict[str, Any]:
    return {"metadata": {}, "status": "Failure", "message": message, "reason": reason, "code": code}


def _exit_status(command: list[str], code: int) -> dict[str, Any]:
    text = f"error executing command [{' '.join(command)}], exit code {code}"
    return {
        "metadata": {},
        "status": "Failure",
        "message": f"command terminated with non-zero exit code: {text}",
        "reason": "NonZeroExitCode",
        "details": {"causes": [{"reason": "ExitCode", "message": str(code)}]},
    }


def _exec_error(container: Container, error_text: str) -> str:
    return (
        "Internal error occurred: error executing command in container: failed to exec in container: failed to start "
        f'exec "{container.id.removeprefix("containerd://")}": OCI runtime exec failed: exec failed: unable to start '
        f"container process: {error_text}: unknown"
    )
