"""A run's story as Server-Sent Events.

=================  =================================================================================================
message            `data`: more of the log, a JSON text; `id`: the byte of the log behind it, for `Last-Event-ID`
`event: status`    `data`: {"status", "message", "created_at"}; the present one first, the terminal one behind the log
`event: end`       `data`: {"status"}; nothing follows, and whoever connects again gets the same end. The status is null
                   where the run was deleted
=================  =================================================================================================

The text is JSON because a carriage return could not be told from a line feed otherwise. Bytes that are no UTF-8 are
U+FFFD in it; a character is never cut in two.
"""

from __future__ import annotations

import codecs
import json
from collections.abc import Iterable, Iterator
from typing import Any

from polyjob.logs.follow import LogChunk, RunDeleted, RunEvent, StatusChange

MIMETYPE = "text/event-stream"
PATIENCE = 15.0
"""Seconds of silence after which a comment is sent, so that no proxy takes the stream for dead."""
RETRY = 2000
"""Milliseconds after which a browser comes again."""


def encode_events(events: Iterable[RunEvent]) -> Iterator[bytes]:
    """The first piece comes at once, on which a server sends its headers."""
    yield f"retry: {RETRY}\n\n".encode()
    text = codecs.getincrementaldecoder("utf-8")("replace")
    behind = 0
    try:
        for event in events:
            if isinstance(event, LogChunk):
                behind = event.offset
                decoded = text.decode(event.data)
                if decoded:
                    yield _event(decoded, id=behind - len(text.getstate()[0]))
            elif isinstance(event, StatusChange):
                row = event.status
                if row.status.is_done:
                    rest = text.decode(b"", final=True)
                    if rest:
                        yield _event(rest, id=behind)
                told = {"status": row.status, "message": row.message, "created_at": row.created_at.isoformat()}
                yield _event(told, "status")
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
