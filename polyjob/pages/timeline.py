"""The statuses of a run over time: how long each lasted, and its share of a bar."""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from dataclasses import dataclass

from polyjob.clock import now
from polyjob.db.models import Build, BuildStatus, Job, JobStatus
from polyjob.statuses import Status

BAR_WIDTH = 1000
MIN_SEGMENT_WIDTH = 6


@dataclass(frozen=True)
class Step:
    """One status in the timeline."""

    status: Status
    started_at: datetime.datetime
    duration: datetime.timedelta | None
    """None for a terminal status."""
    message: str | None
    traceback: str | None


@dataclass(frozen=True)
class Segment:
    """One step's part of the bar."""

    step: Step
    x: int
    width: int


def elapsed(run: Job | Build) -> datetime.timedelta | None:
    """Return how long the run took, or has taken so far; None if it has not started.

    A run that ended before it started has the time of its creation as its start, because old clients expect one.
    """
    if run.started_at in (None, run.created_at):
        return None
    return (run.finished_at or now()) - run.started_at


def timeline(rows: Sequence[JobStatus | BuildStatus], until: datetime.datetime) -> list[Step]:
    """Return a step for each status row, oldest first. The last one lasts until `until`, unless it is terminal."""
    ends = [row.created_at for row in rows[1:]] + [None if rows[-1].status.is_done else until]
    return [
        Step(row.status, row.created_at, end - row.created_at if end else None, row.message, row.traceback)
        for row, end in zip(rows, ends, strict=True)
    ]


def bar(steps: Sequence[Step]) -> list[Segment]:
    """Lay out the steps side by side, `BAR_WIDTH` wide in total and each at least `MIN_SEGMENT_WIDTH`.

    Return nothing if no time has passed or there are more steps than fit.
    """
    durations = [(step, max(0.0, step.duration.total_seconds())) for step in steps if step.duration is not None]
    spare_width = BAR_WIDTH - MIN_SEGMENT_WIDTH * len(durations)
    total_seconds = sum(seconds for _, seconds in durations)
    if not total_seconds or spare_width < 0:
        return []
    segments, x = [], 0
    for number, (step, seconds) in enumerate(durations, 1):
        is_last = number == len(durations)
        width = BAR_WIDTH - x if is_last else MIN_SEGMENT_WIDTH + int(spare_width * seconds / total_seconds)
        segments.append(Segment(step, x, width))
        x += width
    return segments
