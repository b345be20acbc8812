"""Jobs on the wire: as they are shown, and the bodies that make and change them."""

from __future__ import annotations

import json
from collections.abc import Container, Mapping
from dataclasses import dataclass
from typing import Any

from marshmallow import Schema, fields, post_load

from polyjob.api.schemas.common import Body, Instant, NoteSchema, RunStatusSchema, name_field, text_field
from polyjob.db.models import Job
from polyjob.errors import Invalid, Problem
from polyjob.jobconfig.checks import check_values, deserialize, pointer_to
from polyjob.jobconfig.parameters import add_params, has_params
from polyjob.jobconfig.parsing import add_line_numbers, parse_content
from polyjob.jobconfig.schema import CONFIG_SCHEMA, Line, ReferenceField, Tags, WholeNumber, load_config
from polyjob.services.entries import DataRefs, Entries
from polyjob.statuses import Status

WIRE_RESOURCES = ("cpu", "memory", "gpu", "tpu")
REPORT_LENGTH = {"message": 4096, "traceback": 64 << 10}
"""Characters that are kept of what a client reports; its job must not fail because it said more."""


# As they are shown.


@dataclass(frozen=True)
class JobView:
    """A job with what is not in its row; everything else is the row's own."""

    job: Job
    bookmarked: bool
    queue_position: int | None = None
    waiting: str | None = None
    root: str = ""
    """Address of the server, without a final slash."""

    def __getattr__(self, name: str) -> Any:
        return getattr(self.job, name)

    @property
    def pod_id(self) -> str:
        return f"plx-job-{self.job.uuid}"

    @property
    def in_cluster(self) -> bool:
        return bool(self.job.is_managed)

    @property
    def build_job(self) -> str | None:
        return f"{self.job.project.unique_name}.builds.{self.job.build_id}" if self.job.build_id else None

    @property
    def original_name(self) -> str | None:
        return f"{self.job.project.unique_name}.jobs.{self.job.original_id}" if self.job.original_id else None

    @property
    def is_clone(self) -> bool:
        return self.job.original_id is not None

    @property
    def notes(self) -> list[dict[str, str]]:
        return self.job.notes or []

    @property
    def reported(self) -> list[dict[str, Any]]:
        return self.job.reported or []

    @property
    def content(self) -> str | None:
        """What was sent, or else the config as text."""
        if self.job.content is not None or self.job.config is None:
            return self.job.content
        return json.dumps(self.job.config, ensure_ascii=False)

    @property
    def resources(self) -> dict[str, Any] | None:
        """What old clients can read of the config's resources: they fail on any other key."""
        asked = ((self.job.config or {}).get("environment") or {}).get("resources") or {}
        return {kind: asked[kind] for kind in WIRE_RESOURCES if kind in asked} or None

    @property
    def params(self) -> dict[str, Any] | None:
        return self.job.effective_params

    @property
    def commit(self) -> str | None:
        return self.job.code.digest if self.job.code else None

    @property
    def exit(self) -> dict[str, Any] | None:
        """How the command ended, every member there, also those that nobody knows."""
        if self.job.exit is None:
            return None
        known = {name: self.job.exit.get(name) for name in ("reason", "code", "signal", "max_rss", "cpu_seconds")}
        return known | {"stragglers": self.job.exit.get("stragglers") or [], "message": self.job.exit.get("message")}

    @property
    def urls(self) -> dict[str, str]:
        path = f"{self.job.project.user.username}/{self.job.project.name}/jobs/{self.job.id}"
        api = f"{self.root}/api/v1/{path}"
        return {"page": f"{self.root}/{path}", "self": api} | {
            name: f"{api}/{name}" for name in ("statuses", "logs", "outputs")
        }


class JobRowSchema(Schema):
    """A job in a list."""

    id = fields.Integer()
    uuid = fields.String()
    name = fields.String(allow_none=True)
    unique_name = fields.String()
    pod_id = fields.String()
    user = fields.String(attribute="user.username")
    description = fields.String(allow_none=True)
    created_at = Instant()
    updated_at = Instant()
    started_at = Instant(allow_none=True)
    finished_at = Instant(allow_none=True)
    last_status = fields.String(attribute="status")
    tags = fields.List(fields.String(), allow_none=True)
    project = fields.String(attribute="project.unique_name")
    build_job = fields.String(allow_none=True)
    original = fields.String(attribute="original_name", allow_none=True)
    cloning_strategy = fields.String(allow_none=True)
    is_clone = fields.Boolean()
    backend = fields.String(attribute="runner")
    is_managed = fields.Boolean()
    in_cluster = fields.Boolean(metadata={"description": "The same as `is_managed`, for old clients."})
    bookmarked = fields.Boolean()
    node_scheduled = fields.String(attribute="node", allow_none=True)
    exit_code = fields.Integer(allow_none=True)
    ttl = fields.Integer(allow_none=True)


