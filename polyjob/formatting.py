"""Sizes, ages and durations as text, for the pages and the command line. Sizes are in binary units."""

from __future__ import annotations

import datetime


def format_size(size: int) -> str:
    """Format a number of bytes in the largest unit that fits: `1.5 KiB`, `20 MiB`."""
    amount = float(size)
    for unit in ("B", "KiB", "MiB"):
        if amount < 1024:
            return f"{amount:.0f} {unit}" if unit == "B" or amount >= 10 else f"{amount:.1f} {unit}"
        amount /= 1024
    return f"{amount:.1f} GiB"


def format_age(moment: datetime.datetime, now: datetime.datetime) -> str:
    """Format the time since a moment in its largest unit, or as a date if that is a week or more."""
    seconds = (now - moment).total_seconds()
    if seconds < 5:
        return "just now"
    for unit_seconds, unit, limit in ((1, "s", 60), (60, "min", 3600), (3600, "h", 86400), (86400, "d", 7 * 86400)):
        if seconds < limit:
            return f"{int(seconds // unit_seconds)} {unit} ago"
    return f"{moment:%Y-%m-%d}"


def format_duration(duration: datetime.timedelta) -> str:
    """Format a duration in its two largest units. A negative one counts as zero."""
    seconds = max(0.0, duration.total_seconds())
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole_seconds = int(seconds)
    if whole_seconds < 60:
        return f"{whole_seconds} s"
    if whole_seconds < 3600:
        return f"{whole_seconds // 60} min {whole_seconds % 60:02} s"
    if whole_seconds < 86400:
        return f"{whole_seconds // 3600} h {whole_seconds % 3600 // 60:02} min"
    return f"{whole_seconds // 86400} d {whole_seconds % 86400 // 3600} h"


def sentence(text: str) -> str:
    """Capitalize the text and end it with a full stop, if it has no end mark yet."""
    text = text[:1].upper() + text[1:]
    return text if text.endswith((".", "!", "?", "…")) or not text else f"{text}."
