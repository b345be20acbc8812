"""How many slots were in use, drawn from the times at which jobs began and ended. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

COLUMNS = 180
WIDTH, HEIGHT = 720, 80


@dataclass(frozen=True)
class Chart:
    """A drawing of WIDTH by HEIGHT."""

    path: str
    """The SVG path of the area below the curve."""
    most: int
    """Slots that were in use at once."""
    share: float
    """Of all slots and all the time, from 0 to 1."""


def draw(spans: Iterable[tuple[int, int]], since: int, until: int, slots: int) -> Chart:
    """`spans`: (begin, end) of each job, in the same unit as `since` and `until`. Every column shows the most that
    were in use at one time within it; that is never more than there are, although the end of a job is written a moment
    after its slot is free."""
    known = [(max(begin, since), min(end, until)) for begin, end in spans if end > since and begin < until]
    events = sorted([(begin, 1) for begin, _ in known] + [(end, -1) for _, end in known])
    width = max(1, until - since) / COLUMNS
    heights, level, busy, before = [0] * COLUMNS, 0, 0, since
    for moment, step in events:
        used = min(level, slots)
        _raise(heights, used, before, moment, since, width)
        busy += used * (moment - before)
        level, before = level + step, moment
    return Chart(_path(heights, slots), max(heights), busy / (max(1, until - since) * slots))


def _raise(heights: list[int], level: int, begin: int, end: int, since: int, width: float) -> None:
    if level and end >= begin:
        first, last = (min(COLUMNS - 1, int((moment - since) / width)) for moment in (begin, end))
        for column in range(first, last + 1):
            heights[column] = max(heights[column], level)


def _path(heights: list[int], slots: int) -> str:
    """Steps, as slots are whole."""
    parts, wide = [f"M0 {HEIGHT}"], WIDTH / COLUMNS
    for column, height in enumerate(heights):
        if column == 0 or height != heights[column - 1]:
            parts.append(f"H{column * wide:g}V{HEIGHT - HEIGHT * height / slots:g}")
    return f"{''.join(parts)}H{WIDTH}V{HEIGHT}Z"