class ExitSchema(Schema):
    """How the command ended."""

    reason = fields.String()
    code = fields.Integer(allow_none=True)
    signal = fields.Integer(allow_none=True)
    max_rss = fields.Integer(allow_none=True, metadata={"description": "Bytes of the largest process."})
    cpu_seconds = fields.Float(allow_none=True)
    stragglers = fields.List(fields.String(), metadata={"description": "Processes that were left, and killed."})
    message = fields.String(allow_none=True)


class ReportedStatusSchema(Schema):
    """A status that a client reported of a job that polyjob runs."""

    status = fields.String()
    message = fields.String(allow_none=True)
    created_at = fields.String()


class JobSchema(JobRowSchema):
    """A job in full."""

    config = fields.Dict(allow_none=True, metadata={"description": "The config as polyjob reads it."})
    content = fields.String(allow_none=True, metadata={"description": "The config as text, as it was sent."})
    resources = fields.Dict(allow_none=True)
    readme = fields.String(allow_none=True)
    data_refs = fields.Dict(allow_none=True, metadata={"description": "Names of data sets, each with its version."})
    params = fields.Dict(allow_none=True, metadata={"description": "As the job recorded them, or else its config's."})
    commit = fields.String(allow_none=True, metadata={"description": "Digest of the code that the job runs with."})
    exit = fields.Nested(ExitSchema, allow_none=True)
    notes = fields.List(fields.Nested(NoteSchema), metadata={"description": "What no status says."})
    reported = fields.List(
        fields.Nested(ReportedStatusSchema),
        metadata={"description": "Statuses that clients reported while polyjob ran the job, oldest first."},
    )
    queue_position = fields.Integer(allow_none=True, metadata={"description": "1 = next; null = not in the queue."})
    waiting = fields.String(allow_none=True, metadata={"description": "What keeps the job from running now."})
    urls = fields.Dict(keys=fields.String(), values=fields.String())


class JobStatusSchema(RunStatusSchema):
    job = fields.Integer(attribute="job_id")


# What is sent.


