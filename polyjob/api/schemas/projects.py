"""Projects: responses, and the bodies that create and update them."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any, Self

from marshmallow import Schema, fields

from polyjob.api.schemas.common import Body, Instant, name_field, text_field
from polyjob.db.models import Project
from polyjob.jobconfig.fields import Tags


@dataclass(frozen=True, kw_only=True)
class ProjectRow:
    """A project in a list. The names are those of the API."""

    id: int
    uuid: str
    user: str
    owner: str
    name: str
    unique_name: str
    description: str | None
    tags: list[str] | None
    created_at: datetime
    updated_at: datetime
    is_public: bool
    bookmarked: bool

    @classmethod
    def from_row(cls, project: Project, *, bookmarked: bool, **details: Any) -> Self:
        """Show a database row. `details` are the fields of a subclass."""
        return cls(
            id=project.id,
            uuid=project.uuid,
            user=project.user.username,
            owner=project.user.username,
            name=project.name,
            unique_name=project.unique_name,
            description=project.description,
            tags=project.tags,
            created_at=project.created_at,
            updated_at=project.updated_at,
            is_public=project.is_public,
            bookmarked=bookmarked,
            **details,
        )


@dataclass(frozen=True, kw_only=True)
class ProjectView(ProjectRow):
    """A project with all its fields. Those that polyjob has no use for are constants, for old clients."""

    readme: str | None
    has_code: bool
    num_jobs: int
    num_builds: int
    has_tensorboard: bool = False
    has_notebook: bool = False
    num_experiment_groups: int = 0
    num_independent_experiments: int = 0
    num_experiments: int = 0

    @classmethod
    def from_project(cls, project: Project, *, bookmarked: bool) -> Self:
        return cls.from_row(
            project,
            bookmarked=bookmarked,
            readme=project.readme,
            has_code=project.code_id is not None,
            num_jobs=project.job_count,
            num_builds=project.build_count,
        )


class ProjectRowSchema(Schema):
    """A project in a list."""

    id = fields.Integer()
    uuid = fields.String()
    user = fields.String()
    owner = fields.String(metadata={"description": "The same as `user`."})
    name = fields.String()
    unique_name = fields.String()
    description = fields.String(allow_none=True)
    tags = fields.List(fields.String(), allow_none=True)
    created_at = Instant()
    updated_at = Instant()
    is_public = fields.Boolean()
    bookmarked = fields.Boolean()


class ProjectSchema(ProjectRowSchema):
    """A project with all its fields."""

    readme = fields.String(allow_none=True)
    has_code = fields.Boolean()
    has_tensorboard = fields.Boolean()
    has_notebook = fields.Boolean()
    num_experiment_groups = fields.Integer()
    num_independent_experiments = fields.Integer()
    num_experiments = fields.Integer()
    num_jobs = fields.Integer()
    num_builds = fields.Integer()


class ProjectBody(Body):
    name = name_field()
    description = text_field()
    readme = text_field()
    tags = Tags()
    is_public = fields.Boolean()


class ProjectChangeBody(ProjectBody):
    merge = fields.Boolean(metadata={"description": "Add to the existing tags instead of replacing them."})


class ProjectNameSchema(Schema):
    user = fields.String(attribute="user.username")
    name = fields.String()
    unique_name = fields.String()


class RepositorySchema(Schema):
    """The uploads of a project."""

    project = fields.String(metadata={"description": "The project's name."})
    created_at = Instant(metadata={"description": "Time of the first upload."})
    updated_at = Instant(metadata={"description": "Time of the latest upload."})
    is_public = fields.Boolean()
    commit = fields.String(metadata={"description": "SHA-256 of the latest upload's files."})
    size = fields.Integer(metadata={"description": "Size of the latest upload's tarball, in bytes."})
