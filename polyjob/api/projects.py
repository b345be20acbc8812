"""Projects: list, create, detail, and the upload of their code."""

from __future__ import annotations

from typing import Any, BinaryIO, cast

from flask import Response, request

from polyjob import auth, projects
from polyjob.api.blueprint import Blueprint
from polyjob.api.bodies import read_body
from polyjob.api.context import PROJECT, empty, find_project, me, settings
from polyjob.api.paging import limit, offset, page
from polyjob.api.uploads import open_part
from polyjob.errors import NotFound
from polyjob.models import User
from polyjob.schemas.checks import check_values, load
from polyjob.schemas.projects import ProjectBody, ProjectRowSchema, ProjectSchema, ProjectView

FRAMING = 1 << 20
"""Bytes of a multipart body around its file."""

blp = Blueprint("projects", __name__, description="Projects: where jobs, builds and code belong.")


@blp.post("/projects")
@blp.takes(ProjectBody, required=True)
@blp.response(201, ProjectSchema)
def create_project() -> ProjectView:
    """Create a project"""
    body = read_body()
    check_values(body)
    return ProjectView(projects.create(me(), load(ProjectBody(), body, ""), settings()))


@blp.get("/<username>")
@blp.page(ProjectRowSchema)
def list_projects(username: str) -> dict[str, Any]:
    """List the projects of a user that one may read, last changed first"""
    owner = User.get_or_none(User.username == username)
    if owner is None:
        raise NotFound("Not found.")
    query = projects.list_projects(owner).where(auth.readable(me()))
    return page([ProjectView(project) for project in query.limit(limit()).offset(offset())], query.count())


@blp.get(PROJECT)
@blp.response(200, ProjectSchema)
def get_project(username: str, project_name: str) -> ProjectView:
    """Get a project"""
    return ProjectView(find_project(username, project_name))


@blp.put(f"{PROJECT}/repo/upload")
@blp.doc(
    requestBody={
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "properties": {"repo": {"type": "string", "format": "binary", "description": "A tar.gz."}},
                    "required": ["repo"],
                }
            }
        },
    }
)
@blp.nothing(200)
def upload_code(username: str, project_name: str) -> Response:
    """Upload the code that the project's new jobs run with"""
    project = find_project(username, project_name)
    request.max_content_length = settings().upload_limit + FRAMING
    projects.upload_code(project, me(), cast(BinaryIO, open_part("repo")), settings())
    return empty(200)
