"""What a pass decides: a change to commit, and what may begin once it is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Step:
    name: str
    """Names its crash points, `<name>:before` and `<name>:after` the commit."""
    apply: Callable[[], Any]
    """Inside the transaction: rows only."""
    after: Callable[[], None] | None = None
    """After the commit: a runner's call."""
