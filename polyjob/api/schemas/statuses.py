"""Statuses and code references of jobs and builds: responses, and the reports of clients."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from marshmallow import Schema, fields, post_load

from polyjob.api.schemas.common import Body, Instant, load_body
from polyjob.errors import Invalid, Problem
from polyjob.statuses import Status

MAX_REPORT_MESSAGE_LENGTH = 4096
MAX_REPORT_TRACEBACK_LENGTH = 64 << 10
"""Characters of a report that are kept. The rest is dropped: a job must not fail because its report is long."""


class RunStatusSchema(Schema):
    """One status in the history of a job or build."""

    id = fields.Integer()
    uuid = fields.String()
    created_at = Instant()
    status = fields.String()
    message = fields.String(allow_none=True)
    traceback = fields.String(allow_none=True)
    details = fields.Dict(allow_none=True)


class JobStatusSchema(RunStatusSchema):
    job = fields.Integer(attribute="job_id")


class BuildStatusSchema(RunStatusSchema):
    build = fields.Integer(attribute="build_id")
    job = fields.Function(
        lambda status: status.build_id, metadata={"type": "integer", "description": "The same number, for old clients."}
    )


class StatusBody(Body):
    status = fields.Raw()
    message = fields.String()
    traceback = fields.String()
    details = fields.Dict(error_messages={"invalid": "Not an object."})

    @post_load
    def _shorten(self, data: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        lengths = {"message": MAX_REPORT_MESSAGE_LENGTH, "traceback": MAX_REPORT_TRACEBACK_LENGTH}
        return data | {name: data[name][:length] for name, length in lengths.items() if data.get(name)}


_STATUS = StatusBody()


def read_status(body: Mapping[str, Any]) -> dict[str, Any]:
    """Return the reported `status`, `message`, `traceback` and `details`. Raises Invalid."""
    report = load_body(_STATUS, body)
    status = Status.CREATED if report.get("status") is None else report["status"]
    if not isinstance(status, str) or status not in set(Status):
        raise Invalid([Problem("/status", f'"{status}" is not a valid choice.')])
    return {"message": None, "traceback": None, "details": None} | report | {"status": Status(status)}


class CodeReferenceSchema(Schema):
    """The upload that a job or build uses; all null without one."""

    id = fields.Integer(allow_none=True)
    commit = fields.String(allow_none=True)
    head = fields.String(allow_none=True)
    branch = fields.String(allow_none=True)
    git_url = fields.String(allow_none=True)
    is_dirty = fields.Boolean(allow_none=True)
    repo = fields.String(allow_none=True)
    external_repo = fields.String(allow_none=True)


class CodeReferenceBody(Body):
    commit = fields.String()
    head = fields.String()
    branch = fields.String()
    git_url = fields.String()
    is_dirty = fields.Boolean()
