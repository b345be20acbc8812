"""The instants at which a schedule fires: cron expressions, time zones, and ISO times. Pure.

Changes to and from daylight saving time are handled as Debian's cron does:

- A time that does not exist fires at the first instant after it.
- A time that exists twice fires the first time only.
- If minute or hour begin with `*`, the schedule fires whenever the local time matches. So `*/30 * * * *` fires every
  half hour on such a day, too. An hour that exists twice counts twice, and one that does not exist does not count.
"""

from __future__ import annotations

import datetime
import zoneinfo
from collections.abc import Iterator
from dataclasses import dataclass

from cronsim import CronSim, CronSimError

from polyjob.errors import Invalid, Problem

MAX_CRON_LENGTH = 200
"""Characters of a cron expression."""
MAX_TIMEZONE_LENGTH = 64
_CRON_FIELDS = 5
_MICROSECOND = datetime.timedelta(microseconds=1)


@dataclass(frozen=True)
class Times:
    """The instants of one schedule: those of a cron expression in a time zone, or one instant."""

    cron: str | None
    timezone: str
    at: datetime.datetime | None = None

    def after(self, moment: datetime.datetime) -> Iterator[datetime.datetime]:
        """Yield the instants after a moment, in UTC and in their order."""
        if self.cron is None:
            if self.at is not None and self.at > moment:
                yield self.at
            return
        latest = moment
        for instant in CronSim(self.cron, moment.astimezone(zoneinfo.ZoneInfo(self.timezone))):
            instant = instant.astimezone(datetime.UTC)
            if instant > latest:  # the second of two equal local times yields the first one again
                latest = instant
                yield instant

    def next_after(self, moment: datetime.datetime) -> datetime.datetime | None:
        """Return the first instant after a moment, or None if there is none."""
        return next(self.after(moment), None)

    def latest(
        self, first: datetime.datetime, end: datetime.datetime, limit: int
    ) -> tuple[list[datetime.datetime], bool]:
        """Return the latest instants from `first` to `end`, at most `limit`, and whether there are earlier ones.

        Both ends are included. The work depends on `limit`, not on the length of the time.
        """
        span = datetime.timedelta(minutes=limit + 1)  # with one instant per minute, this finds enough
        while True:
            start = max(first, end - span)
            instants = []
            for instant in self.after(start - _MICROSECOND):
                if instant > end:
                    break
                instants.append(instant)
            if start == first or len(instants) > limit:
                return instants[-limit:], len(instants) > limit
            span *= 2


def parse_cron(text: str, timezone: str, pointer: str = "/cron") -> str:
    """Return the cron expression in its stored form. `timezone` must be valid. Raises Invalid."""
    if len(text) > MAX_CRON_LENGTH:
        raise Invalid([Problem(pointer, f"Longer than {MAX_CRON_LENGTH} characters.")])
    cron = " ".join(text.split())
    if len(cron.split(" ")) != _CRON_FIELDS:
        fields = "minute, hour, day of the month, month, day of the week"
        detail = f"A cron expression has five fields: {fields}; for example `0 3 * * *` for 03:00 every day."
        raise Invalid([Problem(pointer, detail)])
    try:
        CronSim(cron, datetime.datetime(2026, 1, 1))
    except (CronSimError, ValueError, AssertionError) as error:
        reason = str(error).removeprefix("Bad ")
        if reason == "day-of-month" and _is_day_of_month(cron.split(" ")[2]):
            raise Invalid([Problem(pointer, _never_fires(cron))]) from None
        raise Invalid([Problem(pointer, f"`{cron}` is not a cron expression: its {reason} is not valid.")]) from None
    if Times(cron, timezone).next_after(datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)) is None:
        raise Invalid([Problem(pointer, _never_fires(cron))])
    return cron


def _is_day_of_month(field: str) -> bool:
    """Return whether the field is valid by itself, so that only its combination with the month is not."""
    try:
        CronSim(f"0 0 {field} * *", datetime.datetime(2026, 1, 1))
    except (CronSimError, ValueError, AssertionError):
        return False
    return True


def _never_fires(cron: str) -> str:
    return f"`{cron}` never fires: no month in it has such a day."


def parse_timezone(name: str, pointer: str = "/timezone") -> str:
    """Return the name if it is a time zone of this machine. Raises Invalid."""
    try:
        if len(name) > MAX_TIMEZONE_LENGTH:
            raise ValueError
        return zoneinfo.ZoneInfo(name).key
    except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError):
        detail = f"`{name[:MAX_TIMEZONE_LENGTH]}` is not a time zone; use a name such as `Europe/Berlin` or `UTC`."
        raise Invalid([Problem(pointer, detail)]) from None


def parse_instant(text: str, timezone: str, now: datetime.datetime, pointer: str = "/at") -> datetime.datetime:
    """Return an ISO 8601 time, which is in the time zone unless it has an offset. Raises Invalid, also for the past."""
    try:
        moment = datetime.datetime.fromisoformat(text)
        if moment.tzinfo is None:
            moment = moment.replace(tzinfo=zoneinfo.ZoneInfo(timezone))
        moment = moment.astimezone(datetime.UTC)
    except (ValueError, OverflowError):
        detail = "Not a time in ISO 8601, such as `2026-12-24T18:00` or `2026-12-24T17:00Z`."
        raise Invalid([Problem(pointer, detail)]) from None
    if moment <= now:
        raise Invalid([Problem(pointer, f"{moment:%Y-%m-%d %H:%M:%S} UTC is in the past.")])
    return moment