class JobBody(Body):
    """Attributes of a job. Its config comes as `config`, as `content`, or as `build`, `run`, … beside them."""

    config = fields.Raw(metadata={"type": "object", "description": "The config."})
    content = fields.Raw(metadata={"type": "string", "description": "The config as JSON text."})
    name = name_field()
    description = text_field()
    readme = text_field()
    tags = Tags()
    data_refs = DataRefs(metadata={"description": "Names of data sets, each with its version; or a list of names."})
    params = Entries(metadata={"description": "Params of the config, or of a job without one."})

    @post_load
    def _leave_config_out(self, data: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        """It is loaded by itself."""
        return {key: value for key, value in data.items() if key not in ("config", "content")}


class JobCreateBody(JobBody):
    is_managed = fields.Boolean(metadata={"description": "False: polyjob runs nothing and only keeps statuses."})
    ttl = WholeNumber(error_messages={"invalid": "ttl must be an integer."})
    backend = Line()
    in_cluster = fields.Boolean()
    build_job = ReferenceField()


class JobChangeBody(JobBody):
    merge = fields.Boolean(metadata={"description": "Merge tags, data_refs and params with the ones that are there."})
    original_job = WholeNumber(least=1)


class JobCloneBody(Body):
    """A patch of the config, by the same three names, and what the new job has for itself."""

    config = fields.Raw(metadata={"type": "object", "description": "Merged into the config."})
    content = fields.Raw(metadata={"type": "string", "description": "The same as text."})
    description = text_field()
    update_code = fields.Boolean(error_messages={"invalid": "update_code should be a boolean"})
    ttl = WholeNumber(error_messages={"invalid": "ttl must be an integer."})


class StatusBody(Body):
    status = fields.Raw()
    message = fields.String()
    traceback = fields.String()
    details = fields.Dict(error_messages={"invalid": "Not an object."})

    @post_load
    def _fit(self, data: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        return data | {name: data[name][:length] for name, length in REPORT_LENGTH.items() if data.get(name)}


@dataclass(frozen=True)
class Sent:
    """A body, read."""

    attributes: dict[str, Any]
    pointer: str
    """Where the config stood: `/config`, `/content`, or nothing where its parts stood in the body itself."""


def read_create(body: Mapping[str, Any]) -> Sent:
    """Raises Invalid with every problem of attributes and config."""
    sent = read_sent(body, _CREATE, load_config, _PARTS)
    attributes = sent.attributes
    if attributes.get("is_managed") is None:
        attributes["is_managed"] = attributes.get("in_cluster") is not False
    return sent


def read_change(body: Mapping[str, Any]) -> Sent:
    """Only what was sent is in the attributes. Unknown keys are no config, unless `run` is beside them. Raises Invalid
    with every problem."""
    return read_sent(body, _CHANGE, load_config, ("run",))


def read_clone(body: Mapping[str, Any]) -> Sent:
    """The config is a patch and not checked by itself. Raises Invalid with every problem of the rest."""
    return read_sent(body, _CLONE, _only_an_object, _PARTS | {"params"}, is_patch=True)


def read_status(body: Mapping[str, Any]) -> dict[str, Any]:
    """`status`, `message`, `traceback`, `details`. Raises Invalid."""
    check_values(body)
    loaded: dict[str, Any] = deserialize(_STATUS, body, "")
    status = Status.CREATED if loaded.get("status") is None else loaded["status"]
    if not isinstance(status, str) or status not in set(Status):
        raise Invalid([Problem("/status", f'"{status}" is not a valid choice.')])
    return {"message": None, "traceback": None, "details": None} | loaded | {"status": Status(status)}


def read_sent(
    body: Mapping[str, Any], schema: Body, load_document: Any, parts: Container[str], *, is_patch: bool = False
) -> Sent:
    """The attributes that `schema` knows, and the config as `load_document` makes it of the document and its pointer.
    `parts`: keys that begin a config right in the body. In a patch, null removes a part; anywhere else it counts as not
    given. Raises Invalid with every problem of both."""
    problems: list[Problem] = []
    attributes: dict[str, Any] = {}
    pointer, config = "/config", None
    try:
        apart = ("config", "content")
        check_values({key: value for key, value in body.items() if key in schema.fields and key not in apart})
        attributes = deserialize(schema, body, "")
    except Invalid as error:
        problems += error.problems
    text = None
    try:
        pointer, document, text = _find_config(body if is_patch else _without_nulls(body), schema, parts)
        if document is not None:
            own = _own_params(body, pointer)
            document = add_params(document, own)
            config = load_document(document, pointer)
            kept = json.dumps(document, ensure_ascii=False) if own or text is None else text
            attributes.pop("params", None)
            attributes |= {"config": config, "content": kept if text is not None or has_params(document) else None}
    except Invalid as error:
        found = _params_renamed(error.problems, body, pointer)
        found = add_line_numbers(found, text, pointer) if text is not None else found
        problems += [problem for problem in found if problem not in problems]
    if problems:
        raise Invalid(problems)
    return Sent(attributes, pointer)


def _own_params(body: Mapping[str, Any], pointer: str) -> Mapping[str, Any]:
    """The params that stand beside a config, not in it: they go before its own. Raises Invalid."""
    params = body.get("params") if pointer else None
    if params is None:
        return {}
    if not isinstance(params, Mapping):
        raise Invalid([Problem("/params", "Not an object.")])
    check_values(params, "/params")
    return params


def _params_renamed(problems: list[Problem], body: Mapping[str, Any], pointer: str) -> list[Problem]:
    """The problems of params that stand beside the config, where they stand."""
    params = body.get("params")
    if not pointer or not isinstance(params, Mapping):
        return problems
    inside = f"{pointer}/params/"
    beside = {pointer_to("", key) for key in params}

    def moved(problem: Problem) -> Problem:
        key = "/" + problem.pointer.removeprefix(inside).partition("/")[0]
        if not problem.pointer.startswith(inside) or key not in beside:
            return problem
        return Problem(f"/params/{problem.pointer.removeprefix(inside)}", problem.detail)

    return [moved(problem) for problem in problems]


def _find_config(body: Mapping[str, Any], schema: Schema, parts: Container[str]) -> tuple[str, Any, str | None]:
    """(pointer to the config, the document, its text where it came as text); None for a body without one."""
    if body.get("config") is not None:
        return "/config", body["config"], None
    content = body.get("content")
    if content is not None:
        if not isinstance(content, str):
            raise Invalid([Problem("/content", "Not text; a config that is an object goes by the name `config`.")])
        check_values(content, "/content")
        return "/content", parse_content(content), content
    if not any(key in parts for key in body):
        return "/config", None, None
    own = schema.fields.keys() - {"params"}
    return "", {key: value for key, value in body.items() if key not in own}, None


def _without_nulls(body: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in body.items() if value is not None}


_CREATE, _CHANGE, _CLONE, _STATUS = JobCreateBody(), JobChangeBody(), JobCloneBody(), StatusBody()
_PARTS = CONFIG_SCHEMA.fields.keys() - _CREATE.fields.keys() - {"version", "kind"}


def _only_an_object(document: Any, pointer: str) -> dict[str, Any]:
    if not isinstance(document, dict):
        raise Invalid([Problem(pointer, "Not an object.")])
    check_values(document, pointer)
    return document
