"""The starts of the engine and of the web server, kept in the data folder to tell how often each was restarted.

Each has a file `<data>/NAME.starts`, one line per start. An end that is asked for removes it, so that every line but
the first stands for a restart after a death.
"""

from __future__ import annotations

import contextlib
from pathlib import Path

from polyjob.clock import Clock

KEPT_STARTS = 20
COUNTED_FOR = 3600.0
"""Seconds for which a restart is reported."""


def record_start(data_dir: Path, name: str, clock: Clock) -> None:
    """Add a start. A disk that is full loses it, and stops nobody."""
    lines = [*_lines(data_dir, name), clock.mark()][-KEPT_STARTS:]
    with contextlib.suppress(OSError):
        _file(data_dir, name).write_text("\n".join(lines) + "\n")


def record_end(data_dir: Path, name: str) -> None:
    """Record that the end was asked for: what follows is not a restart. Idempotent."""
    with contextlib.suppress(OSError):
        _file(data_dir, name).unlink(missing_ok=True)


def restarts(data_dir: Path, name: str, clock: Clock) -> int:
    """Return how often it was started again within the last hour because it had died."""
    ages = [clock.since(line) for line in _lines(data_dir, name)[1:]]
    return sum(age is not None and age < COUNTED_FOR for age in ages)


def _lines(data_dir: Path, name: str) -> list[str]:
    try:
        return [line for line in _file(data_dir, name).read_text().splitlines() if ":" in line]
    except (OSError, ValueError):
        return []


def _file(data_dir: Path, name: str) -> Path:
    return data_dir / f"{name}.starts"
