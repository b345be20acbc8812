"""Fires: the outcome of each time of a schedule.

The engine calls `plan` and `plan_waiting` for what is due. They validate outside a transaction, and return a function
that records the outcome. That function inserts the job, its fire and the next time of the schedule in one transaction,
and the key of a fire is unique. So a time is never lost, and never fires twice, whatever crashes when.
"""

from __future__ import annotations

import datetime
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from peewee import InterfaceError, OperationalError

from polyjob.clock import now, to_microseconds
from polyjob.db.database import database
from polyjob.db.models import Job, Project, Schedule, ScheduleFire, User
from polyjob.db.prepared import Prepared, insert
from polyjob.errors import PolyjobError
from polyjob.services import jobs, submission
from polyjob.services.new_jobs import free_name
from polyjob.services.schedule_times import Times
from polyjob.settings import Settings

LATE_AFTER = datetime.timedelta(seconds=60)
"""A time that is longer ago than this was missed."""
MAX_CAUGHT_UP_RUNS = 100
"""Missed runs of one schedule that `missed: all` makes up for, the latest ones."""
MAX_COUNTED_RUNS = 200
"""Missed runs of one schedule that are counted at once."""
MAX_WAITING_RUNS = 100
"""Runs of one schedule that wait for an earlier one."""
MAX_KEPT_FIRES = 200
"""Fires of one schedule without a job that are kept, the latest ones."""
MAX_REASON_LENGTH = 500
MAX_RESCHEDULED_TIMES = 1000
"""Times that are looked through for one that has not fired, after the clock was set back."""
_LOOKED_BACK_JOBS = 20
"""Latest jobs of a schedule among which earlier ones that are not done are looked for."""

WAITING = "waiting"
MISSED_REASON = "The server did not run at that time, or its clock was changed."
DEFECT_REASON = "Internal error. The server's log has the details."

MaySubmit = Callable[[User, Project], bool]
"""Returns whether a user may submit jobs to a project."""

log = logging.getLogger("polyjob.schedules")


class MissedPolicy(StrEnum):
    """The policy for runs that were missed while the server was down."""

    SKIP = "skip"
    ONCE = "once"
    ALL = "all"


class OverlapPolicy(StrEnum):
    """The policy while an earlier job of the schedule is not done."""

    ALLOW = "allow"
    SKIP = "skip"
    QUEUE = "queue"
    STOP = "stop"


class Outcome(StrEnum):
    SUBMITTED = "submitted"
    WAITING = WAITING
    SKIPPED = "skipped"
    MISSED = "missed"
    FAILED = "failed"


_DUE = Prepared(lambda: Schedule.select().where(Schedule.next_at <= now()).order_by(Schedule.next_at).limit(1))
_WAITING = Prepared(
    lambda: (
        ScheduleFire.select().where(ScheduleFire.outcome == "", ScheduleFire.schedule == 0).order_by(ScheduleFire.id)
    )
)
_FIRE_OF_JOB = Prepared(lambda: ScheduleFire.select().where(ScheduleFire.job == 0))


@dataclass(frozen=True)
class _Run:
    """One run to be submitted."""

    due_at: datetime.datetime
    insert: Callable[[], Job] | None
    reason: str | None = None
    """The reason why it cannot be submitted, if `insert` is None."""


# Look up.


def next_due() -> tuple[datetime.datetime | None, bool]:
    """Return the first time that a schedule has to fire, and whether runs wait for earlier ones."""
    sql = (
        "SELECT (SELECT MIN(next_at) FROM schedule WHERE next_at IS NOT NULL),"
        " EXISTS (SELECT 1 FROM schedule_fire WHERE outcome = 'waiting')"
    )
    due_at, has_waiting = database.execute_sql(sql).fetchone()
    return Schedule.next_at.python_value(due_at), bool(has_waiting)


def due(moment: datetime.datetime, limit: int) -> list[Schedule]:
    """Return the schedules that are due, the longest due first."""
    return _DUE(to_microseconds(moment), limit)


