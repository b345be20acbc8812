"""The tables as peewee models. `migrations/` creates them in SQLite; a test compares the two.

Columns named `…_clock` have a time on the boot clock as `<boot id>:<seconds>`. Changes of the wall clock do not affect
it.
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
    """Facts about this installation: `installation` (its id), `secret` (the key for signatures), `made_at`."""

    key = TextField(primary_key=True)
    value = TextField()


class StoredSetting(Table):
    """A setting that an administrator has changed while the server ran."""

    name = TextField(primary_key=True)
    value = JSONField()


class User(Table):
    id = AutoField()
    username = TextField(unique=True)
    email = TextField(null=True)
    password_hash = TextField(null=True)
    is_admin = BooleanField(default=False)
    is_active = BooleanField(default=True)
    created_at = InstantField()
    session_version = IntegerField(default=1)
    """Browser sessions are valid only with this version; raising it ends all sessions of the user."""
    deleted_at = InstantField(null=True)
    """Time of deletion. The row stays, because jobs and builds refer to it."""


class Token(Table):
    """An API token of a user. Only its SHA-256 is stored."""

    user_id: int
    id = AutoField()
    user = ForeignKeyField(User, backref="tokens")
    name = TextField()
    digest = TextField(unique=True)
    created_at = InstantField()
    expires_at = InstantField(null=True)
    scope = TextField(default="admin")
    """`read`, `submit` or `admin`: limits what the token may do on behalf of its user."""
    project: Any = DeferredForeignKey("Project", null=True)
    """The only project for which the token is valid; None means every project that its user may use."""
    project_id: int | None
    last_used_at = InstantField(null=True)
    """Accurate to the minute."""
    token: str
    """The token itself. It is not stored; only the code that just created it has it."""


class SignInLink(Table):
    """A link that signs its user in once. Its use deletes the row."""

    digest = TextField(primary_key=True)
    user = ForeignKeyField(User)
    expires_at = InstantField()


class EndedSession(Table):
    """A browser session that was signed out. Its row makes copies of its cookie invalid."""

    digest = TextField(primary_key=True)
    """SHA-256 of the session's id."""
    expires_at = InstantField()
    """Expiry of the cookie itself. The row is not needed after that."""


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
    """The latest upload, with which new jobs run."""
    code_id: int | None
    job_count = IntegerField(default=0)
    """Maintained by triggers, like the next three columns; never written by Python."""
    build_count = IntegerField(default=0)
    jobs_version = IntegerField(default=1)
    """Raised by every change of a job of the project: the ETag of their list."""
    builds_version = IntegerField(default=1)
    created_at = InstantField()
    updated_at = InstantField()
    archived_at = InstantField(null=True)
    deleted_at = InstantField(null=True)
    """Time of deletion. The project is hidden, and the engine removes the row after everything in it."""

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
    """SHA-256 of the unpacked tree in hex. It is the same for the same files, however they were packed."""
    size = IntegerField()
    files = JSONField()
    """The requirement files in the upload: SHA-256 of the content by path."""
    created_at = InstantField()


class Member(Table):
    """A user with a role in a project of somebody else."""

    user_id: int
    project_id: int
    user = ForeignKeyField(User)
    project = ForeignKeyField(Project)
    role = TextField()
    """`read`, `submit` or `manage`; see `polyjob.auth.roles`."""
    created_at = InstantField()

    class Meta:
        primary_key = CompositeKey("user", "project")


