"""Schedule operations: create, look up, update, pause, resume, delete, and run now. `schedule_fires` fires them.

Each operation is one transaction. The engine looks for new times once per second, so no operation has to wake it.
"""

from __future__ import annotations

import contextlib
import datetime
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from peewee import ModelSelect, fn

from polyjob.clock import now
from polyjob.db.database import database, write
from polyjob.db.models import MAX_SHOWN_FIRES, Job, Project, Schedule, ScheduleFire, User
from polyjob.db.prepared import insert
from polyjob.errors import Invalid, NotFound, Problem
from polyjob.jobconfig.checks import MAX_NAME_LENGTH
from polyjob.jobconfig.commands import shown_command
from polyjob.services import audit, submission
from polyjob.services.idempotency import IdempotentRequest, check_replay
from polyjob.services.schedule_fires import (
    MissedPolicy,
    Outcome,
    OverlapPolicy,
    job_attributes,
    job_name,
    record_fire,
    skip_waiting,
    times_of,
)
from polyjob.services.schedule_times import Times, parse_cron, parse_instant, parse_timezone
from polyjob.settings import Settings

MAX_SCHEDULES = 1000
"""Schedules of one project."""
DEFAULT_TIMEZONE = "UTC"
_TIME_SUFFIX_LENGTH = len("-20261201T020000Z")
_POLICIES = {"missed": MissedPolicy.SKIP, "overlap": OverlapPolicy.ALLOW}
"""Field of a policy → its default."""
_JOB_COLUMNS = (Job.id, Job.name, Job.status)
"""Columns of the job of a fire."""


# Look up.


def list_schedules(project: Project) -> ModelSelect[Schedule]:
    """Return the schedules of a project, oldest first, with their users."""
    query = Schedule.select(Schedule, User).join(User).where(Schedule.project == project)
    return query.order_by(Schedule.id)


def find(project: Project, schedule_id: int) -> Schedule:
    """Return the schedule. Raises NotFound."""
    schedule = list_schedules(project).where(Schedule.id == schedule_id).first()
    if schedule is None:
        raise NotFound(f"There is no schedule {schedule_id} in this project.")
    schedule.project = project
    return schedule


def recent_fires(schedule: Schedule) -> list[ScheduleFire]:
    """Return the latest fires, newest first, with their jobs."""
    query = ScheduleFire.select(ScheduleFire, *_JOB_COLUMNS).left_outer_join(Job)
    return list(query.where(ScheduleFire.schedule == schedule).order_by(ScheduleFire.id.desc()).limit(MAX_SHOWN_FIRES))


def last_fires(schedules: Iterable[Schedule]) -> dict[int, ScheduleFire]:
    """Return the latest fire of each schedule that has one, with its job."""
    ids = [schedule.id for schedule in schedules]
    latest = ScheduleFire.select(fn.MAX(ScheduleFire.id)).where(ScheduleFire.schedule.in_(ids))
    query = ScheduleFire.select(ScheduleFire, *_JOB_COLUMNS).left_outer_join(Job)
    rows = query.where(ScheduleFire.id.in_(latest.group_by(ScheduleFire.schedule)))
    return {fire.schedule_id: fire for fire in rows}


def missed_counts(schedules: Iterable[Schedule]) -> dict[int, int]:
    """Return the number of missed runs of each schedule that has some, as far as they are kept."""
    ids = [schedule.id for schedule in schedules]
    sql = (
        "SELECT schedule_id, SUM(count) FROM schedule_fire WHERE job_id IS NULL AND outcome = 'missed'"
        f" AND schedule_id IN ({', '.join('?' * len(ids))}) GROUP BY schedule_id"
    )
    return dict(database.execute_sql(sql, ids))


# Change.


def create(
    project: Project,
    user: User,
    fields: Mapping[str, Any],
    settings: Settings,
    once: IdempotentRequest | None = None,
    *,
    may_choose_folder: bool = False,
) -> Schedule:
    """Create a schedule that submits jobs on behalf of the user, and return it.

    `fields` has `cron` or `at`, `timezone`, `missed`, `overlap`, and in `job` the attributes that a submission takes.
    Raises Invalid, and for the job what a submission raises, with pointers below `/job`.
    """
    moment = now()
    columns = _time_columns(fields, None, moment)
    columns |= _job_columns(project, user, fields.get("job"), settings, may_choose_folder)
    columns |= {name: fields.get(name) or default for name, default in _POLICIES.items()}
    with write("schedule"):
        store_response = check_replay(once)
        if Schedule.select().where(Schedule.project == project).count() >= MAX_SCHEDULES:
            raise Invalid([Problem("", f"A project has at most {MAX_SCHEDULES} schedules.")])
        _try_job(project, user, columns["job"], settings, may_choose_folder)
        columns |= {"project": project, "user": user, "created_at": moment, "updated_at": moment}
        schedule = insert(Schedule, columns)
        audit.record("create", schedule)
        store_response(schedule)
    return schedule


def update(
    schedule: Schedule, user: User, fields: Mapping[str, Any], settings: Settings, *, may_choose_folder: bool = False
) -> Schedule:
    """Change the fields that are given, and return the schedule. Raises as `create`, and then changes nothing.

    A schedule with a new job submits it on behalf of the user who has changed it.
    """
    columns = {name: fields[name] for name in _POLICIES if fields.get(name) is not None}
    if fields.get("job") is not None:
        columns |= _job_columns(schedule.project, user, fields["job"], settings, may_choose_folder) | {"user": user}
    with write("schedule"):
        current = _reload(schedule)
        if any(fields.get(name) is not None for name in ("cron", "at", "timezone")):
            columns |= _time_columns(fields, current, now())
            if current.paused_at is not None:
                columns["next_at"] = None
        if "job" in columns:
            _try_job(schedule.project, user, columns["job"], settings, may_choose_folder)
        if columns:
            _write_columns(current, **columns)
            audit.record("update", current, changed=sorted(columns.keys() - {"next_at", "command", "user"}))
    return find(schedule.project, schedule.id)


