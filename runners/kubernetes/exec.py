"""Commands in containers of a pod, run over WebSocket. Input and output pass in chunks."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import websocket

from runners.base import RunnerUnavailable
from runners.kubernetes.api import Api, ApiRefused

IN, OUT, ERR, STATUS = 0, 1, 2, 3
"""Channels; the first byte of each message is its channel."""
STDERR_BYTES = 2000
"""Bytes of a command's standard error that are kept, the last ones."""
MESSAGE_BYTES = 1 << 15
UNREACHABLE_TEXTS = ("error dialing backend", "error sending request", "dial tcp")
"""Texts in the API server's answer if it cannot reach a kubelet. Its status does not tell: it has many causes."""


class CommandNotRun(Exception):
    """The command could not be run, for example because the container does not run or has no shell."""


class CommandFailed(Exception):
    """The command ended with an exit code other than 0. The text is its standard error."""

    def __init__(self, code: int, stderr: str) -> None:
        super().__init__(stderr or f"exit code {code}")
        self.code = code


def run(api: Api, pod: str, container: str, command: Sequence[str], seconds: float) -> bytes:
    """Run a command and return its output, which has to be small. Raises as `stream`."""
    return b"".join(stream(api, pod, container, command, seconds))


def stream(
    api: Api,
    pod: str,
    container: str,
    command: Sequence[str],
    seconds: float,
    stdin: Iterable[bytes] | None = None,
) -> Iterator[bytes]:
    """Run a command and yield its output as it arrives. `seconds` is the time limit for each message.

    The command does not see the end of `stdin`, so it has to know its size. If the iterator ends without an error, the
    output is complete. Raises CommandNotRun, CommandFailed, ApiRefused (404), RunnerUnavailable.
    """
    try:
        connection = api.connect(pod, container, command, stdin is not None)
    except ApiRefused as error:
        if error.status in (400, 500):
            raise _not_run(str(error)) from None
        raise
    stderr = b""
    try:
        connection.settimeout(seconds)
        _send(connection, stdin or ())
        for channel, data in _messages(connection):
            if channel == OUT and data:
                yield data
            elif channel == ERR:
                stderr = (stderr + data)[-STDERR_BYTES:]
            elif channel == STATUS:
                _check_status(json.loads(data), stderr.decode(errors="replace").strip())
                return
    except (websocket.WebSocketException, OSError, ValueError) as error:
        raise RunnerUnavailable(f"The connection to a command in {pod} is broken: {error}") from None
    finally:
        with contextlib.suppress(websocket.WebSocketException, OSError):
            connection.close(timeout=1)
        connection.shutdown()  # also if the other side closed first
    raise RunnerUnavailable(f"The connection to a command in {pod} ended before the command did.")


def _send(connection: Any, chunks: Iterable[bytes]) -> None:
    for chunk in chunks:
        for start in range(0, len(chunk), MESSAGE_BYTES):
            data = bytes([IN]) + chunk[start : start + MESSAGE_BYTES]
            connection.send(data, websocket.ABNF.OPCODE_BINARY)


def _messages(connection: Any) -> Iterator[tuple[int, bytes]]:
    """Yield each message as (channel, data) until the other side closes the connection."""
    while True:
        opcode, frame = connection.recv_data_frame(True)
        if opcode == websocket.ABNF.OPCODE_CLOSE:
            return
        if opcode in (websocket.ABNF.OPCODE_BINARY, websocket.ABNF.OPCODE_TEXT) and frame.data:
            yield frame.data[0], frame.data[1:]


def _not_run(message: str) -> CommandNotRun | RunnerUnavailable:
    """Return the error to raise. If the API server cannot reach the machine, nothing is known about the container."""
    if any(text in message for text in UNREACHABLE_TEXTS):
        return RunnerUnavailable(f"The machine of the pod does not answer: {message}")
    return CommandNotRun(message)


def _check_status(status: dict[str, Any], stderr: str) -> None:
    if status.get("status") == "Success":
        return
    causes = (status.get("details") or {}).get("causes") or []
    code = next((cause["message"] for cause in causes if cause.get("reason") == "ExitCode"), None)
    if code is None:
        raise _not_run(str(status.get("message") or stderr))
    raise CommandFailed(int(code), stderr)
