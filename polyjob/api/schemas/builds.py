"""Builds on the wire."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from marshmallow import Schema, fields, post_load

from polyjob.api.schemas.common import Body, Instant, NoteSchema, RunStatusSchema, name_field, text_field
from polyjob.api.schemas.jobs import Sent, read_sent
from polyjob.db.models import Build
from polyjob.jobconfig.schema import BUILD_KEYS, Tags, load_build_config

WITH_IMAGES = ("docker", "kubernetes")
"""Runners whose builds are told of by an image."""


@dataclass(frozen=True)
class BuildView:
    """A build with what is not in its row; everything else is the row's own."""

    build: Build
    bookmarked: bool = False
    num_jobs: int = 0
    dockerfile: str | None = None

    num_experiments = 0
    resources = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self.build, name)

    @property
    def pod_id(self) -> str:
        return f"plx-build-{self.build.uuid}"

    @property
    def content(self) -> str:
        """What was sent, or else the config as text."""
        return self.build.content or json.dumps(self.build.config, ensure_ascii=False)

    @property
    def commit(self) -> str | None:
        return self.build.code.digest if self.build.code else None

    @property
    def notes(self) -> list[dict[str, str]]:
        return self.build.notes or []

    @property
    def image(self) -> str | None:
        return self._made.get("image")

    @property
    def base(self) -> str | None:
        return self._made.get("base")

    @property
    def _made(self) -> dict[str, Any]:
        artifact = self.build.artifact
        return json.loads(artifact) if artifact and self.build.runner in WITH_IMAGES else {}

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
    is_managed = fields.Boolean(metadata={"description": "False: a client drives the build by posting its statuses."})
    invalidated = fields.Boolean()
    node_scheduled = fields.String(attribute="node", allow_none=True)


class ReasonSchema(Schema):
    """Why a build was made and none reused."""

    kind = fields.String(
        metadata={
            "description": "`first` of its project, `changed`, `nocache`, `asked` for by itself; or the one with the "
            "same key was `unusable` (failed, stopped), `invalidated`, `archived`, `deleted` or `outdated` (its image "
            "is gone, or its base another one)."
        }
    )
    text = fields.String()
    changed = fields.List(fields.String(), metadata={"description": "The parts of the key that differ from the last."})


class BuildSchema(BuildRowSchema):
    """A build in full."""

    config = fields.Dict()
    content = fields.String()
    resources = fields.Dict(allow_none=True)
    num_jobs = fields.Integer()
    num_experiments = fields.Integer()
    dockerfile = fields.String(allow_none=True, metadata={"description": "What the image was made from."})
    image = fields.String(allow_none=True, metadata={"description": "The image that jobs run in."})
    base = fields.String(allow_none=True, metadata={"description": "Id of the image that it was made from."})
    commit = fields.String(allow_none=True)
    key = fields.String(
        metadata={"description": "Builds of a project with one key have one result. Empty: never reused."}
    )
    reason = fields.Nested(ReasonSchema, allow_none=True, metadata={"description": "Why it was made."})
    notes = fields.List(fields.Nested(NoteSchema), metadata={"description": "What no status says."})


class BuildStatusSchema(RunStatusSchema):
    build = fields.Integer(attribute="build_id")
    job = fields.Function(
        lambda status: status.build_id, metadata={"type": "integer", "description": "The same number, for old clients."}
    )


class BuildChangeBody(Body):
    name = name_field()
    description = text_field()
    tags = Tags()
    merge = fields.Boolean(metadata={"description": "Unite the tags with the ones that are there."})


class BuildCreateBody(Body):
    config = fields.Raw(metadata={"type": "object", "description": "The config, of kind `build`."})
    content = fields.Raw(metadata={"type": "string", "description": "The config as text."})
    name = name_field()
    description = text_field()
    tags = Tags()
    is_managed = fields.Boolean(metadata={"description": "False: polyjob builds nothing and only keeps statuses."})

    @post_load
    def _leave_config_out(self, data: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        """It is loaded by itself."""
        return {key: value for key, value in data.items() if key not in ("config", "content")}


_CREATE = BuildCreateBody()


def read_build_create(body: Mapping[str, Any]) -> Sent:
    """Raises Invalid with every problem of attributes and config."""
    return read_sent(body, _CREATE, load_build_config, BUILD_KEYS)
