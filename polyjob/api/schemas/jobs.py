"""Jobs in responses: the values that are shown, and their schemas."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Self

from marshmallow import Schema, fields

from polyjob.api.schemas.common import Instant, NoteSchema
from polyjob.db.models import Job
from polyjob.formatting import describe_exit
from polyjob.jobconfig.commands import MAX_SHOWN_COMMAND_LENGTH
from polyjob.services import dependencies, job_retries

CLIENT_RESOURCES = ("cpu", "memory", "gpu", "tpu")
"""Resources that old clients know. They fail on any other key."""
_INSTANTS = ("created_at", "updated_at", "started_at", "finished_at", "wait_until")
_EXIT_FIELDS = ("reason", "code", "signal", "max_rss", "cpu_seconds")


@dataclass(frozen=True, kw_only=True)
class JobRow:
    """A job in a list. The names are those of the API."""

    id: int
    uuid: str
    name: str | None
    unique_name: str
    pod_id: str
    user: str
    description: str | None
    created_at: datetime
    updated_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    last_status: str
    tags: list[str] | None
    project: str
    build_job: str | None
    original: str | None
    cloning_strategy: str | None
    is_clone: bool
    backend: str
    is_managed: bool
    in_cluster: bool
    bookmarked: bool
    node_scheduled: str | None
    exit_code: int | None
    ttl: int | None
    command: str | None
    reason: str | None

    @classmethod
    def from_row(cls, job: Job, *, bookmarked: bool, **details: Any) -> Self:
        """Show a database row, of which a list loads only some columns. `details` are the fields of a subclass."""
        project = job.project.unique_name
        column = job.__data__.get  # several times faster than the attributes
        job_id, uuid, build_id, original_id = column("id"), column("uuid"), column("build"), column("original")
        return cls(
            id=job_id,
            uuid=uuid,
            name=column("name"),
            unique_name=f"{project}.jobs.{job_id}",
            pod_id=f"plx-job-{uuid}",
            user=job.user.username,
            description=column("description"),
            created_at=column("created_at"),
            updated_at=column("updated_at"),
            started_at=column("started_at"),
            finished_at=column("finished_at"),
            last_status=column("status"),
            tags=column("tags"),
            project=project,
            build_job=f"{project}.builds.{build_id}" if build_id else None,
            original=f"{project}.jobs.{original_id}" if original_id else None,
            cloning_strategy=column("cloning_strategy"),
            is_clone=original_id is not None,
            backend=column("runner"),
            is_managed=column("is_managed"),
            in_cluster=column("is_managed"),
            bookmarked=bookmarked,
            node_scheduled=column("node"),
            exit_code=column("exit_code"),
            ttl=column("ttl"),
            command=column("command"),
            reason=describe_exit(column("status"), column("exit"), column("stop_kind")),
            **details,
        )


@dataclass(frozen=True, kw_only=True)
class JobView(JobRow):
    """A job with all its fields."""

    config: dict[str, Any] | None
    content: str | None
    resources: dict[str, Any] | None
    readme: str | None
    data_refs: dict[str, Any] | None
    params: dict[str, Any] | None
    commit: str | None
    exit: dict[str, Any] | None
    notes: list[dict[str, str]]
    reported: list[dict[str, Any]]
    queue_position: int | None
    waiting: str | None
    wait_until: datetime | None
    retries: dict[str, Any] | None
    schedule: str | None
    after: list[dict[str, Any]]
    urls: dict[str, str]

    @classmethod
    def from_job(
        cls,
        job: Job,
        *,
        bookmarked: bool,
        queue_position: int | None,
        waiting_reason: str | None,
        schedule_id: int | None,
        root: str,
    ) -> Self:
        """Show a job whose columns are all loaded. `root` is the address of the server, without a final slash."""
        return cls.from_row(
            job,
            bookmarked=bookmarked,
            config=job.config,
            content=_content(job),
            resources=_client_resources(job),
            readme=job.readme,
            data_refs=job.data_refs,
            params=job.effective_params,
            commit=job.code.digest if job.code else None,
            exit=_exit(job),
            notes=job.notes or [],
            reported=job.reported or [],
            queue_position=queue_position,
            waiting=waiting_reason,
            wait_until=job.wait_until,
            retries=job_retries.retry_state(job),
            schedule=f"{job.project.unique_name}.schedules.{schedule_id}" if schedule_id else None,
            after=dependencies.dependencies_of(job),
            urls=_urls(job, root),
        )

    def to_document(self) -> dict[str, Any]:
        """Return the members that `JobSchema` defines. A test holds both equal; a dump takes longer."""
        document = dict(vars(self))
        for name in _INSTANTS:
            if document[name] is not None:
                document[name] = document[name].isoformat(timespec="microseconds")
        return document


def _content(job: Job) -> str | None:
    """Return the text that was sent, or else the config as JSON."""
    if job.content is not None or job.config is None:
        content: str | None = job.content
        return content
    return json.dumps(job.config, ensure_ascii=False)


def _client_resources(job: Job) -> dict[str, Any] | None:
    resources = ((job.config or {}).get("environment") or {}).get("resources") or {}
    return {kind: resources[kind] for kind in CLIENT_RESOURCES if kind in resources} or None


def _exit(job: Job) -> dict[str, Any] | None:
    """Return the exit with all its members, also those that are unknown."""
    if job.exit is None:
        return None
    members = {name: job.exit.get(name) for name in _EXIT_FIELDS}
    return members | {"stragglers": job.exit.get("stragglers") or [], "message": job.exit.get("message")}


def _urls(job: Job, root: str) -> dict[str, str]:
    path = f"{job.project.user.username}/{job.project.name}/jobs/{job.id}"
    api = f"{root}/api/v1/{path}"
    return {"page": f"{root}/{path}", "self": api} | {name: f"{api}/{name}" for name in ("statuses", "logs", "outputs")}


class JobRowSchema(Schema):
    """A job in a list."""

    id = fields.Integer()
    uuid = fields.String()
    name = fields.String(allow_none=True)
    unique_name = fields.String()
    pod_id = fields.String()
    user = fields.String()
    description = fields.String(allow_none=True)
    created_at = Instant()
    updated_at = Instant()
    started_at = Instant(allow_none=True)
    finished_at = Instant(allow_none=True)
    last_status = fields.String()
    tags = fields.List(fields.String(), allow_none=True)
    project = fields.String()
    build_job = fields.String(allow_none=True)
    original = fields.String(allow_none=True)
    cloning_strategy = fields.String(allow_none=True)
    is_clone = fields.Boolean()
    backend = fields.String()
    is_managed = fields.Boolean()
    in_cluster = fields.Boolean(metadata={"description": "The same as `is_managed`, for old clients."})
    bookmarked = fields.Boolean()
    node_scheduled = fields.String(allow_none=True)
    exit_code = fields.Integer(allow_none=True)
    ttl = fields.Integer(allow_none=True)
    command = fields.String(
        allow_none=True,
        metadata={
            "description": f"The config's `run.cmd` or its first item, cut after {MAX_SHOWN_COMMAND_LENGTH} characters."
        },
    )
    reason = fields.String(
        allow_none=True,
        metadata={"description": "Why the job failed or was stopped, in a few words such as `timeout`; for people."},
    )


class JobOfAnyProjectSchema(JobRowSchema):
    """A job in a list of all projects."""

    queue_position = fields.Integer(
        allow_none=True, metadata={"description": "In the queue of its runner: 1 = next; null = not queued."}
    )


class ExitSchema(Schema):
    """The end of a job as its runner reports it."""

    reason = fields.String(
        metadata={"description": "Without the time limit: the `details` of the status `failed` have the final reason."}
    )
    code = fields.Integer(allow_none=True)
    signal = fields.Integer(allow_none=True)
    max_rss = fields.Integer(allow_none=True, metadata={"description": "Peak memory of the largest process, in bytes."})
    cpu_seconds = fields.Float(allow_none=True)
    stragglers = fields.List(fields.String(), metadata={"description": "Remaining processes, which were killed."})
    message = fields.String(allow_none=True)


class ReportedStatusSchema(Schema):
    """A status that a client reported for a job that polyjob runs."""

    status = fields.String()
    message = fields.String(allow_none=True)
    created_at = fields.String()


class DependencySchema(Schema):
    """A job that had to end first."""

    job = fields.Integer(
        allow_none=True, metadata={"description": "Its id, or that of its last retry; null if it was removed."}
    )
    on = fields.String(metadata={"description": "`success`, `failure` or `end`."})
    is_met = fields.Boolean()
    reads_outputs = fields.Boolean(
        metadata={
            "description": "Whether the job reads its outputs: it is in `environment.outputs.jobs` of the config."
        }
    )


class RetriesSchema(Schema):
    """The place of a job in its chain of retries."""

    number = fields.Integer(metadata={"description": "0 = the first attempt, 1 = its first retry."})
    left = fields.Integer(metadata={"description": "Retries that may follow this attempt."})
    first_job = fields.Integer(
        allow_none=True, metadata={"description": "Id of the first attempt; null if it is this."}
    )
    next_job = fields.Integer(allow_none=True, metadata={"description": "Id of the retry that followed this attempt."})


class JobSchema(JobRowSchema):
    """A job with all its fields."""

    config = fields.Dict(allow_none=True, metadata={"description": "The config as loaded."})
    content = fields.String(allow_none=True, metadata={"description": "The config as the text that was sent."})
    resources = fields.Dict(allow_none=True)
    readme = fields.String(allow_none=True)
    data_refs = fields.Dict(allow_none=True, metadata={"description": "Data sets: name → version."})
    params = fields.Dict(
        allow_none=True, metadata={"description": "Params that the job reported, or else its config's."}
    )
    commit = fields.String(allow_none=True, metadata={"description": "Digest of the upload that the job runs with."})
    exit = fields.Nested(ExitSchema, allow_none=True)
    notes = fields.List(fields.Nested(NoteSchema), metadata={"description": "Facts that no status shows."})
    reported = fields.List(
        fields.Nested(ReportedStatusSchema),
        metadata={"description": "Statuses that clients reported while polyjob ran the job, oldest first."},
    )
    queue_position = fields.Integer(
        allow_none=True, metadata={"description": "In the queue of its runner: 1 = next; null = not queued."}
    )
    waiting = fields.String(allow_none=True, metadata={"description": "The reason why the job does not run yet."})
    wait_until = Instant(allow_none=True, metadata={"description": "A retry is not started before this time."})
    retries = fields.Nested(
        RetriesSchema, allow_none=True, metadata={"description": "Null if the config asks for no retries."}
    )
    schedule = fields.String(allow_none=True, metadata={"description": "The schedule that submitted the job."})
    after = fields.List(
        fields.Nested(DependencySchema), metadata={"description": "Jobs that have to end before this one starts."}
    )
    urls = fields.Dict(keys=fields.String(), values=fields.String())
