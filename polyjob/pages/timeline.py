"""The statuses of a job or build in time: how long each lasted, and the share of each in a bar. Pure."""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from dataclasses import dataclass

from polyjob.db.models import BuildStatus, JobStatus
from polyjob.statuses import Status

WIDTH = 1000
LEAST = 6
"""Of a bar as wide as WIDTH, what a part has that lasted almost no time."""


@dataclass(frozen=True)
class Step:
    """A status in the timeline; `lasted` is None where nothing ends it."""

    status: Status
    moment: datetime.datetime
    lasted: datetime.timedelta | None
    message: str | None
    traceback: str | None


@dataclass(frozen=True)
class Segment:
    step: Step
    x: int
    width: int


def steps(rows: Sequence[JobStatus | BuildStatus], now: datetime.datetime) -> list[Step]:
    """`rows`: every status, oldest first. The last one lasts until `now`, if it is no end."""
    ends = [row.created_at for row in rows[1:]] + [None if rows[-1].status.is_done else now]
    return [
        Step(row.status, row.created_at, end - row.created_at if end else None, row.message, row.traceback)
        for row, end in zip(rows, ends, strict=True)
    ]


def bar(found: Sequence[Step]) -> list[Segment]:
    """The steps that lasted, side by side, together WIDTH wide; each at least LEAST."""
    lasting = [(step, max(0.0, step.lasted.total_seconds())) for step in found if step.lasted is not None]
    room = WIDTH - LEAST * len(lasting)
    whole = sum(seconds for _, seconds in lasting)
    if not whole or room < 0:
        return []
    segments, x = [], 0
    for number, (step, seconds) in enumerate(lasting, 1):
        width = WIDTH - x if number == len(lasting) else LEAST + int(room * seconds / whole)
        segments.append(Segment(step, x, width))
        x += width
    return segments
