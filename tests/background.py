"""Run part of a test in a thread that ends with the test."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from typing import Any

from polyjob.db.database import database


@contextlib.contextmanager
def soon(act: Callable[[], Any], seconds: float = 0.2) -> Iterator[None]:
    """Do this `seconds` after the block's begin; the block does not end before it is done.

    The thread closes its own connection, so the database can be closed as soon as the block has ended.
    """

    def run() -> None:
        try:
            act()
        finally:
            database.close()

    timer = threading.Timer(seconds, run)
    timer.start()
    try:
        yield
    finally:
        timer.join()
