"""The clocks: the wall clock for times that people read, and the boot clock for durations, which never jumps.

A mark is an instant of the boot clock as text, `<boot id>:<seconds>`. After a reboot, its age is unknown.
"""

from __future__ import annotations

import datetime
import time
from pathlib import Path

EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)


def now() -> datetime.datetime:
    """Return the time of the wall clock, in UTC, to the microsecond."""
    return EPOCH + datetime.timedelta(microseconds=time.time_ns() // 1000)


def to_microseconds(value: datetime.datetime) -> int:
    """Return the whole microseconds since 1970."""
    return (value - EPOCH) // datetime.timedelta(microseconds=1)


def from_microseconds(value: int) -> datetime.datetime:
    """Return the time of a number of microseconds since 1970."""
    return EPOCH + datetime.timedelta(microseconds=value)


class Clock:
    """Both clocks. Tests use a clock that they move by hand."""

    def __init__(self) -> None:
        self.boot_id = Path("/proc/sys/kernel/random/boot_id").read_text().strip()

    def wall(self) -> datetime.datetime:
        return now()

    def seconds(self) -> float:
        """Return the seconds since boot, including time asleep. Never steps back."""
        return time.clock_gettime(time.CLOCK_BOOTTIME)

    def mark(self) -> str:
        """Return a mark of this instant."""
        return f"{self.boot_id}:{self.seconds():.6f}"

    def since(self, mark: str) -> float | None:
        """Return the seconds since a mark, or None if the machine was booted since then."""
        boot_id, _, seconds = mark.rpartition(":")
        return self.seconds() - float(seconds) if boot_id == self.boot_id else None
