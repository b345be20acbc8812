"""Schedules: responses, and the bodies that create and update them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Self

from marshmallow import Schema, fields, validate

from polyjob.api.schemas.common import Body, Instant, load_body
from polyjob.api.schemas.job_bodies import JobCreateBody, read_job_create
from polyjob.db.models import Project, Schedule, ScheduleFire
from polyjob.errors import Invalid, Problem
from polyjob.jobconfig.fields import ShortText
from polyjob.services.schedule_fires import MissedPolicy, Outcome, OverlapPolicy, job_name

# Responses.


@dataclass(frozen=True, kw_only=True)
class FireView:
    """The outcome of one time of a schedule. The names are those of the API."""

    due_at: datetime
    outcome: str
    reason: str | None
    count: int
    is_manual: bool
    job: str | None
    job_status: str | None
    created_at: datetime

    @classmethod
    def from_row(cls, fire: ScheduleFire, project: Project) -> Self:
        job = fire.job if fire.job_id else None
        return cls(
            due_at=fire.due_at,
            outcome=fire.outcome,
            reason=fire.reason,
            count=fire.count,
            is_manual=fire.is_manual,
            job=f"{project.unique_name}.jobs.{job.id}" if job else None,
            job_status=job.status if job else None,
            created_at=fire.created_at,
        )


@dataclass(frozen=True, kw_only=True)
class ScheduleRow:
    """A schedule in a list."""

    id: int
    unique_name: str
    project: str
    user: str
    cron: str | None
    at: datetime | None
    timezone: str
    missed: str
    overlap: str
    name: str | None
    command: str | None
    is_paused: bool
    next_at: datetime | None
    last_fire: FireView | None
    missed_count: int
    created_at: datetime
    updated_at: datetime

    @classmethod
    def from_row(
        cls, schedule: Schedule, project: Project, *, last_fire: ScheduleFire | None, missed_count: int, **details: Any
    ) -> Self:
        """Show a database row. `details` are the fields of a subclass."""
        return cls(
            id=schedule.id,
            unique_name=f"{project.unique_name}.schedules.{schedule.id}",
            project=project.unique_name,
            user=schedule.user.username,
            cron=schedule.cron,
            at=schedule.at,
            timezone=schedule.timezone,
            missed=schedule.missed,
            overlap=schedule.overlap,
            name=job_name(schedule),
            command=schedule.command,
            is_paused=schedule.paused_at is not None,
            next_at=schedule.next_at,
            last_fire=FireView.from_row(last_fire, project) if last_fire else None,
            missed_count=missed_count,
            created_at=schedule.created_at,
            updated_at=schedule.updated_at,
            **details,
        )


@dataclass(frozen=True, kw_only=True)
class ScheduleView(ScheduleRow):
    """A schedule with all its fields."""

    job: Mapping[str, Any]
    fires: Sequence[FireView]
    urls: Mapping[str, str]

    @classmethod
    def from_schedule(cls, schedule: Schedule, fires: Sequence[ScheduleFire], *, missed_count: int, root: str) -> Self:
        """Show a schedule with its latest fires. `root` is the address of the server, without a final slash."""
        project = schedule.project
        path = f"{project.user.username}/{project.name}/schedules/{schedule.id}"
        return cls.from_row(
            schedule,
            project,
            last_fire=fires[0] if fires else None,
            missed_count=missed_count,
            job={name: value for name, value in schedule.job.items() if name != "notify"},  # it may have a secret
            fires=[FireView.from_row(fire, project) for fire in fires],
            urls={"page": f"{root}/{path}", "self": f"{root}/api/v1/{path}"},
        )


class FireSchema(Schema):
    """The outcome of one time of a schedule."""

    due_at = Instant()
    outcome = fields.String(metadata={"enum": [str(outcome) for outcome in Outcome]})
    reason = fields.String(allow_none=True, metadata={"description": "Why no job was submitted."})
    count = fields.Integer(
        metadata={"description": "Number of runs that this stands for. Runs that were missed in a row are one item."}
    )
    is_manual = fields.Boolean(metadata={"description": "True if a user requested the run."})
    job = fields.String(allow_none=True)
    job_status = fields.String(allow_none=True)
    created_at = Instant()


class ScheduleRowSchema(Schema):
    """A schedule in a list."""

    id = fields.Integer()
    unique_name = fields.String()
    project = fields.String()
    user = fields.String(metadata={"description": "The user on whose behalf it submits jobs."})
    cron = fields.String(allow_none=True)
    at = Instant(allow_none=True)
    timezone = fields.String()
    missed = fields.String(metadata={"enum": [str(policy) for policy in MissedPolicy]})
    overlap = fields.String(metadata={"enum": [str(policy) for policy in OverlapPolicy]})
    name = fields.String(
        allow_none=True, metadata={"description": "Name of its jobs, to which each run adds its time."}
    )
    command = fields.String(allow_none=True)
    is_paused = fields.Boolean()
    next_at = Instant(allow_none=True, metadata={"description": "The next time; null if it is paused or has ended."})
    last_fire = fields.Nested(FireSchema, allow_none=True)
    missed_count = fields.Integer(metadata={"description": "Number of missed runs among the fires that are kept."})
    created_at = Instant()
    updated_at = Instant()


class ScheduleSchema(ScheduleRowSchema):
    """A schedule with its job and its latest fires."""

    job = fields.Dict(metadata={"description": "The attributes of the job that it submits."})
    fires = fields.List(fields.Nested(FireSchema), metadata={"description": "The latest fires, newest first."})
    urls = fields.Dict(keys=fields.String(), values=fields.String())


# Bodies.


def _policy(policies: type[MissedPolicy] | type[OverlapPolicy], description: str) -> fields.String:
    choices = [str(policy) for policy in policies]
    error = f"Must be one of: {', '.join(choices)}."
    return fields.String(validate=validate.OneOf(choices, error=error), metadata={"description": description})


class _TimesBody(Body):
    cron = ShortText(metadata={"description": "A cron expression of five fields, such as `0 3 * * *`."})
    at = ShortText(metadata={"description": "One time instead of `cron`, as ISO 8601."})
    timezone = ShortText(
        metadata={"description": "Time zone of `cron`, and of an `at` without offset: `Europe/Berlin`."}
    )
    missed = _policy(MissedPolicy, "For runs that were missed while the server was down; `skip` by default.")
    overlap = _policy(OverlapPolicy, "While an earlier job is not done; `allow` by default.")


class ScheduleChangeBody(_TimesBody):
    job = fields.Nested(JobCreateBody, metadata={"description": "The job, as a body that submits one."})


class ScheduleBody(ScheduleChangeBody):
    """A new schedule, with `job` and either `cron` or `at`."""


class _Fields(_TimesBody):
    """The fields of a schedule. The body of its job is read separately."""

    job = fields.Raw()


_FIELDS = _Fields()


@dataclass(frozen=True)
class ParsedSchedule:
    fields: dict[str, Any]
    """As `services.schedules.create` takes them."""
    config_pointer: str
    """JSON pointer to the config of the job."""


def read_schedule(body: Mapping[str, Any]) -> ParsedSchedule:
    """Read the body of a new or changed schedule. Raises Invalid with all problems of it, or all of its job."""
    values = load_body(_FIELDS, body)
    job = values.get("job")
    if job is None:
        return ParsedSchedule(values, "/job/config")
    if not isinstance(job, Mapping):
        raise Invalid([Problem("/job", "Not an object.")])
    try:
        parsed = read_job_create(job)
    except Invalid as error:
        raise Invalid([Problem(f"/job{problem.pointer}", problem.detail) for problem in error.problems]) from None
    if parsed.attributes.get("after"):
        raise Invalid([Problem("/job/after", "The job of a schedule cannot wait for other jobs.")])
    return ParsedSchedule(values | {"job": parsed.attributes}, f"/job{parsed.config_pointer}")
