"""Logs over WebSocket, as old clients ask for them: JSON messages that all have `log_lines`.

`{"status": "running", "log_lines": []}` for each status, the present one first and the terminal one last;
`{"log_lines": ["…"]}` for lines, which are sent once they are whole. The server closes when the run is over
or deleted (1000), when it shuts down itself (1001), and when whoever listens may no longer see the run (1008).
"""

from __future__ import annotations

import codecs
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from flask import Response, request
from wsproto.frame_protocol import CloseReason

from polyjob.api.blueprint import Blueprint
from polyjob.api.params import ParamReader
from polyjob.api.paths import UPGRADE
from polyjob.api.problems import problem_response
from polyjob.api.request_context import find_project, store
from polyjob.api.routes import BUILD, JOB
from polyjob.api.run_events import follow_run
from polyjob.api.websocket import ClientDisconnected, WebSocket, offers
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
from polyjob.services import builds, jobs

PATIENCE = 30.0
"""Seconds of silence after which the client is pinged."""
FRAME = 10_000
"""Characters of lines in one message. As JSON each takes 6 bytes at most, and a message must stay below 64 KiB."""
PREFIXES = ("/ws/v1", "/v1")
"""Where clients before 0.5.3 of the documented API look, beside `/api/v1/…/logs/stream`."""
SINCE = {
    "name": "since_line",
    "in": "query",
    "description": "Leave out the first so many lines.",
    "schema": {"type": "integer", "minimum": 0, "default": 0},
}
_SPOKEN = {
    101: {"description": "The connection speaks WebSocket now."},
    400: "BAD_REQUEST",
    426: {"description": "The request does not offer to speak WebSocket."},
}

blp = Blueprint("streams", __name__, description="Logs over WebSocket, for old clients.")

OLD_PATHS = {
    f"{prefix}{run}/logs": operation
    for prefix in PREFIXES
    for run, operation in ((JOB, "streams.stream_job_log"), (BUILD, "streams.stream_build_log"))
}
"""Other path of a stream → its operation. The same operation has the same permissions."""


@blp.get(f"{JOB}/logs/stream")
@blp.doc(parameters=[SINCE], responses=_SPOKEN)
@requires(Access.READ, job_token=True)
def stream_job_log(username: str, project_name: str, job_id: int) -> Response:
    """Follow a job's log over WebSocket"""
    job = jobs.find(find_project(username, project_name), job_id)
    return _stream(job, store().job_log(job.uuid))


@blp.get(f"{BUILD}/logs/stream")
@blp.doc(parameters=[SINCE], responses=_SPOKEN)
@requires(Access.READ)
def stream_build_log(username: str, project_name: str, build_id: int) -> Response:
    """Follow a build's log over WebSocket"""
    build = builds.find(find_project(username, project_name), build_id)
    return _stream(build, store().build_log(build.uuid))


def is_handshake() -> bool:
    """Whether the request offers to speak WebSocket to a view of this module."""
    return request.blueprint == blp.name and request.method == "GET" and request.environ.get(UPGRADE) == "websocket"


class _Spoken(Response):
    """Nothing is left to be answered: the connection was spoken on, and is closed."""

    def __call__(self, environ: Any, start_response: Any) -> Any:
        raise StopIteration


def _stream(run: Job | Build, log: Path) -> Response:
    skipped = _since_line()
    if not offers(request.environ):
        return problem_response(426, "Logs are streamed over WebSocket here.", headers={"Upgrade": "websocket"})
    events = follow_run(run, log, 0, idle_after=PATIENCE)
    try:
        socket = WebSocket(request.environ, events.stop)
    except BaseException:
        events.close()
        raise
    _speak(socket, events, skipped)
    return _Spoken()


def _speak(socket: WebSocket, events: RunEvents, skipped: int) -> None:
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
    """The messages of a story, without the first `skipped` lines; None where a ping is due."""
    text = codecs.getincrementaldecoder("utf-8")("replace")
    begun = ""
    for event in events:
        if isinstance(event, LogChunk):
            *lines, begun = (begun + text.decode(event.data)).split("\n")
            skipped, lines = max(0, skipped - len(lines)), lines[skipped:]
            if len(begun) > FRAME and not skipped:
                lines, begun = [*lines, begun], ""
            yield from _in_frames(lines)
        elif isinstance(event, StatusChange):
            if event.status.status.is_done:
                begun += text.decode(b"", final=True)
                yield from _in_frames([begun] if begun and not skipped else [])
            yield json.dumps({"status": event.status.status, "log_lines": []})
        else:
            yield None


def _in_frames(lines: list[str]) -> Iterator[str]:
    """A line that is too long for a message goes in pieces."""
    batch: list[str] = []
    size = 0
    for line in lines:
        for start in range(0, max(1, len(line)), FRAME):
            piece = line[start : start + FRAME]
            if batch and size + len(piece) > FRAME:
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