class InviteLink(Table):
    """A link with which a person creates an account. Its use deletes the row."""

    digest = TextField(primary_key=True)
    creator = ForeignKeyField(User)
    project = ForeignKeyField(Project, null=True)
    role = TextField(null=True)
    """The role of the new user in the project."""
    expires_at = InstantField()
    token: str
    """The token itself. It is not stored; only the code that just created it has it."""
    url: str
    """The address of the link, which has the token."""

    @property
    def id(self) -> str:
        """The name of the link for people, from which its token cannot be guessed."""
        return str(self.digest)[:16]


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
    """The build key: builds with the same key have the same result. Empty if polyjob does not run the build."""
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
    """Time of deletion. The build is hidden, and the engine removes its files and the row."""
    is_asked = BooleanField(default=False)
    """True if a user requested the build itself, so that it runs although no job waits for it."""
    content = TextField(null=True)
    reason = JSONField(null=True)
    """Reason why the build was created: {"kind", "text", "changed": [parts of the key]}; see `services.build_reuse`."""
    notes = JSONField(null=True)
    """Notes; see `polyjob.services.notes`."""
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
    first_attempt_id: int | None
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
    """Params that the job recorded itself; None means the params of its config."""
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
    """Notes: a list of {"kind", "text"}, at most one of each kind; see `polyjob.services.notes`."""
    reported = JSONField(null=True)
    """Statuses that clients reported while polyjob runs the job, oldest first: {"status", "message", "created_at"}."""
    exit_code = IntegerField(null=True)

    # The desired state, written by the services.
    stop_at = InstantField(null=True)
    """Time of the stop request. It is never set after the exit is recorded, so a stop that is set came first."""
    stop_kind = TextField(null=True)
    """Reason for the stop: `person`, `delete`, `timeout`, or `start` if the backend kept refusing to start it."""
    stop_by = ForeignKeyField(User, null=True)
    deleted_at = InstantField(null=True)
    """Time of deletion. The job is hidden, and the engine removes its files and the row once it has stopped."""
    archived_at = InstantField(null=True)

    # The actual state, written by the engine.
    attempt_at = InstantField(null=True)
    """Time of the first attempt to start the job. Committed before the runner is called."""
    attempt_clock = TextField(null=True)
    """The same time on the boot clock. Time limits count from it."""
    handle = TextField(null=True)
    log_cursor = JSONField(null=True)
    term_clock = TextField(null=True)
    exit = JSONField(null=True)
    """The runner's Exit as JSON. It is set once, and frees the slot."""
    gpus = JSONField(null=True)
    """Indices of the GPUs that the job holds from its claim until its exit is recorded."""
    cleared_at = InstantField(null=True)
    """Time at which garbage collection removed the log and the outputs."""

    version = IntegerField(default=1)
    """Raised by every visible change: the ETag."""
    command = TextField(null=True)
    """The beginning of the config's command, for lists; see `shown_command`."""
    retry_number = IntegerField(default=0)
    """Number of this retry of the first attempt; 0 if the job is none."""
    first_attempt = ForeignKeyField("self", null=True, backref="retries")
    """The job that this one retries, after the retries before it."""
    is_held = BooleanField(default=False)
    """While the status is `created`: true if the job is not in the queue of its runner, because it waits for a time or
    for other jobs."""
    wait_until = InstantField(null=True)
    """Time before which a retry is not started."""
    has_dependencies = BooleanField(default=False)
    """Whether the request named jobs that have to end first."""
    is_awaited = BooleanField(default=False)
    """Whether other jobs wait for the end of this one, or have waited."""

    # Large values. They are the last columns of the table, because SQLite reads a row up to the last column that a
    # statement needs.
    config = JSONField(null=True)
    content = TextField(null=True)

    queue_state: Any = None
    """The `job_queue.QueueState` just after the job was accepted. Only the code that just created the job has it."""
    notify_secret: str | None = None
    """The secret of the job's own webhook. It is not stored here; only the code that just created the job has it."""

    @property
    def unique_name(self) -> str:
        return f"{self.project.unique_name}.jobs.{self.id}"

    @property
    def effective_params(self) -> dict[str, Any] | None:
        """The params that the job recorded itself, or else those of its config."""
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


class Dependency(Table):
    """A job that waits for another one; see `polyjob.services.dependencies`."""

    job_id: int
    upstream_id: int | None
    id = AutoField()
    job = ForeignKeyField(Job, backref="dependencies")
    upstream = ForeignKeyField(Job, null=True, backref="dependents")
    condition = TextField()
    """`success`, `failure` or `end`."""
    is_met = BooleanField(default=False)
    folder = TextField(null=True)
    """Name of the folder in which the job finds the outputs of the other one; null if it only waits."""


class Queue(Table):
    """The number of queued jobs of a runner. Triggers maintain the rows; Python never writes them."""

    runner = TextField(primary_key=True)
    length = IntegerField()


