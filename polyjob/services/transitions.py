"""The only writer of statuses: `transition` guards, records and dates every change of a job's or build's status."""

from __future__ import annotations

import datetime
import uuid
from typing import Any

from polyjob.clock import from_microseconds, now
from polyjob.db.database import database
from polyjob.db.models import Build, BuildStatus, Job, JobStatus
from polyjob.db.prepared import insert, update
from polyjob.services.notes import lasting_notes, with_note
from polyjob.statuses import Status, may_follow

MAX_MESSAGE_LENGTH = 256
_MICROSECOND = datetime.timedelta(microseconds=1)


def transition(
    run: Job | Build,
    status: Status,
    *,
    message: str | None = None,
    traceback: str | None = None,
    details: dict[str, Any] | None = None,
    **columns: Any,
) -> JobStatus | BuildStatus | None:
    """Write `status` behind the run's current one, with `columns` of the same row, and return the new status row.

    Returns None and writes nothing where the status may not follow or another writer came first; idempotent in that
    sense. Must be called inside `database.write`. `run` is brought up to date. A message over 256 characters is cut,
    its whole text going to the traceback. A run's statuses never go back in time, whatever the wall clock does. What is
    done says no more that it waits for something.
    """
    if not may_follow(status, run.status, managed=bool(run.is_managed)):
        return None
    moment = _next_moment(run)
    columns |= {"status": status, "updated_at": moment} | _dates(run, status, moment)
    if status.is_done:
        columns |= _last_notes(run)
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
    """Write the status `created` of a run just inserted."""
    values = {"uuid": uuid.uuid4().hex, "status": Status.CREATED, "created_at": run.created_at}
    if isinstance(run, Job):
        insert(JobStatus, values | {"job": run})
    else:
        insert(BuildStatus, values | {"build": run})


def update_columns(run: Job | Build, **columns: Any) -> bool:
    """Write columns that people can see, other than the status: raises `version`, moves `updated_at`.

    Returns whether the row was still there. Must be called inside `database.write`.
    """
    return _write_columns(run, columns | {"updated_at": max(now(), run.updated_at)})


def update_note(run: Job | Build, kind: str, text: str | None) -> None:
    """Replace the run's note of this kind; None removes it. Idempotent. Must be called inside `database.write`."""
    notes = with_note(run.notes, kind, text)
    if notes != run.notes:
        update_columns(run, notes=notes)


def _write_columns(run: Job | Build, columns: dict[str, Any], **expected: Any) -> bool:
    if not update(type(run), run.id, columns, raised="version", **expected):
        return False
    for name, value in columns.items():
        setattr(run, name, value)
    run.version += 1
    return True


def _next_moment(run: Job | Build) -> datetime.datetime:
    owner = "job" if isinstance(run, Job) else "build"
    sql = f"SELECT MAX(created_at) FROM {owner}_status WHERE {owner}_id = ?"
    last = database.execute_sql(sql, (run.id,)).fetchone()[0]
    return max(now(), from_microseconds(last) + _MICROSECOND) if last else now()


def _last_notes(run: Job | Build) -> dict[str, Any]:
    """`notes` as they stay, where they change. Others may have written them since the run was read."""
    row = type(run).select(type(run).notes).where(type(run).id == run.id).first()
    if row is None or lasting_notes(row.notes) == row.notes:
        return {}
    return {"notes": lasting_notes(row.notes)}


def _dates(run: Job | Build, status: Status, moment: datetime.datetime) -> dict[str, Any]:
    """`started_at` is the time of `scheduled` or, where that never came, of `running`; set once."""
    dates = {}
    if run.started_at is None and status in (Status.SCHEDULED, Status.RUNNING):
        dates["started_at"] = moment
    if status.is_done:
        dates["finished_at"] = moment
        if run.started_at is None:
            dates["started_at"] = run.created_at
    return dates
