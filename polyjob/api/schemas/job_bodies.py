"""Request bodies that create, update and clone jobs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from marshmallow import fields, validate

from polyjob.api.schemas.common import name_field, text_field
from polyjob.api.schemas.config_bodies import BodyFormat, ConfigBody, ParsedBody, read_config_body
from polyjob.api.schemas.entries import DataRefs, Entries
from polyjob.errors import Invalid, Problem
from polyjob.jobconfig.checks import check_values
from polyjob.jobconfig.fields import Reference, Section, ShortText, Tags, WholeNumber
from polyjob.jobconfig.schema import CONFIG_SCHEMA
from polyjob.jobconfig.validation import load_config
from polyjob.services.dependencies import MAX_DEPENDENCIES, Condition
from polyjob.webhook_urls import MAX_URL_LENGTH


class JobBody(ConfigBody):
    """The attributes of a job."""

    name = name_field()
    description = text_field()
    readme = text_field()
    tags = Tags()
    data_refs = DataRefs(metadata={"description": "Data sets: name → version; or a list of names."})
    params = Entries(metadata={"description": "Params of the config, or of a job without a config."})


class _AfterBody(Section):
    job = Reference(required=True)
    on = fields.String(validate=validate.OneOf([str(condition) for condition in Condition]))


class After(fields.Field[Any]):
    """A dependency, `{"job", "on"}`; or only the id or unique name of the job."""

    _body = fields.Nested(_AfterBody)

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> dict[str, Any]:
        if not isinstance(value, Mapping):
            return {"job": Reference().deserialize(value), "on": Condition.SUCCESS}
        loaded: dict[str, Any] = self._body.deserialize(value)
        return {"job": loaded["job"], "on": Condition(loaded.get("on", Condition.SUCCESS))}


class JobCreateBody(JobBody):
    is_managed = fields.Boolean(metadata={"description": "False: polyjob runs nothing and only keeps statuses."})
    ttl = WholeNumber(error_messages={"invalid": "ttl must be an integer."})
    backend = ShortText(
        metadata={"description": "Runner of the job, one of the server's. Wins over the `backend` of the config."}
    )
    in_cluster = fields.Boolean()
    build_job = Reference()
    after = fields.List(
        After(),
        validate=validate.Length(max=MAX_DEPENDENCIES),
        metadata={"description": "Jobs that have to end first. An id or a unique name stands for its success."},
    )
    notify = fields.String(
        validate=validate.Length(1, MAX_URL_LENGTH),
        metadata={
            "description": "URL that receives the end of the job. Only this response has `notify_secret`, its key."
        },
    )


class JobChangeBody(JobBody):
    merge = fields.Boolean(
        metadata={"description": "Add to the existing tags, data_refs and params instead of replacing them."}
    )
    original_job = WholeNumber(minimum=1)


class JobCloneBody(ConfigBody):
    """A patch of the config, and attributes of the new job."""

    config = fields.Raw(metadata={"type": "object", "description": "A patch that is merged into the config."})
    content = fields.Raw(metadata={"type": "string", "description": "The same as JSON or YAML text."})
    description = text_field()
    update_code = fields.Boolean(error_messages={"invalid": "update_code should be a boolean"})
    ttl = WholeNumber(error_messages={"invalid": "ttl must be an integer."})


def _load_patch(document: Any, pointer: str) -> dict[str, Any]:
    """Take any object: a patch is only checked after it is merged into a config."""
    if not isinstance(document, dict):
        raise Invalid([Problem(pointer, "Not an object.")])
    check_values(document, pointer)
    return document


_SECTIONS = CONFIG_SCHEMA.fields.keys() - JobCreateBody().fields.keys() - {"version", "kind"}
_CREATE = BodyFormat(JobCreateBody(), load_config, _SECTIONS)
_CHANGE = BodyFormat(JobChangeBody(), load_config, ("run",))
_CLONE = BodyFormat(JobCloneBody(), _load_patch, _SECTIONS | {"params"}, keeps_nulls=True)


def read_job_create(body: Mapping[str, Any]) -> ParsedBody:
    """Read the body of a new job. Raises Invalid with all problems."""
    parsed = read_config_body(body, _CREATE)
    attributes = parsed.attributes
    if attributes.get("is_managed") is None:
        attributes["is_managed"] = attributes.get("in_cluster") is not False
    return parsed


def read_job_change(body: Mapping[str, Any]) -> ParsedBody:
    """Read an update of a job. The attributes are only those that were sent.

    Sections of a config that are members of the body count only with `run`: old clients send other members, too.
    Raises Invalid with all problems.
    """
    return read_config_body(body, _CHANGE)


def read_job_clone(body: Mapping[str, Any]) -> ParsedBody:
    """Read the body of a clone, whose config is a patch. Raises Invalid with all problems but those of the patch."""
    return read_config_body(body, _CLONE)
