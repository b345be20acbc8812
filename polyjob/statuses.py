"""The statuses of jobs and builds, and the transitions that are allowed."""

from __future__ import annotations

import enum


class Status(enum.StrEnum):
    CREATED = "created"
    RESUMING = "resuming"
    WARNING = "warning"
    UNSCHEDULABLE = "unschedulable"
    SCHEDULED = "scheduled"
    BUILDING = "building"
    RUNNING = "running"
    UNKNOWN = "unknown"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    UPSTREAM_FAILED = "upstream_failed"
    STOPPED = "stopped"
    SKIPPED = "skipped"

    @property
    def is_done(self) -> bool:
        """True if the status is terminal: no other status follows."""
        return self in DONE


DONE = frozenset({Status.SUCCEEDED, Status.FAILED, Status.UPSTREAM_FAILED, Status.STOPPED, Status.SKIPPED})

_LIVE = frozenset(Status) - DONE

_UNMANAGED: dict[Status, frozenset[Status]] = {
    Status.CREATED: frozenset(),
    Status.RESUMING: frozenset({Status.CREATED, Status.WARNING}),
    Status.WARNING: _LIVE - {Status.WARNING},
    Status.UNSCHEDULABLE: _LIVE - {Status.UNSCHEDULABLE},
    Status.SCHEDULED: _LIVE - {Status.SCHEDULED, Status.RUNNING},
    Status.BUILDING: _LIVE - {Status.BUILDING, Status.RUNNING},
    Status.RUNNING: _LIVE - {Status.RUNNING},
    Status.UNKNOWN: _LIVE - {Status.UNKNOWN},
    **dict.fromkeys(DONE, _LIVE),
}
_MANAGED: dict[Status, frozenset[Status]] = {
    Status.SCHEDULED: frozenset({Status.CREATED}),
    Status.BUILDING: frozenset({Status.SCHEDULED}),
    Status.RUNNING: frozenset({Status.SCHEDULED, Status.BUILDING}),
    Status.SUCCEEDED: frozenset({Status.RUNNING}),
    Status.FAILED: frozenset({Status.SCHEDULED, Status.BUILDING, Status.RUNNING}),
    Status.UPSTREAM_FAILED: frozenset({Status.CREATED}),
    Status.SKIPPED: frozenset({Status.CREATED}),
    Status.STOPPED: frozenset({Status.CREATED, Status.SCHEDULED, Status.BUILDING, Status.RUNNING}),
}


def may_follow(new: Status, current: Status, *, managed: bool) -> bool:
    """Return whether a run with the status `current` may change to `new`.

    A managed run goes created → scheduled → building → running → terminal, through each at most once, and succeeds only
    from running. The client of a run that is not managed may report statuses in any order, until a terminal one.
    """
    table = _MANAGED if managed else _UNMANAGED
    return current in table.get(new, frozenset())
