"""The tables. What they look like in SQLite is said in `migrations/`; a test holds the two together.

Columns named `…_clock` hold an instant of the boot clock as `<boot id>:<seconds>`, which no change of the wall clock
can move.
"""

from __future__ import annotations

from typing import Any

from peewee import (
    SQL,
    AutoField,
    BooleanField,
    CompositeKey,
    DeferredForeignKey,
    ForeignKeyField,
    IntegerField,
    Model,
    TextField,
)

from polyjob.db.database import InstantField, JSONField, database
from polyjob.statuses import Status


class StatusField(TextField):
    def python_value(self, value: str | None) -> Status | None:
        return None if value is None else Status(value)


class Table(Model):
    class Meta:
        database = database
        legacy_table_names = False


class Meta(Table):
    """One row per fact about this installation: `installation` (its id), `secret` (key of signatures), `made_at`."""

    key = TextField(primary_key=True)
    value = TextField()


class User(Table):
    id = AutoField()
    username = TextField(unique=True)
    email = TextField(null=True)
    password_hash = TextField(null=True)
    is_admin = BooleanField(default=False)
    is_active = BooleanField(default=True)
    created_at = InstantField()
    session_version = IntegerField(default=1)
    """Browsers are signed in as long as they were at this number."""
    deleted_at = InstantField(null=True)
    """Nobody any more since then; the row stays for the jobs and builds that name it."""


class Token(Table):
    """A key that a user shows instead of a password. Only its SHA-256 is kept."""

    user_id: int
    id = AutoField()
    user = ForeignKeyField(User, backref="tokens")
    name = TextField()
    digest = TextField(unique=True)
    created_at = InstantField()
    expires_at = InstantField(null=True)
    scope = TextField(default="admin")
    """`read`, `submit` or `admin`: how much of what its user may do the key is good for."""
    project: Any = DeferredForeignKey("Project", null=True)
    """The one project that the key is good for; None = all that its user may use."""
    project_id: int | None
    last_used_at = InstantField(null=True)
    """To the minute."""
    token: str
    """The key itself, in no column: known to whoever just made it."""


class SignInLink(Table):
    """A link that signs its user in once. The row goes when it is used."""

    digest = TextField(primary_key=True)
    user = ForeignKeyField(User)
    expires_at = InstantField()


class EndedSession(Table):
    """A browser's session that was signed out. Its cookie may have copies, and is good for nothing from then on."""

    digest = TextField(primary_key=True)
    """SHA-256 of the session's id."""
    expires_at = InstantField()
    """The cookie itself has expired by then."""


class Project(Table):
    user_id: int
    id = AutoField()
    uuid = TextField(unique=True)
    user = ForeignKeyField(User, backref="projects")
    name = TextField()
    description = TextField(null=True)
    readme = TextField(null=True)
    tags = JSONField(null=True)
    is_public = BooleanField()
    code: Any = DeferredForeignKey("Upload", null=True)
    """The latest upload: what a new job runs with."""
    code_id: int | None
    job_count = IntegerField(default=0)
    """Kept by triggers, as are the three below; never written here."""
    build_count = IntegerField(default=0)
    jobs_version = IntegerField(default=1)
    """Raised by every change of one of its jobs: the ETag of their list."""
    builds_version = IntegerField(default=1)
    created_at = InstantField()
    updated_at = InstantField()
    archived_at = InstantField(null=True)
    deleted_at = InstantField(null=True)
    """Hidden since then; the engine removes the row once nothing that belongs to it is left."""

    @property
    def unique_name(self) -> str:
        return f"{self.user.username}.{self.name}"


class Upload(Table):
    """One upload of a project's files, in the table `code`. The tarball is `<data>/code/<digest>.tar.gz`."""

    class Meta:
        table_name = "code"

    id = AutoField()
    project = ForeignKeyField(Project, backref="uploads")
    user = ForeignKeyField(User)
    digest = TextField()
    """SHA-256 of the unpacked tree, in hex: the same for the same files, however they were packed."""
    size = IntegerField()
    files = JSONField()
    """The requirement files in it: path → SHA-256 of the content."""
    created_at = InstantField()