def schedules_with_waiting_runs() -> list[Schedule]:
    """Return the schedules with a run that waits for an earlier one, and may be submitted now."""
    sql = "SELECT DISTINCT schedule_id FROM schedule_fire WHERE outcome = 'waiting'"
    ids = [row[0] for row in database.execute_sql(sql)]
    return [schedule for schedule in map(Schedule.get_by_id, ids) if not _unfinished_jobs(schedule)]


def schedule_id_of(job: Job) -> int | None:
    """Return the id of the schedule that submitted the job, or its first attempt; None if it has none."""
    fire = _FIRE_OF_JOB.first(job.first_attempt_id or job.id)
    return None if fire is None else fire.schedule_id


def times_of(schedule: Schedule) -> Times:
    return Times(schedule.cron, schedule.timezone, schedule.at)


def _unfinished_jobs(schedule: Schedule) -> list[Job]:
    """Return the jobs of the schedule that are not done, and their retries, oldest first."""
    latest = (
        ScheduleFire.select(ScheduleFire.job)
        .where(ScheduleFire.schedule == schedule, ScheduleFire.job.is_null(False))
        .order_by(ScheduleFire.id.desc())
        .limit(_LOOKED_BACK_JOBS)
    )
    of_schedule = Job.id.in_(latest) | Job.first_attempt.in_(latest)
    return list(Job.select().where(of_schedule, Job.finished_at.is_null()).order_by(Job.id))


def _waiting_fires(schedule: Schedule) -> list[ScheduleFire]:
    return _WAITING(WAITING, schedule.id)


# Plan, outside a transaction.


def plan(
    schedule: Schedule, moment: datetime.datetime, settings: Settings, may_submit: MaySubmit
) -> Callable[[], None]:
    """Decide on all times of a schedule up to `moment`. Return a function that records the outcome.

    The function must be called inside `database.write`. It does nothing if the schedule was changed meanwhile.
    """
    times = times_of(schedule)
    instants, has_more = times.latest(schedule.next_at, moment, MAX_COUNTED_RUNS)
    due_instants = _to_submit(schedule, instants, moment)
    missed = instants[: len(instants) - len(due_instants)]
    runs = [_prepare(schedule, instant, settings, may_submit) for instant in due_instants]
    next_at = times.next_after(moment)

    def record() -> None:
        current = Schedule.get_or_none(Schedule.id == schedule.id)
        if current is None or current.version != schedule.version:
            return
        if missed:
            _record_missed(current, missed, has_more)
        for run in runs:
            _fire(current, run)
        _prune(current)
        Schedule.update(next_at=next_at, version=Schedule.version + 1).where(Schedule.id == current.id).execute()

    return record


def _to_submit(
    schedule: Schedule, instants: list[datetime.datetime], moment: datetime.datetime
) -> list[datetime.datetime]:
    """Return the due instants that are submitted; the earlier ones were missed."""
    if schedule.missed == MissedPolicy.ALL:
        return instants[-MAX_CAUGHT_UP_RUNS:]
    if schedule.missed == MissedPolicy.SKIP and instants and moment - instants[-1] > LATE_AFTER:
        return []
    return instants[-1:]


def plan_waiting(schedule: Schedule, settings: Settings, may_submit: MaySubmit) -> Callable[[], None]:
    """Submit the oldest run that waits for an earlier one. Return a function that records the outcome, as `plan`."""
    waiting = _waiting_fires(schedule)[:1]
    runs = [_prepare(schedule, fire.due_at, settings, may_submit) for fire in waiting]

    def record() -> None:
        current = Schedule.get_or_none(Schedule.id == schedule.id)
        if current is None or current.version != schedule.version or _unfinished_jobs(current):
            return
        for fire, run in zip(waiting, runs, strict=True):
            outcome, job, reason = _submit(run)
            _update_fire(fire, outcome=outcome, job=job, reason=reason)
        raise_version(current)

    return record


