"""Schedules: fire those that are due.

While nothing is due, this costs one look-up per second. The time of the next fire is in memory between two look-ups.
"""

from __future__ import annotations

import datetime
from functools import partial

from polyjob.auth.roles import may_write
from polyjob.engine.context import Context
from polyjob.engine.writes import Write
from polyjob.services import schedule_fires

LOOK_UP_INTERVAL_SECONDS = 1.0
SCHEDULES_PER_PASS = 10
"""Schedules that one pass decides on. The next pass follows at once."""
SET_BACK_SECONDS = 1.0
"""The wall clock was set back if it lost more than this against the boot clock."""


class Schedules:
    """Finds what is due by the wall clock alone, so that a crash loses nothing and repeats nothing."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._next_due: datetime.datetime | None = None
        self._looked_up_at: float | None = None
        self._last_clocks: tuple[float, datetime.datetime] | None = None

    def writes(self) -> list[Write]:
        """Return a write for each schedule that has to fire now, and for each one that a changed clock has delayed."""
        seconds, wall = self._context.clock.seconds(), self._context.clock.wall()
        writes = self._reschedules(wall) if self._is_clock_set_back(seconds, wall) else []
        has_waiting = False
        if self._looked_up_at is None or seconds - self._looked_up_at >= LOOK_UP_INTERVAL_SECONDS:
            self._looked_up_at = seconds
            self._next_due, has_waiting = schedule_fires.next_due()
        settings = self._context.settings
        if self._next_due is not None and self._next_due <= wall:
            for schedule in schedule_fires.due(wall, SCHEDULES_PER_PASS):
                writes.append(Write("fire", schedule_fires.plan(schedule, wall, settings, may_write)))
        elif has_waiting:
            for schedule in schedule_fires.schedules_with_waiting_runs():
                writes.append(Write("fire", schedule_fires.plan_waiting(schedule, settings, may_write)))
        if writes:
            self._looked_up_at = None
        return writes

    def _is_clock_set_back(self, seconds: float, wall: datetime.datetime) -> bool:
        """Return whether the wall clock was set back since the last call. Before the first one, it may have been."""
        last, self._last_clocks = self._last_clocks, (seconds, wall)
        if last is None:
            return True
        return (wall - last[1]).total_seconds() < seconds - last[0] - SET_BACK_SECONDS

    @staticmethod
    def _reschedules(wall: datetime.datetime) -> list[Write]:
        return [
            Write("reschedule", partial(schedule_fires.reschedule, schedule, instant))
            for schedule, instant in schedule_fires.earlier_times(wall)
        ]
