"""Builds: responses, and the bodies that create and update them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Self

from marshmallow import Schema, fields

from polyjob.api.schemas.common import Body, Instant, NoteSchema, name_field, text_field
from polyjob.api.schemas.config_bodies import BodyFormat, ConfigBody, ParsedBody, read_config_body
from polyjob.db.models import Build
from polyjob.jobconfig.fields import ShortText, Tags
from polyjob.jobconfig.schema import BUILD_KEYS
from polyjob.jobconfig.validation import load_build_config

IMAGE_RUNNERS = ("docker", "kubernetes")
"""Runners whose builds make an image."""


@dataclass(frozen=True, kw_only=True)
class BuildRow:
    """A build in a list. The names are those of the API."""

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
    bookmarked: bool
    backend: str
    is_managed: bool
    invalidated: bool
    node_scheduled: str | None

    @classmethod
    def from_row(cls, build: Build, *, bookmarked: bool, **details: Any) -> Self:
        """Show a database row, of which a list loads only some columns. `details` are the fields of a subclass."""
        return cls(
            id=build.id,
            uuid=build.uuid,
            name=build.name,
            unique_name=build.unique_name,
            pod_id=f"plx-build-{build.uuid}",
            user=build.user.username,
            description=build.description,
            created_at=build.created_at,
            updated_at=build.updated_at,
            started_at=build.started_at,
            finished_at=build.finished_at,
            last_status=build.status,
            tags=build.tags,
            project=build.project.unique_name,
            bookmarked=bookmarked,
            backend=build.runner,
            is_managed=build.is_managed,
            invalidated=build.invalidated_at is not None,
            node_scheduled=build.node,
            **details,
        )


@dataclass(frozen=True, kw_only=True)
class BuildView(BuildRow):
    """A build with all its fields."""

    config: dict[str, Any]
    content: str
    resources: None
    num_jobs: int
    num_experiments: int
    dockerfile: str | None
    image: str | None
    base: str | None
    commit: str | None
    key: str
    reason: dict[str, Any] | None
    notes: list[dict[str, str]]

    @classmethod
    def from_build(cls, build: Build, *, bookmarked: bool, num_jobs: int, dockerfile: str | None) -> Self:
        """Show a build whose columns are all loaded."""
        images = image_ids(build)
        return cls.from_row(
            build,
            bookmarked=bookmarked,
            config=build.config,
            content=build.content or json.dumps(build.config, ensure_ascii=False),
            resources=None,
            num_jobs=num_jobs,
            num_experiments=0,
            dockerfile=dockerfile,
            image=images.get("image"),
            base=images.get("base"),
            commit=build.code.digest if build.code else None,
            key=build.key,
            reason=build.reason,
            notes=build.notes or [],
        )


def image_ids(build: Build) -> dict[str, str]:
    """Return `image`, the image that the build made, and `base`, the one it was made from. Empty if unknown."""
    artifact = build.artifact
    return json.loads(artifact) if artifact and build.runner in IMAGE_RUNNERS else {}


class BuildRowSchema(Schema):
    """A build in a list."""

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
    bookmarked = fields.Boolean()
    backend = fields.String()
    is_managed = fields.Boolean(metadata={"description": "False: a client drives the build by posting its statuses."})
    invalidated = fields.Boolean()
    node_scheduled = fields.String(allow_none=True)


class ReasonSchema(Schema):
    """The reason why a build was created instead of reusing an existing one."""

    kind = fields.String(
        metadata={
            "description": "`first` in its project, `changed`, `nocache`, `asked` (requested by itself); or the build "
            "with the same key was `unusable` (failed, stopped), `invalidated`, `archived`, `deleted` or `outdated` "
            "(its image is missing, or the base image has changed)."
        }
    )
    text = fields.String()
    changed = fields.List(
        fields.String(), metadata={"description": "Parts of the key that differ from the last build."}
    )


class BuildSchema(BuildRowSchema):
    """A build with all its fields."""

    config = fields.Dict()
    content = fields.String()
    resources = fields.Dict(allow_none=True)
    num_jobs = fields.Integer()
    num_experiments = fields.Integer()
    dockerfile = fields.String(allow_none=True, metadata={"description": "The Dockerfile of the image."})
    image = fields.String(allow_none=True, metadata={"description": "The image that jobs run in."})
    base = fields.String(allow_none=True, metadata={"description": "Id of the base image."})
    commit = fields.String(allow_none=True)
    key = fields.String(
        metadata={"description": "Builds of a project with the same key have the same result. Empty: never reused."}
    )
    reason = fields.Nested(ReasonSchema, allow_none=True, metadata={"description": "The reason why it was created."})
    notes = fields.List(fields.Nested(NoteSchema), metadata={"description": "Facts that no status shows."})


class BuildChangeBody(Body):
    name = name_field()
    description = text_field()
    tags = Tags()
    merge = fields.Boolean(metadata={"description": "Add to the existing tags instead of replacing them."})


class BuildCreateBody(ConfigBody):
    config = fields.Raw(metadata={"type": "object", "description": "The config, of kind `build`."})
    content = fields.Raw(metadata={"type": "string", "description": "The config as JSON or YAML text."})
    name = name_field()
    description = text_field()
    tags = Tags()
    is_managed = fields.Boolean(metadata={"description": "False: polyjob builds nothing and only keeps statuses."})
    backend = ShortText(
        metadata={"description": "Runner of the build, one of the server's. Wins over the `backend` of the config."}
    )


_CREATE = BodyFormat(BuildCreateBody(), load_build_config, BUILD_KEYS)


def read_build_create(body: Mapping[str, Any]) -> ParsedBody:
    """Read the body of a new build. Raises Invalid with all problems of the attributes and the config."""
    return read_config_body(body, _CREATE)
