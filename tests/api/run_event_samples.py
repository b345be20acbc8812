"""Events of runs, for tests of their encodings."""

from __future__ import annotations

from types import SimpleNamespace

from polyjob.clock import now
from polyjob.logs.follow import LogChunk, StatusChange
from polyjob.statuses import Status


def status_change(status, message=None):
    return StatusChange(SimpleNamespace(status=Status(status), message=message, created_at=now()))


def events_of(pieces, end="succeeded"):
    """Return the events of a run whose log was written in these pieces."""
    offset, events = 0, [status_change("running")]
    for piece in pieces:
        offset += len(piece)
        events.append(LogChunk(piece, offset))
    return [*events, status_change(end)]
