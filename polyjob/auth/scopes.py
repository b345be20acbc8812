"""How much of what its user may do a key is good for. Pure."""

from __future__ import annotations

from enum import StrEnum


class Scope(StrEnum):
    """Each holds what stands before it."""

    READ = "read"
    """Look at everything that the user may look at."""
    SUBMIT = "submit"
    """Submit, clone, stop and change jobs and builds, upload code, bookmark."""
    ADMIN = "admin"
    """Everything that the user may do."""

    def covers(self, other: Scope) -> bool:
        order = list(Scope)
        return order.index(self) >= order.index(other)