class Build(Table):
    project_id: int
    user_id: int
    code_id: int | None
    id = AutoField()
    uuid = TextField(unique=True)
    project = ForeignKeyField(Project, backref="builds")
    user = ForeignKeyField(User)
    name = TextField(null=True)
    description = TextField(null=True)
    tags = JSONField(null=True)
    config = JSONField()
    runner = TextField()
    is_managed = BooleanField(default=True)
    key = TextField()
    """Empty for a build that polyjob does not run, which is never reused."""
    key_parts = JSONField()
    code = ForeignKeyField(Upload, null=True)
    status = StatusField(default=Status.CREATED)
    created_at = InstantField()
    updated_at = InstantField()
    started_at = InstantField(null=True)
    finished_at = InstantField(null=True)
    node = TextField(null=True)
    artifact = TextField(null=True)
    stop_at = InstantField(null=True)
    invalidated_at = InstantField(null=True)
    archived_at = InstantField(null=True)
    deleted_at = InstantField(null=True)
    """Hidden since then; the engine removes files and row."""
    is_asked = BooleanField(default=False)
    """Whether a person asked for the build itself, so that it is made although no job waits for it."""
    content = TextField(null=True)
    reason = JSONField(null=True)
    """Why it was made: {"kind", "text", "changed": [parts of the key]}; see `polyjob.services.builds`."""
    notes = JSONField(null=True)
    """As a job's."""
    version = IntegerField(default=1)

    @property
    def unique_name(self) -> str:
        return f"{self.project.unique_name}.builds.{self.id}"


class BuildStatus(Table):
    id = AutoField()
    uuid = TextField(unique=True)
    build = ForeignKeyField(Build, backref="statuses")
    status = StatusField()
    message = TextField(null=True)
    traceback = TextField(null=True)
    details = JSONField(null=True)
    created_at = InstantField()


class Job(Table):
    project_id: int
    user_id: int
    original_id: int | None
    build_id: int | None
    code_id: int | None
    stop_by_id: int | None
    id = AutoField()
    uuid = TextField(unique=True)
    project = ForeignKeyField(Project, backref="jobs")
    user = ForeignKeyField(User)
    name = TextField(null=True)
    description = TextField(null=True)
    readme = TextField(null=True)
    tags = JSONField(null=True)
    data_refs = JSONField(null=True)
    """Names of data sets, each with its version."""
    params = JSONField(null=True)
    """What the job recorded of itself; None = the params of its config."""
    ttl = IntegerField(null=True)
    is_managed = BooleanField(default=True)
    runner = TextField()
    status = StatusField(default=Status.CREATED)
    created_at = InstantField()
    updated_at = InstantField()
    started_at = InstantField(null=True)
    finished_at = InstantField(null=True)
    original = ForeignKeyField("self", null=True)
    cloning_strategy = TextField(null=True)
    build = ForeignKeyField(Build, null=True, backref="jobs")
    code = ForeignKeyField(Upload, null=True)
    node = TextField(null=True)
    notes = JSONField(null=True)
    """What people should know and no status says: a list of {"kind", "text"}; one per kind."""
    reported = JSONField(null=True)
    """Statuses that clients reported of a job that polyjob runs, oldest first: {"status", "message", "created_at"}."""
    exit_code = IntegerField(null=True)

    # What people wish.
    stop_at = InstantField(null=True)
    """When the stop was asked for. Never set once the exit is recorded, so a stop that is set came first."""
    stop_kind = TextField(null=True)
    """Who asked: `person` or `delete`; or what ends the job: `timeout`, or `start` where that kept being refused."""
    stop_by = ForeignKeyField(User, null=True)
    deleted_at = InstantField(null=True)
    """Hidden from people since then; the engine removes files and row once nothing of the job is left."""
    archived_at = InstantField(null=True)

    # What the engine has done.
    attempt_at = InstantField(null=True)
    """Committed before the runner is asked to start the job."""
    attempt_clock = TextField(null=True)
    """The same instant: time limits count from it."""
    handle = TextField(null=True)
    log_cursor = JSONField(null=True)
    term_clock = TextField(null=True)
    exit = JSONField(null=True)
    """The runner's Exit, as JSON. Set once; the slot is free from then on."""
    gpus = JSONField(null=True)
    """Indices of the GPUs that the job holds from its claim on, and that are free once its exit is recorded."""
    cleared_at = InstantField(null=True)
    """Log and outputs were removed then, to make room."""

    version = IntegerField(default=1)
    """Raised by every change that people can see: the ETag."""
    config = JSONField(null=True)
    content = TextField(null=True)

    @property
    def unique_name(self) -> str:
        return f"{self.project.unique_name}.jobs.{self.id}"

    @property
    def effective_params(self) -> dict[str, Any] | None:
        """The params that the job recorded of itself, or else those of its config."""
        recorded: dict[str, Any] | None = self.params
        return recorded if recorded is not None else (self.config or {}).get("params")


