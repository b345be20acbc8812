"""Schedules with their fires, and webhooks with their deliveries."""

from __future__ import annotations

from typing import Any

from peewee import AutoField, BooleanField, ForeignKeyField, IntegerField, TextField

from polyjob.db.database import InstantField, JSONField
from polyjob.db.models.accounts import User
from polyjob.db.models.projects import Project
from polyjob.db.models.runs import Job
from polyjob.db.models.table import Table


class Schedule(Table):
    """A schedule: it submits the same job at certain times. See `services.schedules`."""

    project_id: int
    user_id: int
    id = AutoField()
    project = ForeignKeyField(Project, backref="schedules", on_delete="CASCADE")
    user = ForeignKeyField(User)
    """The user on whose behalf it submits jobs."""
    cron = TextField(null=True)
    timezone = TextField()
    at = InstantField(null=True)
    """The one time of a schedule without a cron expression."""
    missed = TextField()
    """The policy for runs that were missed: `skip`, `once` or `all`."""
    overlap = TextField()
    """The policy while an earlier job is not done: `allow`, `skip`, `queue` or `stop`."""
    job = JSONField()
    """The attributes of the job, as `services.submission` takes them."""
    command = TextField(null=True)
    """The beginning of the job's command, for lists."""
    next_at = InstantField(null=True)
    """The next time that is not decided on. None while it is paused, and after its last time."""
    paused_at = InstantField(null=True)
    created_at = InstantField()
    updated_at = InstantField()
    version = IntegerField(default=1)
    """Raised by every change, also by each fire."""

    @property
    def unique_name(self) -> str:
        return f"{self.project.unique_name}.schedules.{self.id}"


MAX_SHOWN_FIRES = 50
"""Latest fires that a schedule shows. Their jobs are not deleted for their age."""


class ScheduleFire(Table):
    """The outcome of one time of a schedule."""

    schedule_id: int
    job_id: int | None
    id = AutoField()
    schedule = ForeignKeyField(Schedule, backref="fires", on_delete="CASCADE")
    key = TextField(unique=True)
    """`schedule:ID:INSTANT`. It is inserted in the transaction of the job, so that nothing fires twice."""
    due_at = InstantField()
    is_manual = BooleanField(default=False)
    """True if a user requested this run."""
    outcome = TextField()
    """`submitted`, `waiting`, `skipped`, `missed` or `failed`."""
    reason = TextField(null=True)
    count = IntegerField(default=1)
    """The number of times that this row stands for. Runs that were missed one after another share a row."""
    job = ForeignKeyField(Job, null=True, on_delete="SET NULL")
    created_at = InstantField()


class Webhook(Table):
    """A URL that receives events of jobs: of one job if `job_id` is set, else of a project, or else of all jobs.

    The one without a project is that of the setting `POLYJOB_NOTIFY_URL`; the engine keeps it up to date.
    """

    user_id: int | None
    id = AutoField()
    project_id = IntegerField(null=True)
    job_id = IntegerField(null=True)
    user = ForeignKeyField(User, null=True)
    url = TextField()
    """It can contain a secret. Only the engine uses it; `services.webhooks.shown_url` is for people."""
    events = JSONField()
    secret = TextField(null=True)
    """The key of the signatures; None means that deliveries are not signed."""
    created_at = InstantField()


class Delivery(Table):
    """An event for a webhook, written in the transaction of the event. The engine sends it."""

    webhook_id: int
    id = AutoField()
    uuid = TextField(unique=True)
    """The id that every try sends."""
    webhook = ForeignKeyField(Webhook, backref="deliveries")
    job_id = IntegerField(null=True)
    event = TextField()
    job = JSONField(null=True)
    """The job at the time of the event, as lists of the API show it."""
    origin = TextField()
    """Scheme, host and port of the URL."""
    created_at = InstantField()
    attempts = IntegerField(default=0)
    next_try_at = InstantField(null=True)
    """None once the delivery has succeeded or was given up. The epoch until the first try."""
    tried_at = InstantField(null=True)
    delivered_at = InstantField(null=True)
    status_code = IntegerField(null=True)
    response = TextField(null=True)
    """The beginning of the last response's body."""
    error = TextField(null=True)
    """The reason why the last try failed, as a sentence."""

    @property
    def retry_at(self) -> Any:
        """The time of the next try after one that has failed, or None."""
        return self.next_try_at if self.attempts else None