class JobTag(Table):
    """A tag of a job that lists show. Triggers maintain the rows; Python never writes them."""

    job = ForeignKeyField(Job)
    tag = TextField()
    project_id = IntegerField()
    created_at = InstantField()
    updated_at = InstantField()

    class Meta:
        primary_key = CompositeKey("job", "tag")


class Bookmark(Table):
    """A bookmark. A removed one keeps its row with `is_set` false. A trigger deletes the row with its target."""

    id = AutoField()
    user = ForeignKeyField(User)
    kind = TextField()
    """`job`, `build` or `project`."""
    target_id = IntegerField()
    is_set = BooleanField()
    created_at = InstantField()
    updated_at = InstantField()


class Audit(Table):
    """An entry of the audit trail. It stores names, so that it outlives what it refers to."""

    user_id: int | None
    project_id: int | None
    id = AutoField()
    created_at = InstantField()
    user = ForeignKeyField(User, null=True)
    username = TextField()
    token = TextField(null=True)
    """The name of the token; None for a browser session."""
    address = TextField(null=True)
    action = TextField()
    """A verb: `create`, `stop`, `delete` …"""
    kind = TextField()
    """The kind of the target: `job`, `build`, `project`, `schedule`, `user`, `token` or `server`."""
    target_id = IntegerField(null=True)
    target = TextField()
    project = ForeignKeyField(Project, null=True)
    details = JSONField(null=True)


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


class Secret(Table):
    """A secret that jobs receive as a variable: of one project, or without a project of all jobs of the server."""

    user_id: int | None
    project_id: int | None
    id = AutoField()
    project = ForeignKeyField(Project, null=True, on_delete="CASCADE")
    name = TextField()
    value = TextField()
    """Encrypted; see `storage.secret_box`."""
    user = ForeignKeyField(User, null=True, on_delete="SET NULL")
    """The user who set the value last."""
    created_at = InstantField()
    updated_at = InstantField()

    @property
    def unique_name(self) -> str:
        prefix = f"{self.project.unique_name}." if self.project is not None else ""
        return f"{prefix}secrets.{self.name}"


class Idempotency(Table):
    """The first response to a request with an Idempotency-Key."""

    user = ForeignKeyField(User)
    key = TextField()
    """The id of the project, a space, and the key that the client sent."""
    digest = TextField()
    """SHA-256 of method, path and body."""
    answer = TextField()
    """The body of the response."""
    created_at = InstantField()

    class Meta:
        primary_key = CompositeKey("user", "key")


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


TABLES: tuple[type[Table], ...] = (
    Meta,
    StoredSetting,
    User,
    Token,
    SignInLink,
    EndedSession,
    Project,
    Member,
    InviteLink,
    Upload,
    Build,
    BuildStatus,
    Job,
    JobStatus,
    Dependency,
    Queue,
    JobTag,
    Bookmark,
    Audit,
    Schedule,
    ScheduleFire,
    Secret,
    Idempotency,
    Webhook,
    Delivery,
)

# These conditions repeat those of the partial indexes literally; otherwise SQLite would not use the indexes.
QUEUED = SQL("status = 'created' AND is_managed = 1 AND is_held = 0")
"""Jobs that wait to be claimed, in the order of their ids."""
DELAYED = SQL("wait_until IS NOT NULL AND is_held = 1 AND status = 'created'")
"""Jobs that wait for a time."""
CLAIMED = SQL("is_managed = 1 AND status IN ('scheduled', 'building', 'running')")
"""Jobs that the engine has claimed and not ended."""
DELETED = SQL("deleted_at IS NOT NULL")
LISTED = SQL("deleted_at IS NULL AND archived_at IS NULL")
"""Rows that lists show."""
UNDELETED = SQL("deleted_at IS NULL")
ARCHIVED = SQL("deleted_at IS NULL AND archived_at IS NOT NULL")
PENDING = SQL("next_try_at IS NOT NULL")
"""Deliveries that the engine still has to send."""
LIVE_BUILDS = SQL("is_managed = 1 AND finished_at IS NULL")
"""Builds that the engine has to run or to end."""
