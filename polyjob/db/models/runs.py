"""Jobs and builds with their statuses, dependencies, queues, tags and bookmarks."""

from __future__ import annotations

from typing import Any

from peewee import AutoField, BooleanField, CompositeKey, ForeignKeyField, IntegerField, TextField

from polyjob.db.database import InstantField, JSONField
from polyjob.db.models.accounts import User
from polyjob.db.models.projects import Project, Upload
from polyjob.db.models.table import StatusField, Table
from polyjob.statuses import Status


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
