"""Builds on the wire."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from marshmallow import Schema, fields

from polyjob.models import Build
from polyjob.schemas.wire import Instant, RunStatusSchema


@dataclass(frozen=True)
class BuildView:
    """A build with what is not in its row; everything else is the row's own."""

    build: Build
    num_jobs: int = 0

    bookmarked = False
    is_managed = True
    num_experiments = 0
    resources = None
    dockerfile = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self.build, name)

    @property
    def pod_id(self) -> str:
        return f"plx-build-{self.build.uuid}"

    @property
    def content(self) -> str:
        return json.dumps(self.build.config, ensure_ascii=False)

    @property
    def commit(self) -> str | None:
        return self.build.code.digest if self.build.code else None

    @property
    def invalidated(self) -> bool:
        return self.build.invalidated_at is not None


class BuildRowSchema(Schema):
    """A build in a list."""

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
    bookmarked = fields.Boolean()
    backend = fields.String(attribute="runner")
    is_managed = fields.Boolean()
    invalidated = fields.Boolean()
    node_scheduled = fields.String(attribute="node", allow_none=True)


class BuildSchema(BuildRowSchema):
    """A build in full."""

    config = fields.Dict()
    content = fields.String()
    resources = fields.Dict(allow_none=True)
    num_jobs = fields.Integer()
    num_experiments = fields.Integer()
    dockerfile = fields.String(allow_none=True)
    commit = fields.String(allow_none=True)
    key = fields.String(metadata={"description": "Builds of a project with one key have one result."})


class BuildStatusSchema(RunStatusSchema):
    build = fields.Integer(attribute="build_id")
    job = fields.Function(
        lambda status: status.build_id, metadata={"type": "integer", "description": "The same number, for old clients."}
    )
