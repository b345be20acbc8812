"""The time of a pass, read once from both clocks."""

from __future__ import annotations

import datetime
from dataclasses import dataclass

from polyjob.clock import Clock


@dataclass(frozen=True)
class Now:
    boot_id: str
    seconds: float
    """Since boot."""
    wall: datetime.datetime

    @classmethod
    def read(cls, clock: Clock) -> Now:
        return cls(clock.boot_id, clock.seconds(), clock.wall())

    def since(self, mark: str) -> float | None:
        """Return the seconds since an instant of the boot clock, or None if the machine was booted in between."""
        boot_id, _, seconds = mark.rpartition(":")
        return self.seconds - float(seconds) if boot_id == self.boot_id else None
