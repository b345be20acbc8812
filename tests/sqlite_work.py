"""Measure the work of SQLite in instructions, which do not depend on the machine."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from polyjob.db.database import database


def work(act: Callable[[], Any]) -> int:
    """Return how many instructions SQLite runs, in tens."""
    steps = [0]

    def count() -> int:
        steps[0] += 1
        return 0

    connection = database.connection()
    connection.set_progress_handler(count, 10)
    try:
        act()
    finally:
        connection.set_progress_handler(None, 0)
    return steps[0]