def _prepare(schedule: Schedule, due_at: datetime.datetime, settings: Settings, may_submit: MaySubmit) -> _Run:
    """Validate a run as a submission of the schedule's user. Never raises for what can be wrong with it."""
    try:
        project, user = Project.get_by_id(schedule.project_id), User.get_by_id(schedule.user_id)
        refusal = _refusal(project, user, may_submit)
        if refusal is not None:
            return _Run(due_at, None, refusal)
        attributes = job_attributes(schedule, project, due_at)
        submit = submission.prepare(project, user, attributes, settings, may_choose_folder=bool(user.is_admin))
    except PolyjobError as error:
        return _Run(due_at, None, str(error))
    except (OperationalError, InterfaceError):
        raise
    except Exception:
        log.exception("schedule %s could not be prepared", schedule.id)
        return _Run(due_at, None, DEFECT_REASON)
    return _Run(due_at, submit)


def _refusal(project: Project, user: User, may_submit: MaySubmit) -> str | None:
    """Return the reason why the user cannot submit jobs to the project any more, or None."""
    if user.deleted_at is not None:
        return f"The user `{user.username}`, who owns the schedule, was deleted."
    if not user.is_active:
        return f"The user `{user.username}`, who owns the schedule, is deactivated."
    if project.archived_at is not None:
        return "The project is archived."
    if not may_submit(user, project):
        return f"The user `{user.username}`, who owns the schedule, may not submit jobs to this project any more."
    return None


def job_attributes(schedule: Schedule, project: Project, due_at: datetime.datetime) -> dict[str, Any]:
    """Return the attributes of the job that is due at this time. Its name ends with the time."""
    attributes = dict(schedule.job)
    name = job_name(schedule)
    if name is not None:
        attributes["name"] = free_name(project, f"{name}-{due_at:%Y%m%dT%H%M%SZ}")
    return attributes


def job_name(schedule: Schedule) -> str | None:
    """Return the name of the schedule's job, to which each run adds its time."""
    name = schedule.job.get("name") or (schedule.job.get("config") or {}).get("name")
    return None if name is None else str(name)


# Record, inside a transaction.


def _fire(schedule: Schedule, run: _Run) -> None:
    """Submit one run, or record why not. Does nothing if the run was decided on before."""
    if _is_recorded(_key(schedule, run.due_at)):
        return
    is_overlap_allowed = schedule.overlap == OverlapPolicy.ALLOW
    unfinished = [] if is_overlap_allowed else _unfinished_jobs(schedule)
    waiting = [] if is_overlap_allowed else _waiting_fires(schedule)
    outcome, job, reason = Outcome.SUBMITTED, None, None
    if not (unfinished or waiting):
        outcome, job, reason = _submit(run)
    elif schedule.overlap == OverlapPolicy.SKIP:
        outcome, reason = Outcome.SKIPPED, f"{_names(unfinished)} was not done."
    elif schedule.overlap == OverlapPolicy.QUEUE and len(waiting) >= MAX_WAITING_RUNS:
        outcome, reason = Outcome.SKIPPED, f"{MAX_WAITING_RUNS} earlier runs were waiting."
    else:
        outcome, reason = Outcome.WAITING, f"{_names(unfinished)} is not done."
        if schedule.overlap == OverlapPolicy.STOP:
            _make_way(unfinished, waiting)
    record_fire(schedule, run.due_at, outcome, job=job, reason=reason)


def _names(unfinished: list[Job]) -> str:
    return f"Job {unfinished[-1].id}" if unfinished else "An earlier run"


def _make_way(unfinished: list[Job], waiting: list[ScheduleFire]) -> None:
    """Request that the earlier jobs stop, and drop the runs that wait for them: the latest run replaces all."""
    for job in unfinished:
        jobs.mark_stopping(job, None)
    for fire in waiting:
        _update_fire(fire, outcome=Outcome.SKIPPED, reason="A later run replaced it.")


def _submit(run: _Run) -> tuple[Outcome, Job | None, str | None]:
    """Insert the job of a run. A refusal leaves nothing of it behind, and becomes the reason."""
    if run.insert is None:
        return Outcome.FAILED, None, run.reason
    try:
        with database.atomic():
            return Outcome.SUBMITTED, run.insert(), None
    except PolyjobError as error:
        return Outcome.FAILED, None, str(error)
    except (OperationalError, InterfaceError):
        raise
    except Exception:
        log.exception("a job of a schedule could not be inserted")
        return Outcome.FAILED, None, DEFECT_REASON


