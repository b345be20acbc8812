"""Status changes: the only code that writes the status of a job or build.

`transition` checks that a status may follow the current one, and records when it did.
"""

from __future__ import annotations

import datetime
import uuid
from collections.abc import Mapping
from typing import Any

from polyjob.clock import now
from polyjob.db.models import Build, BuildStatus, Job, JobStatus
from polyjob.db.prepared import Prepared, insert, update
from polyjob.services.notes import lasting_notes, with_note
from polyjob.statuses import Status, may_follow

MAX_MESSAGE_LENGTH = 256
"""Characters of a status's message."""
_MICROSECOND = datetime.timedelta(microseconds=1)

_JOB_NOTES = Prepared(lambda: Job.select(Job.notes).where(Job.id == 0))
_BUILD_NOTES = Prepared(lambda: Build.select(Build.notes).where(Build.id == 0))


def transition(
    run: Job | Build,
    status: Status,
    *,
    message: str | None = None,
    traceback: str | None = None,
    details: dict[str, Any] | None = None,
    **columns: Any,
) -> JobStatus | BuildStatus | None:
    """Write the run's next status, with `columns` of the same row, and return the new status row.

    Returns None and writes nothing if the status may not follow the current one, or if another writer came first. So it
    is idempotent. Must be called inside `database.write`.

    - `run` is updated as well.
    - A message of more than 256 characters is shortened; the full text becomes the traceback, if there is none.
    - The times of a run's statuses never decrease, whatever the wall clock does.
    - A terminal status removes the notes that describe a wait.
    """
    if not may_follow(status, run.status, managed=bool(run.is_managed)):
        return None
    moment = max(now(), run.updated_at + _MICROSECOND)  # every status sets `updated_at`, and nothing sets it back
    columns |= {"status": status, "updated_at": moment} | _date_columns(run, status, moment)
    if status.is_done:
        columns |= _lasting_notes_column(run, columns)
    if not _write_columns(run, columns, status=run.status):
        return None
    if message is not None and len(message) > MAX_MESSAGE_LENGTH:
        traceback = traceback or message
        message = message[: MAX_MESSAGE_LENGTH - 1] + "…"
    values = {
        "uuid": uuid.uuid4().hex,
        "status": status,
        "message": message,
        "traceback": traceback,
        "details": details,
        "created_at": moment,
    }
    if isinstance(run, Job):
        return insert(JobStatus, values | {"job": run})
    return insert(BuildStatus, values | {"build": run})


def insert_first_status(run: Job | Build) -> None:
    """Write the status `created` of a run that was just inserted."""
    values = {"uuid": uuid.uuid4().hex, "status": Status.CREATED, "created_at": run.created_at}
    if isinstance(run, Job):
        insert(JobStatus, values | {"job": run})
    else:
        insert(BuildStatus, values | {"build": run})


def update_columns(run: Job | Build, **columns: Any) -> bool:
    """Write visible columns other than the status, raise `version` and set `updated_at`.

    Returns whether the row still exists. Must be called inside `database.write`.
    """
    return _write_columns(run, columns | {"updated_at": max(now(), run.updated_at)})


def update_note(run: Job | Build, kind: str, text: str | None) -> None:
    """Set the run's note of this kind; None removes it. Idempotent. Must be called inside `database.write`."""
    notes = with_note(run.notes, kind, text)
    if notes != run.notes:
        update_columns(run, notes=notes)


def _write_columns(run: Job | Build, columns: dict[str, Any], **expected: Any) -> bool:
    if not update(type(run), run.id, columns, increment="version", **expected):
        return False
    for name, value in columns.items():
        setattr(run, name, value)
    run.version += 1
    return True


def _lasting_notes_column(run: Job | Build, columns: Mapping[str, Any]) -> dict[str, Any]:
    """Return the column `notes` without transient notes, if that changes it.

    Reads the row again, because another writer may have added notes since, unless `columns` has new notes.
    """
    if "notes" in columns:
        return {"notes": lasting_notes(columns["notes"])}
    row = (_JOB_NOTES if isinstance(run, Job) else _BUILD_NOTES).first(run.id)
    if row is None or lasting_notes(row.notes) == row.notes:
        return {}
    return {"notes": lasting_notes(row.notes)}


def _date_columns(run: Job | Build, status: Status, moment: datetime.datetime) -> dict[str, Any]:
    """Return the date columns that the status sets. `started_at` is set once: by `scheduled`, or else by `running`."""
    dates = {}
    if run.started_at is None and status in (Status.SCHEDULED, Status.RUNNING):
        dates["started_at"] = moment
    if status.is_done:
        dates["finished_at"] = moment
        if run.started_at is None:
            dates["started_at"] = run.created_at
    return dates
