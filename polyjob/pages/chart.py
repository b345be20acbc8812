"""Draw how many slots were in use over time, from the start and end times of jobs."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

COLUMNS = 180
WIDTH, HEIGHT = 720, 80


@dataclass(frozen=True)
class Chart:
    """A drawing, WIDTH by HEIGHT."""

    path: str
    """The SVG path of the area below the curve."""
    peak: int
    """The most slots in use at one time."""
    utilization: float
    """The used share of all slots over the whole time, from 0 to 1."""


def draw(spans: Iterable[tuple[int, int]], since: int, until: int, slots: int) -> Chart:
    """Draw the slots in use from `since` to `until`. `spans` has each job's (start, end), in the same unit.

    Each column shows the peak within it. A job's end is recorded a moment after its slot is free again, so the count
    is capped at `slots`.
    """
    clipped = [(max(start, since), min(end, until)) for start, end in spans if end > since and start < until]
    events = sorted([(start, 1) for start, _ in clipped] + [(end, -1) for _, end in clipped])
    column_width = max(1, until - since) / COLUMNS
    heights, running, busy_time, previous = [0] * COLUMNS, 0, 0, since
    for moment, change in events:
        used = min(running, slots)
        _raise_columns(heights, used, previous - since, moment - since, column_width)
        busy_time += used * (moment - previous)
        running, previous = running + change, moment
    return Chart(_path(heights, slots), max(heights), busy_time / (max(1, until - since) * slots))


def _raise_columns(heights: list[int], level: int, start: int, end: int, column_width: float) -> None:
    if level and end >= start:
        first, last = (min(COLUMNS - 1, int(moment / column_width)) for moment in (start, end))
        for column in range(first, last + 1):
            heights[column] = max(heights[column], level)


def _path(heights: list[int], slots: int) -> str:
    """Draw a step curve: the number of used slots is an integer."""
    parts, column_width = [f"M0 {HEIGHT}"], WIDTH / COLUMNS
    for column, height in enumerate(heights):
        if column == 0 or height != heights[column - 1]:
            parts.append(f"H{column * column_width:g}V{HEIGHT - HEIGHT * height / slots:g}")
    return f"{''.join(parts)}H{WIDTH}V{HEIGHT}Z"
