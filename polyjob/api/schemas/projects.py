"""Projects on the wire."""

from __future__ import annotations

from typing import Any

from marshmallow import Schema, fields

from polyjob.api.schemas.common import Body, Instant, name_field, text_field
from polyjob.db.models import Project
from polyjob.jobconfig.schema import Tags


class ProjectView:
    """A project; everything that is not said here is the row's own."""

    has_tensorboard = False
    has_notebook = False
    num_experiment_groups = 0
    num_independent_experiments = 0
    num_experiments = 0

    def __init__(self, project: Project, bookmarked: bool = False) -> None:
        self.project, self.bookmarked = project, bookmarked

    def __getattr__(self, name: str) -> Any:
        return getattr(self.project, name)

    @property
    def owner(self) -> str:
        return str(self.project.user.username)

    @property
    def has_code(self) -> bool:
        return self.project.code_id is not None


class ProjectRowSchema(Schema):
    """A project in a list."""

    id = fields.Integer()
    uuid = fields.String()
    user = fields.String(attribute="user.username")
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
    """A project in full."""

    readme = fields.String(allow_none=True)
    has_code = fields.Boolean()
    has_tensorboard = fields.Boolean()
    has_notebook = fields.Boolean()
    num_experiment_groups = fields.Integer()
    num_independent_experiments = fields.Integer()
    num_experiments = fields.Integer()
    num_jobs = fields.Integer(attribute="job_count")
    num_builds = fields.Integer(attribute="build_count")


class ProjectBody(Body):
    name = name_field()
    description = text_field()
    readme = text_field()
    tags = Tags()
    is_public = fields.Boolean()


class ProjectChangeBody(ProjectBody):
    merge = fields.Boolean(metadata={"description": "Unite the tags with the ones that are there."})


class ProjectNameSchema(Schema):
    user = fields.String(attribute="user.username")
    name = fields.String()
    unique_name = fields.String()


class RepositorySchema(Schema):
    """The code of a project."""

    project = fields.String(metadata={"description": "The project's name."})
    created_at = Instant(metadata={"description": "Of the first upload."})
    updated_at = Instant(metadata={"description": "Of the latest upload."})
    is_public = fields.Boolean()
    commit = fields.String(metadata={"description": "SHA-256 of the latest tree."})
    size = fields.Integer(metadata={"description": "Bytes of the latest archive."})
