"""Commands run in containers of a pod, over WebSocket: what goes in and comes out passes in pieces."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import websocket

from runners.base import RunnerUnavailable
from runners.kubernetes.api import Api, Refused

IN, OUT, ERR, STATUS = 0, 1, 2, 3
"""Channels: the first byte of each message."""
WORDS = 2000
"""Bytes of what a command says of its troubles that are kept."""
CHUNK = 1 << 15
MACHINE_AWAY = ("error dialing backend", "error sending request", "dial tcp")
"""What the API server says where it does not reach a kubelet; with a status that it gives for much else."""


class NotRun(Exception):
    """The command could not be run in the container: that is not running, say, or has no shell."""


class Failed(Exception):
    """The command ended with a code that is not 0, said in `code`; the text is what it wrote of that."""

    def __init__(self, code: int, said: str) -> None:
        super().__init__(said or f"exit code {code}")
        self.code = code


def run(api: Api, pod: str, container: str, command: Sequence[str], seconds: float) -> bytes:
    """What a command writes; for little. Raises NotRun, Failed, Refused (404), RunnerUnavailable."""
    return b"".join(stream(api, pod, container, command, seconds))


def stream(
    api: Api,
    pod: str,
    container: str,
    command: Sequence[str],
    seconds: float,
    given: Iterable[bytes] | None = None,
) -> Iterator[bytes]:
    """What a command writes, in pieces as they come; it reads `given`. Each message may take `seconds`.

    That input ends is not told to it: it has to know how much there is. Raises as `run`, also while pieces are read;
    one that ends without an error has been read to its end."""
    try:
        line = api.connect(pod, container, command, given is not None)
    except Refused as error:
        if error.status in (400, 500):
            raise _not_run(str(error)) from None
        raise
    said = b""
    try:
        line.settimeout(seconds)
        for piece in given or ():
            for start in range(0, len(piece), CHUNK):
                line.send(bytes([IN]) + piece[start : start + CHUNK], websocket.ABNF.OPCODE_BINARY)
        while True:
            code, frame = line.recv_data_frame(True)
            if code == websocket.ABNF.OPCODE_CLOSE:
                break
            data = frame.data if code in (websocket.ABNF.OPCODE_BINARY, websocket.ABNF.OPCODE_TEXT) else b""
            if not data:
                continue
            channel, data = data[0], data[1:]
            if channel == OUT and data:
                yield data
            elif channel == ERR:
                said = (said + data)[-WORDS:]
            elif channel == STATUS:
                _judge(json.loads(data), said.decode(errors="replace").strip())
                return
    except (websocket.WebSocketException, OSError, ValueError) as error:
        raise RunnerUnavailable(f"What runs in {pod} cannot be heard any more: {error}") from None
    finally:
        with contextlib.suppress(websocket.WebSocketException, OSError):
            line.close(timeout=1)
        line.shutdown()  # also where the other side said first that it is over
    raise RunnerUnavailable(f"The connection to {pod} ended before the command did.")


def _not_run(why: str) -> NotRun | RunnerUnavailable:
    """What to raise: nothing is known of a container whose machine does not answer the API server."""
    is_away = any(words in why for words in MACHINE_AWAY)
    return RunnerUnavailable(f"The machine of the pod does not answer: {why}") if is_away else NotRun(why)


def _judge(status: dict[str, Any], said: str) -> None:
    if status.get("status") == "Success":
        return
    causes = (status.get("details") or {}).get("causes") or []
    code = next((cause["message"] for cause in causes if cause.get("reason") == "ExitCode"), None)
    if code is None:
        raise _not_run(str(status.get("message") or said))
    raise Failed(int(code), said)