def record_fire(
    schedule: Schedule,
    due_at: datetime.datetime,
    outcome: Outcome,
    *,
    job: Job | None = None,
    reason: str | None = None,
    key: str | None = None,
    **columns: Any,
) -> ScheduleFire:
    """Insert a fire. Must be called inside `database.write`."""
    values = {"schedule": schedule, "key": key or _key(schedule, due_at), "due_at": due_at, "outcome": outcome}
    values |= {"job": job, "reason": _shorten(reason), "created_at": now()}
    return insert(ScheduleFire, values | columns)


def _record_missed(schedule: Schedule, missed: list[datetime.datetime], has_more: bool) -> None:
    """Record runs that were missed one after another as one fire."""
    key = f"{_key(schedule, missed[0])}--{missed[-1].isoformat()}"
    if _is_recorded(key):
        return
    reason = f"{MISSED_REASON} There were more of them." if has_more else MISSED_REASON
    record_fire(schedule, missed[-1], Outcome.MISSED, reason=reason, key=key, count=len(missed))


def _key(schedule: Schedule, due_at: datetime.datetime) -> str:
    return f"schedule:{schedule.id}:{due_at.isoformat()}"


def _is_recorded(key: str) -> bool:
    return bool(ScheduleFire.select().where(ScheduleFire.key == key).exists())


def _shorten(reason: str | None) -> str | None:
    too_long = reason is not None and len(reason) > MAX_REASON_LENGTH
    return f"{reason[: MAX_REASON_LENGTH - 1]}…" if reason is not None and too_long else reason


def _update_fire(fire: ScheduleFire, **columns: Any) -> None:
    if "reason" in columns:
        columns["reason"] = _shorten(columns["reason"])
    ScheduleFire.update(columns).where(ScheduleFire.id == fire.id).execute()


def _prune(schedule: Schedule) -> None:
    """Remove the oldest fires without a job. The others stay as long as their job."""
    sql = (
        "DELETE FROM schedule_fire WHERE schedule_id = ? AND job_id IS NULL AND outcome <> 'waiting' AND id <="
        " (SELECT id FROM schedule_fire WHERE schedule_id = ? AND job_id IS NULL ORDER BY id DESC LIMIT 1 OFFSET ?)"
    )
    database.execute_sql(sql, (schedule.id, schedule.id, MAX_KEPT_FIRES))


def raise_version(schedule: Schedule) -> None:
    Schedule.update(version=Schedule.version + 1).where(Schedule.id == schedule.id).execute()


def skip_waiting(schedule: Schedule, reason: str) -> None:
    """Drop the runs that wait for an earlier one. Must be called inside `database.write`."""
    for fire in _waiting_fires(schedule):
        _update_fire(fire, outcome=Outcome.SKIPPED, reason=reason)


def end_all(project: Project) -> None:
    """End all schedules of the project. Must be called inside `database.write`."""
    Schedule.update(next_at=None, version=Schedule.version + 1).where(Schedule.project == project).execute()
    for schedule in Schedule.select().where(Schedule.project == project):
        skip_waiting(schedule, "The project was deleted.")


# After the clock was set back.


def earlier_times(moment: datetime.datetime) -> Iterator[tuple[Schedule, datetime.datetime]]:
    """Yield each schedule that has a time before its `next_at` and after `moment` that did not fire, and that time.

    A clock that was in the future has moved `next_at` into the future.
    """
    for schedule in Schedule.select().where(Schedule.next_at.is_null(False), Schedule.cron.is_null(False)):
        for number, instant in enumerate(times_of(schedule).after(moment)):
            if instant >= schedule.next_at or number == MAX_RESCHEDULED_TIMES:
                break
            if not _is_recorded(_key(schedule, instant)):
                yield schedule, instant
                break


def reschedule(schedule: Schedule, next_at: datetime.datetime) -> None:
    """Let the schedule fire at this time next, unless it was changed. Must be called inside `database.write`."""
    unchanged = (Schedule.id == schedule.id) & (Schedule.version == schedule.version)
    Schedule.update(next_at=next_at, version=Schedule.version + 1).where(unchanged).execute()
