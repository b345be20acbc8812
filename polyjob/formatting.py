"""Sizes, ages, durations and reasons as text, for the pages and the command line. Sizes are in binary units."""

from __future__ import annotations

import datetime
import re
import signal
from collections.abc import Mapping, Sequence
from typing import Any

from polyjob.statuses import Status

LOG_FRAMES = "application/x-polyjob-log-frames"
"""Media type of a followed log in frames: the length of each in four bytes, most significant first, and its bytes."""
LOG_STAMP_BYTES = len("2026-11-23T12:00:00.000Z ")
"""Length of the time before each line of a log that is requested with `?times=true`."""

_WIRE_EXIT_CODE = re.compile(r"^exit-code\((-?\d+)\)")

_REASONS = {
    "oom": "out of memory",
    "timeout": "timeout",
    "image": "image not pulled",
    "start": "not started",
    "evicted": "evicted",
    "lost": "lost",
}


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


def status_word(status: str) -> str:
    """Return the word for a status that pages show: `queued` for `created`, `upstream failed` for `upstream_failed`."""
    return "queued" if status == Status.CREATED else status.replace("_", " ")


def sentence(text: str) -> str:
    """Capitalize the text and end it with a full stop, if it has no end mark yet."""
    text = text[:1].upper() + text[1:]
    return text if text.endswith((".", "!", "?", "…")) or not text else f"{text}."


def status_message(message: str | None) -> str:
    """Return the message of a status for people: `exit code 7` for `exit-code(7)`, which Polyaxon's clients expect."""
    return _WIRE_EXIT_CODE.sub(r"exit code \1", message or "")


def describe_exit(status: str, exit_record: Mapping[str, Any] | None, stop_kind: str | None) -> str | None:
    """Return the reason why a job did not succeed, in a few words such as `timeout`; None if there is none to add.

    `exit_record` and `stop_kind` are those of the job's row.
    """
    if status == Status.UPSTREAM_FAILED:
        return "a dependency failed"
    if status == Status.SKIPPED:
        return "a dependency cannot be met"
    if status not in (Status.FAILED, Status.STOPPED) or not exit_record:
        return None
    if status == Status.FAILED and stop_kind in ("timeout", "start"):
        return _REASONS[stop_kind]
    match exit_record.get("reason"):
        case "exited":
            return f"exit code {exit_record['code']}" if exit_record.get("code") else None
        case "signalled":
            return _signal_name(exit_record.get("signal")) if status == Status.FAILED else None
        case "build":
            return f"build failed at step {exit_record['step']}" if exit_record.get("step") else "build failed"
        case reason:
            return _REASONS.get(str(reason))


def _signal_name(number: int | None) -> str | None:
    try:
        return signal.Signals(number or 0).name
    except ValueError:
        return f"signal {number}" if number else None


def describe_position(position: int | None) -> str | None:
    """Return the place of a queued job: `3 jobs ahead`. Position 1 is the first; None means not queued."""
    if position is None:
        return None
    return "next in the queue" if position == 1 else f"{position - 1} {'job' if position == 2 else 'jobs'} ahead"


def unknown_gpus_text(indices: Sequence[int]) -> str:
    """Return a warning about GPUs that are not among those of the server's default."""
    listed = ", ".join(map(str, indices))
    subject = f"GPU {listed} is" if len(indices) == 1 else f"GPUs {listed} are"
    return (
        f"{subject} not in the server's default. A job that gets a GPU that does not exist fails, or runs without it."
    )
