"""The result of deciding on one job or build: writes for the pass's commit, and a call for the runner."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol


@dataclass(frozen=True)
class Write:
    """A change of rows that a pass has decided on. The pass commits all its writes together."""

    name: str
    """Names its crash points, `<name>:before` and `<name>:after` the commit."""
    apply: Callable[[], Any]
    """Called inside the transaction. Changes rows only."""


class Submittable(Protocol):
    """A runner call that has been decided on and not begun."""

    def submit(self) -> None:
        """Hand the call to its pool. Called by the engine's thread, after the commit."""


@dataclass(frozen=True)
class Decision:
    """The next writes and the next call of one job or build."""

    writes: Sequence[Write] = ()
    """Committed in this order, all or none."""
    call: Submittable | None = None
    """Submitted after the commit."""
    needs_commit: bool = False
    """Do not submit the call if the writes could not be committed."""


NOTHING = Decision()
