"""Encode the events of a run as Server-Sent Events.

=================  =================================================================================================
message            `data`: more of the log, as a JSON string; `id`: the offset after it, for `Last-Event-ID`
`event: status`    `data`: {"status", "message", "created_at"}; the present one first, the terminal one after the log
`event: end`       `data`: {"status"}, null if the run was deleted. It is the last event; a client that connects again
                   receives it again
=================  =================================================================================================

The log is sent as JSON, because plain data of an event cannot distinguish a carriage return from a line feed. Bytes
that are not UTF-8 become U+FFFD. A character is never divided between two messages.
"""

from __future__ import annotations

import codecs
import json
from collections.abc import Iterable, Iterator
from typing import Any

from polyjob.logs.follow import LogChunk, RunDeleted, RunEvent, StatusChange

MIMETYPE = "text/event-stream"
KEEPALIVE_SECONDS = 15.0
"""Time without an event after which a comment is sent, so that proxies keep the connection open."""
RETRY_MILLISECONDS = 2000
"""Time after which a browser connects again."""
EVENT_SCHEMA = {
    "type": "object",
    "description": "One event of the stream.",
    "properties": {
        "event": {"type": "string", "enum": ["message", "status", "end"], "default": "message"},
        "data": {
            "type": "string",
            "contentMediaType": "application/json",
            "description": "`message`: more of the log, a string; `status`: an object with `status`, `message` and "
            "`created_at`; `end`: an object with `status`, which is null if the run was deleted.",
        },
        "id": {"type": "string", "description": "With `message`: the offset after it, for `Last-Event-ID`."},
        "retry": {"type": "integer", "description": "Milliseconds after which a client should connect again."},
    },
    "required": ["data"],
}
"""Up to OpenAPI 3.1, the schema of an event stream is understood as that of each event."""


def encode_events(events: Iterable[RunEvent]) -> Iterator[bytes]:
    """Yield the encoded events. The first item comes at once, which makes the server send the headers."""
    yield f"retry: {RETRY_MILLISECONDS}\n\n".encode()
    text = codecs.getincrementaldecoder("utf-8")("replace")
    offset = 0
    try:
        for event in events:
            if isinstance(event, LogChunk):
                offset = event.offset
                decoded = text.decode(event.data)
                if decoded:
                    yield _event(decoded, id=offset - len(text.getstate()[0]))
            elif isinstance(event, StatusChange):
                row = event.status
                if row.status.is_done:
                    remainder = text.decode(b"", final=True)
                    if remainder:
                        yield _event(remainder, id=offset)
                status = {"status": row.status, "message": row.message, "created_at": row.created_at.isoformat()}
                yield _event(status, "status")
                if row.status.is_done:
                    yield _event({"status": row.status}, "end")
            else:
                yield b": nothing new\n\n"
    except RunDeleted:
        yield _event({"status": None}, "end")


def _event(data: Any, kind: str | None = None, id: int | None = None) -> bytes:
    lines = [f"event: {kind}"] if kind else []
    lines += [f"id: {id}"] if id is not None else []
    lines += [f"data: {json.dumps(data)}"]
    return ("\n".join(lines) + "\n\n").encode()
