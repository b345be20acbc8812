"""Logs over WebSocket, for old clients. Each message is a JSON object with `log_lines`.

* `{"status": "running", "log_lines": []}` for each status: the present one first, the terminal one last.
* `{"log_lines": ["…"]}` for lines, which are sent when they are complete.

The server closes the connection when the run is over or deleted (code 1000), when it shuts down (1001), and when the
client may no longer read the run (1008).
"""

from __future__ import annotations

import codecs
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flask import Response, request

from polyjob.api.blueprint import Blueprint
from polyjob.api.params import ParamReader
from polyjob.api.path_prefixes import BUILD, JOB
from polyjob.api.paths import UPGRADE
from polyjob.api.problems import problem_response
from polyjob.api.request_context import find_build, find_job, store
from polyjob.api.run_events import follow_run
from polyjob.auth.permissions import Access, requires
from polyjob.db.models import Build, Job
from polyjob.logs.follow import (
    AccessRevoked,
    FollowInterrupted,
    LogChunk,
    RunDeleted,
    RunEvent,
    RunEvents,
    StatusChange,
)

if TYPE_CHECKING:
    from polyjob.api.websocket import WebSocket

PING_SECONDS = 30.0
"""Time without an event after which the server sends a ping."""
MESSAGE_CHARACTERS = 10_000
"""Characters of lines in one message. A message must stay below 64 KiB, and a character takes up to 6 bytes as JSON."""
PREFIXES = ("/ws/v1", "/v1")
"""Path prefixes that clients before 0.5.3 of the documented API use, besides `/api/v1/…/logs/stream`."""
SINCE = {
    "name": "since_line",
    "in": "query",
    "description": "Skip this many lines at the beginning.",
    "schema": {"type": "integer", "minimum": 0, "default": 0},
}
_RESPONSES = {
    101: {"description": "The connection switches to WebSocket."},
    400: "BAD_REQUEST",
    426: {"description": "The request is not a WebSocket handshake."},
}

blp = Blueprint("streams", __name__, description="Logs over WebSocket, for old clients.")

OLD_PATHS = {
    f"{prefix}{run}/logs": operation
    for prefix in PREFIXES
    for run, operation in ((JOB, "streams.stream_job_log"), (BUILD, "streams.stream_build_log"))
}
"""Other paths of the streams, and their operations, which have the same permissions."""


@blp.get(f"{JOB}/logs/stream")
@blp.doc(parameters=[SINCE], responses=_RESPONSES)
@requires(Access.READ, job_token=True)
def stream_job_log(username: str, project_name: str, job_id: int) -> Response:
    """Follow a job's log over WebSocket"""
    job = find_job(username, project_name, job_id)
    return _stream(job, store().job_log(job.uuid))


@blp.get(f"{BUILD}/logs/stream")
@blp.doc(parameters=[SINCE], responses=_RESPONSES)
@requires(Access.READ)
def stream_build_log(username: str, project_name: str, build_id: int) -> Response:
    """Follow a build's log over WebSocket"""
    build = find_build(username, project_name, build_id)
    return _stream(build, store().build_log(build.uuid))


def is_handshake() -> bool:
    """Return whether the request is a WebSocket handshake for a view of this module."""
    return request.blueprint == blp.name and request.method == "GET" and request.environ.get(UPGRADE) == "websocket"


class _NoResponse(Response):
    """Stands for a response where the connection was used for WebSocket and is closed."""

    def __call__(self, environ: Any, start_response: Any) -> Any:
        raise StopIteration


def _stream(run: Job | Build, log: Path) -> Response:
    from polyjob.api.websocket import WebSocket, is_upgrade  # imports wsproto, which only old clients need

    skipped = _since_line()
    if not is_upgrade(request.environ):
        return problem_response(426, "This path streams logs over WebSocket only.", headers={"Upgrade": "websocket"})
    events = follow_run(run, log, 0, idle_after=PING_SECONDS)
    try:
        socket = WebSocket(request.environ, events.stop)
    except BaseException:
        events.close()
        raise
    _send_events(socket, events, skipped)
    return _NoResponse()


def _send_events(socket: WebSocket, events: RunEvents, skipped: int) -> None:
    from wsproto.frame_protocol import CloseReason

    from polyjob.api.websocket import ClientDisconnected

    reason = CloseReason.NORMAL_CLOSURE
    try:
        for message in messages(events, skipped):
            if message is None:
                socket.ping()
            else:
                socket.send(message)
    except (ClientDisconnected, RunDeleted):
        pass
    except AccessRevoked:
        reason = CloseReason.POLICY_VIOLATION
    except FollowInterrupted:
        reason = CloseReason.GOING_AWAY
    finally:
        events.close()
        socket.close(reason)


def messages(events: Iterable[RunEvent], skipped: int = 0) -> Iterator[str | None]:
    """Yield the messages for the events, without the first `skipped` lines. None stands for a ping."""
    text = codecs.getincrementaldecoder("utf-8")("replace")
    open_line = ""
    for event in events:
        if isinstance(event, LogChunk):
            *lines, open_line = (open_line + text.decode(event.data)).split("\n")
            skipped, lines = max(0, skipped - len(lines)), lines[skipped:]
            if len(open_line) > MESSAGE_CHARACTERS and not skipped:
                lines, open_line = [*lines, open_line], ""
            yield from _line_messages(lines)
        elif isinstance(event, StatusChange):
            if event.status.status.is_done:
                open_line += text.decode(b"", final=True)
                yield from _line_messages([open_line] if open_line and not skipped else [])
            yield json.dumps({"status": event.status.status, "log_lines": []})
        else:
            yield None


def _line_messages(lines: list[str]) -> Iterator[str]:
    """Yield messages with these lines. A line that is too long for one message is divided."""
    batch: list[str] = []
    size = 0
    for line in lines:
        for start in range(0, max(1, len(line)), MESSAGE_CHARACTERS):
            piece = line[start : start + MESSAGE_CHARACTERS]
            if batch and size + len(piece) > MESSAGE_CHARACTERS:
                yield json.dumps({"log_lines": batch}, ensure_ascii=False)
                batch, size = [], 0
            batch.append(piece)
            size += len(piece) + 8
    if batch:
        yield json.dumps({"log_lines": batch}, ensure_ascii=False)


def _since_line() -> int:
    reader = ParamReader(request.args)
    skipped = reader.number("since_line", 0)
    reader.check()
    return skipped
