"""The slots of each runner and the GPUs that jobs may use, which administrators can change while the server runs.

`POLYJOB_SLOTS` and `POLYJOB_GPUS` are the defaults. A change is stored in the database, and takes precedence until it
is reset. The engine reads it in every pass that may start a job.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from polyjob.db.database import database, write
from polyjob.db.models import StoredSetting
from polyjob.engine_link import wake_engine
from polyjob.errors import Invalid, Problem
from polyjob.services import audit
from polyjob.settings import Settings

MAX_SLOTS = 10_000
"""Slots of one runner that can be set while the server runs."""
MAX_GPUS = 256
"""GPUs that can be set while the server runs."""
MAX_GPU_INDEX = 65_535
_SLOTS, _GPUS = "slots", "gpus"
CHANGES_SQL = ", ".join(f"(SELECT value FROM stored_setting WHERE name = '{name}')" for name in (_SLOTS, _GPUS))
"""Columns of a SELECT, for `parse_changes`."""


@dataclass(frozen=True)
class Changes:
    """The values that administrators have changed. All others have their default."""

    slots: Mapping[str, int] = field(default_factory=dict)
    """Runner → its slots. With 0, no job of the runner starts."""
    gpus: tuple[int, ...] | None = None


_NO_CHANGES = Changes()


@dataclass(frozen=True)
class Capacity:
    settings: Settings
    changes: Changes

    def slots_of(self, runner: str) -> int:
        """Return the maximum number of jobs that run at once on a runner."""
        stored = self.changes.slots.get(runner)
        return self.settings.slots_of(runner) if stored is None else stored

    @property
    def gpus(self) -> tuple[int, ...]:
        """The GPUs that jobs may use."""
        return self.settings.gpus if self.changes.gpus is None else self.changes.gpus

    @property
    def assigns_gpus(self) -> bool:
        """True if jobs see only the GPUs that they ask for. With `POLYJOB_GPUS=none`, polyjob hides none."""
        return bool(self.settings.gpus or self.changes.gpus)

    @property
    def max_requested_gpus(self) -> int:
        """The most GPUs that a new job may ask for. It may have to wait until a change is reset."""
        return max(len(self.settings.gpus), len(self.gpus))


def read_changes() -> Changes:
    """Return the stored changes. Reads at most two rows."""
    return parse_changes(*database.execute_sql(f"SELECT {CHANGES_SQL}").fetchone())


def parse_changes(slots: str | None, gpus: str | None) -> Changes:
    """Return the changes that are stored as these texts."""
    if slots is None and gpus is None:
        return _NO_CHANGES
    stored_gpus = json.loads(gpus or "null")
    return Changes(json.loads(slots or "{}"), None if stored_gpus is None else tuple(stored_gpus))


def read(settings: Settings) -> Capacity:
    """Return the capacity at this moment."""
    return Capacity(settings, read_changes())


def change(settings: Settings, changes: Mapping[str, Any]) -> Capacity:
    """Change the `slots` of some runners, the `gpus`, or both, and return the new capacity. None restores a default.

    The next pass of the engine uses it. No running job is stopped. Raises Invalid for a runner that this server does
    not list.
    """
    slots: Mapping[str, int | None] | None = changes.get(_SLOTS, {})
    for name in slots or ():
        if name not in settings.runner_names:
            detail = f"This server does not use the runner `{name}`; it has: {', '.join(settings.runner_names)}."
            raise Invalid([Problem(f"/slots/{name}", detail)])
    with write("capacity"):
        before = read_changes()
        merged = {**before.slots, **slots} if slots is not None else {}
        stored_slots = {name: number for name, number in merged.items() if number is not None}
        gpus = changes.get(_GPUS, before.gpus)
        stored_gpus = None if gpus is None else list(dict.fromkeys(gpus))
        _store(_SLOTS, stored_slots or None)
        _store(_GPUS, stored_gpus)
        audit.record("update", audit.SERVER, slots=stored_slots, gpus=stored_gpus)
    wake_engine(settings.data_dir)
    return read(settings)


def _store(name: str, value: Mapping[str, int] | Sequence[int] | None) -> None:
    if value is None:
        StoredSetting.delete().where(StoredSetting.name == name).execute()
    else:
        StoredSetting.replace(name=name, value=value).execute()


def why_lowered(changes: Changes, runner: str, requested_gpus: int) -> str | None:
    """Return one sentence if a change lets no job of the runner start, or none with so many GPUs; else None."""
    if changes.slots.get(runner) == 0:
        return f"The {runner} runner has 0 slots, so no job starts until an administrator gives it some."
    if changes.gpus is not None and requested_gpus > len(changes.gpus):
        return f"The job asks for {requested_gpus} GPUs, but an administrator has limited jobs to {len(changes.gpus)}."
    return None