def pause(schedule: Schedule) -> Schedule:
    """Pause the schedule, drop the runs that wait, and return it. It does not fire until it is resumed. Idempotent."""
    with write("schedule"):
        current = _reload(schedule)
        if current.paused_at is None:
            skip_waiting(current, "The schedule was paused.")
            _write_columns(current, paused_at=now(), next_at=None)
            audit.record("pause", current)
    return find(schedule.project, schedule.id)


def resume(schedule: Schedule) -> Schedule:
    """Resume a paused schedule, and return it. The times in between do not count as missed. Idempotent."""
    with write("schedule"):
        current = _reload(schedule)
        if current.paused_at is not None:
            _write_columns(current, paused_at=None, next_at=times_of(current).next_after(now()))
            audit.record("resume", current)
    return find(schedule.project, schedule.id)


def delete(schedule: Schedule) -> None:
    """Delete the schedule with its fires. Its jobs stay. Idempotent."""
    with write("schedule", use_reserve=True):
        if Schedule.delete().where(Schedule.id == schedule.id).execute():
            audit.record("delete", schedule)


def run_now(
    schedule: Schedule,
    user: User,
    settings: Settings,
    once: IdempotentRequest | None = None,
    *,
    may_choose_folder: bool = False,
) -> Job:
    """Submit the schedule's job now, on behalf of the user who requests it, and return it.

    Works for a paused schedule, too, and ignores the overlap policy. Raises what a submission raises.
    """
    moment = now()

    def record(job: Job) -> None:
        current = _reload(schedule)
        record_fire(current, moment, Outcome.SUBMITTED, job=job, is_manual=True)
        _write_columns(current)

    attributes = job_attributes(schedule, schedule.project, moment)
    return submission.create(
        schedule.project, user, attributes, settings, once, may_choose_folder=may_choose_folder, on_insert=record
    )


def _reload(schedule: Schedule) -> Schedule:
    row = Schedule.get_or_none(Schedule.id == schedule.id)
    if row is None:
        raise NotFound("The schedule was deleted.")
    row.project = schedule.project
    return row


def _write_columns(schedule: Schedule, **columns: Any) -> None:
    if columns:
        columns["updated_at"] = now()
    Schedule.update(version=Schedule.version + 1, **columns).where(Schedule.id == schedule.id).execute()


# Check the fields.


def _time_columns(fields: Mapping[str, Any], current: Schedule | None, moment: datetime.datetime) -> dict[str, Any]:
    """Return the columns of the times that the fields set, `next_at` included. `current` is the row to be changed.

    Raises Invalid.
    """
    cron, at = fields.get("cron"), fields.get("at")
    if cron is not None and at is not None:
        raise Invalid([Problem("/at", "A schedule has `cron` or `at`, not both.")])
    if cron is None and at is None and current is None:
        raise Invalid([Problem("/cron", "This field is required, or `at` for one time.")])
    timezone = parse_timezone(fields.get("timezone") or (current.timezone if current else DEFAULT_TIMEZONE))
    if at is not None:
        times = Times(None, timezone, parse_instant(at, timezone, moment))
    elif cron is not None:
        times = Times(parse_cron(cron, timezone), timezone)
    else:
        assert current is not None
        times = Times(current.cron, timezone, current.at)
    return {"cron": times.cron, "timezone": timezone, "at": times.at, "next_at": times.next_after(moment)}


def _job_columns(
    project: Project, user: User, attributes: Mapping[str, Any] | None, settings: Settings, may_choose_folder: bool
) -> dict[str, Any]:
    """Return the columns of the job that a schedule submits. Raises what a submission raises."""
    if attributes is None:
        raise Invalid([Problem("/job", "This field is required.")])
    if attributes.get("is_managed") is False:
        raise Invalid([Problem("/job/is_managed", "polyjob runs the jobs of a schedule; omit this field.")])
    with _below_job():
        submission.prepare(project, user, attributes, settings, may_choose_folder=may_choose_folder)
    stored = {name: value for name, value in attributes.items() if value is not None}
    name = job_name(Schedule(job=stored))
    if name is not None and len(name) > MAX_NAME_LENGTH - _TIME_SUFFIX_LENGTH:
        detail = f"Longer than {MAX_NAME_LENGTH - _TIME_SUFFIX_LENGTH} characters; each run adds its time to the name."
        raise Invalid([Problem("/job/name", detail)])
    return {"job": stored, "command": shown_command(stored.get("config"))}


def _try_job(
    project: Project, user: User, attributes: Mapping[str, Any], settings: Settings, may_choose_folder: bool
) -> None:
    """Insert the job and undo that, so that a schedule is refused for the same reasons as a job.

    Must be called inside `database.write`. Raises Invalid.
    """
    config = {name: value for name, value in attributes["config"].items() if name != "name"}
    unnamed = {**attributes, "name": None, "config": config}
    with _below_job(), database.atomic() as savepoint:
        submission.prepare(project, user, unnamed, settings, may_choose_folder=may_choose_folder)()
        savepoint.rollback()


@contextlib.contextmanager
def _below_job() -> Iterator[None]:
    """Move the pointers of problems below `/job`."""
    try:
        yield
    except Invalid as error:
        raise Invalid([Problem(f"/job{problem.pointer}", problem.detail) for problem in error.problems]) from None