class JobStatus(Table):
    id = AutoField()
    uuid = TextField(unique=True)
    job = ForeignKeyField(Job, backref="statuses")
    status = StatusField()
    message = TextField(null=True)
    traceback = TextField(null=True)
    details = JSONField(null=True)
    created_at = InstantField()


class Bookmark(Table):
    """A removed bookmark stays, not set. It goes, by a trigger, with what it marks."""

    id = AutoField()
    user = ForeignKeyField(User)
    kind = TextField()
    """`job`, `build` or `project`."""
    target_id = IntegerField()
    is_set = BooleanField()
    created_at = InstantField()
    updated_at = InstantField()


class Audit(Table):
    """One line of who did what to what, and when. Names are kept as they were."""

    user_id: int | None
    project_id: int | None
    id = AutoField()
    created_at = InstantField()
    user = ForeignKeyField(User, null=True)
    username = TextField()
    token = TextField(null=True)
    """The name of the key that was shown; None for a browser's session."""
    address = TextField(null=True)
    action = TextField()
    """A verb: `create`, `stop`, `delete` …"""
    kind = TextField()
    """What it was done to: `job`, `build`, `project`, `user`, `token`."""
    target_id = IntegerField(null=True)
    target = TextField()
    project = ForeignKeyField(Project, null=True)
    details = JSONField(null=True)


class Idempotency(Table):
    """The first answer to a request that carried this user's Idempotency-Key."""

    user = ForeignKeyField(User)
    key = TextField()
    """The project's id, a blank, and the key as it was sent."""
    digest = TextField()
    """SHA-256 of method, path and body."""
    answer = TextField()
    """The answer's body."""
    created_at = InstantField()

    class Meta:
        primary_key = CompositeKey("user", "key")


TABLES: tuple[type[Table], ...] = (
    Meta,
    User,
    Token,
    SignInLink,
    EndedSession,
    Project,
    Upload,
    Build,
    BuildStatus,
    Job,
    JobStatus,
    Bookmark,
    Audit,
    Idempotency,
)

# Conditions word for word as the partial indexes have them, or SQLite would not use those.
QUEUED = SQL("status = 'created' AND is_managed = 1")
"""Jobs that wait to be claimed; in the order of their ids."""
CLAIMED = SQL("is_managed = 1 AND status IN ('scheduled', 'building', 'running')")
"""Jobs that the engine has taken up and not ended."""
DELETED = SQL("deleted_at IS NOT NULL")
SHOWN = SQL("deleted_at IS NULL AND archived_at IS NULL")
"""What lists show."""
UNDELETED = SQL("deleted_at IS NULL")
ARCHIVED = SQL("deleted_at IS NULL AND archived_at IS NOT NULL")
LIVE_BUILDS = SQL("is_managed = 1 AND finished_at IS NULL")
"""Builds that the engine has to make or to end."""
