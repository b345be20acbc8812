"""The scopes of tokens."""

from __future__ import annotations

from enum import StrEnum


class Scope(StrEnum):
    """The operations that a token allows. Each scope includes those before it."""

    READ = "read"
    """Read everything that the user may read."""
    SUBMIT = "submit"
    """Submit, clone, stop and change jobs and builds, upload files, bookmark."""
    ADMIN = "admin"
    """Everything that the user may do."""

    def covers(self, other: Scope) -> bool:
        return _RANKS[self] >= _RANKS[other]


_RANKS = {scope: rank for rank, scope in enumerate(Scope)}
