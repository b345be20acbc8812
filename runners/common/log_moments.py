"""Times of a log's bytes, from the times that the logs of containers have for each frame or line."""

from __future__ import annotations

import datetime
from collections.abc import Iterable

from runners.common.log_times import Times

TENTH = len("2026-11-23T12:00:00.0")
"""Length of the part of a moment that has to change before another time is noted."""


def times_of_moments(moments: Iterable[tuple[int, str]]) -> Times:
    """Convert (offset, moment) of a piece of a log. A moment is RFC 3339 in UTC with nine digits and without a zone.

    Moments that are not valid, or before 1970, are left out.
    """
    times = []
    for offset, moment in moments:
        try:
            instant = datetime.datetime.fromisoformat(f"{moment[:23]}+00:00")
        except ValueError:
            continue
        if (at_ms := int(instant.timestamp() * 1000)) > 0:
            times.append((offset, at_ms))
    return times
