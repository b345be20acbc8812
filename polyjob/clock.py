"""The clocks: the wall's, for what people read, and the boot's, for what must not jump.

An instant of the boot clock is kept as text, `<boot id>:<seconds>`; after a reboot it says only that it was before.
"""

from __future__ import annotations

import datetime
import time
from pathlib import Path

EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)


def now() -> datetime.datetime:
    """The wall clock, in UTC, to the microsecond."""
    return EPOCH + datetime.timedelta(microseconds=time.time_ns() // 1000)


def to_microseconds(value: datetime.datetime) -> int:
    """Whole microseconds since 1970."""
    return (value - EPOCH) // datetime.timedelta(microseconds=1)


def from_microseconds(value: int) -> datetime.datetime:
    """The inverse of `to_microseconds`."""
    return EPOCH + datetime.timedelta(microseconds=value)


class Clock:
    """Both clocks. Tests put another in its place and move it by hand."""

    def __init__(self) -> None:
        self.boot_id = Path("/proc/sys/kernel/random/boot_id").read_text().strip()

    def wall(self) -> datetime.datetime:
        return now()

    def seconds(self) -> float:
        """Seconds since boot, time asleep included; never steps back."""
        return time.clock_gettime(time.CLOCK_BOOTTIME)

    def mark(self) -> str:
        """This instant, as text."""
        return f"{self.boot_id}:{self.seconds():.6f}"

    def since(self, mark: str) -> float | None:
        """Seconds since the instant `mark`; None when the machine was booted in between."""
        boot_id, _, seconds = mark.rpartition(":")
        return self.seconds() - float(seconds) if boot_id == self.boot_id else None
