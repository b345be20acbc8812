"""Projects: list, create, look at, change, archive, delete, bookmark; and their code."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, BinaryIO, cast

from flask import Response, request, send_file
from marshmallow import Schema

from polyjob.api.blueprint import Blueprint
from polyjob.api.paging import limit, offset, page
from polyjob.api.request_body import read_body
from polyjob.api.request_context import empty, find_project, me, settings, store
from polyjob.api.routes import PROJECT
from polyjob.api.schemas.projects import (
    ProjectBody,
    ProjectChangeBody,
    ProjectNameSchema,
    ProjectRow,
    ProjectRowSchema,
    ProjectSchema,
    ProjectView,
    RepositorySchema,
)
from polyjob.api.uploads import open_part
from polyjob.auth import identity, users
from polyjob.auth.permissions import Access, requires
from polyjob.db.models import Project
from polyjob.jobconfig.checks import check_values, deserialize
from polyjob.services import bookmarks, projects

FRAMING = 1 << 20
"""Bytes of a multipart body around its file."""

QUERY = {
    "name": "query",
    "in": "query",
    "description": "As for jobs, by `id`, `name`, `description`, `tags`, `is_public`, `created_at`, `updated_at`.",
    "schema": {"type": "string"},
}
SORT = {
    "name": "sort",
    "in": "query",
    "description": "`created_at`, `updated_at` or `name`, several joined by commas, `-` for descending.",
    "schema": {"type": "string", "default": "-updated_at"},
}

_CREATE, _CHANGE = ProjectBody(), ProjectChangeBody()

blp = Blueprint("projects", __name__, description="Projects: where jobs, builds and code belong.")


@blp.post("/projects")
@blp.reads(ProjectBody, required=True)
@blp.response(201, ProjectSchema)
@requires(Access.ACCOUNT)
def create_project() -> ProjectView:
    """Create a project"""
    return project_view(projects.create(me(), _read_body(), settings()))


@blp.get("/<username>")
@blp.doc(parameters=[QUERY, SORT], responses={400: "BAD_REQUEST"})
@blp.page(ProjectRowSchema)
@requires(Access.READ)
def list_projects(username: str) -> dict[str, Any]:
    """List the projects of a user that one may read, last changed first"""
    owner = users.find_for(me(), username)
    if owner is None:
        return page([], 0)
    asked = projects.list_projects(owner, query=request.args.get("query"), sort=request.args.get("sort"))
    query = asked.where(identity.readable_projects(me()))
    return page(project_rows(query.limit(limit()).offset(offset())), query.count())


@blp.get("/<username>/projects/names")
@blp.page(ProjectNameSchema)
@requires(Access.READ)
def list_project_names(username: str) -> dict[str, Any]:
    """List the names of a user's projects that one may read"""
    owner = users.find_for(me(), username)
    if owner is None:
        return page([], 0)
    query = projects.list_projects(owner).where(identity.readable_projects(me()))
    return page(list(query.limit(limit()).offset(offset())), query.count())


@blp.get(PROJECT)
@blp.response(200, ProjectSchema)
@requires(Access.READ)
def get_project(username: str, project_name: str) -> ProjectView:
    """Get a project"""
    return project_view(find_project(username, project_name))


@blp.route(PROJECT, methods=["PATCH", "PUT"])
@blp.reads(ProjectChangeBody)
@blp.response(200, ProjectSchema)
@requires(Access.MANAGE)
def update_project(username: str, project_name: str) -> ProjectView:
    """Change a project's name, description, readme, tags, or who may read it"""
    project = find_project(username, project_name)
    return project_view(projects.update(project, _read_body(_CHANGE)))


@blp.delete(PROJECT)
@blp.empty(204)
@requires(Access.MANAGE)
def delete_project(username: str, project_name: str) -> Response:
    """Stop a project's jobs, and remove it with all that belongs to it"""
    projects.delete(find_project(username, project_name), me(), settings())
    return empty(204)


@blp.post(f"{PROJECT}/archive")
@blp.empty(200)
@requires(Access.MANAGE)
def archive_project(username: str, project_name: str) -> Response:
    """Hide a project with all that belongs to it, and stop its jobs"""
    projects.archive(find_project(username, project_name, archived=True), me(), settings())
    return empty(200)


@blp.post(f"{PROJECT}/restore")
@blp.empty(200)
@requires(Access.MANAGE)
def restore_project(username: str, project_name: str) -> Response:
    """Show an archived project again"""
    projects.restore(find_project(username, project_name, archived=True))
    return empty(200)


@blp.post(f"{PROJECT}/bookmark")
@blp.empty(201)
@requires(Access.BOOKMARK)
def bookmark_project(username: str, project_name: str) -> Response:
    """Bookmark a project; who may read it may do so"""
    bookmarks.add(find_project(username, project_name), me())
    return empty(201)


@blp.delete(f"{PROJECT}/unbookmark")
@blp.empty(204)
@requires(Access.BOOKMARK)
def unbookmark_project(username: str, project_name: str) -> Response:
    """Remove a bookmark"""
    bookmarks.remove(find_project(username, project_name), me())
    return empty(204)


# Code.


@blp.get(f"{PROJECT}/repo")
@blp.response(200, RepositorySchema)
@requires(Access.READ)
def get_repository(username: str, project_name: str) -> dict[str, Any]:
    """Get what is known of the project's code"""
    project = find_project(username, project_name)
    latest = projects.latest_upload(project)
    first = projects.first_upload(project)
    return {
        "project": project.name,
        "created_at": first.created_at,
        "updated_at": latest.created_at,
        "is_public": project.is_public,
        "commit": latest.digest,
        "size": latest.size,
    }


@blp.delete(f"{PROJECT}/repo")
@blp.empty(204)
@requires(Access.SUBMIT)
def delete_repository(username: str, project_name: str) -> Response:
    """Have the project's new jobs run without code; earlier uploads stay for the jobs that use them"""
    projects.remove_upload(find_project(username, project_name))
    return empty(204)


@blp.get(f"{PROJECT}/repo/download")
@blp.doc(
    parameters=[
        {
            "name": "commit",
            "in": "query",
            "description": "Which upload; the latest where none is named.",
            "schema": {"type": "string"},
        }
    ]
)
@blp.response(200, {"type": "string", "format": "binary"}, content_type="application/gzip")
@requires(Access.READ)
def download_code(username: str, project_name: str) -> Response:
    """Download an upload of the project's code, a tar.gz"""
    project = find_project(username, project_name)
    code = projects.find_upload(project, request.args.get("commit") or None)
    return send_file(
        store().upload_path(code.digest),
        mimetype="application/gzip",
        as_attachment=True,
        download_name=f"{project.unique_name.replace('.', '_')}.tar.gz",
        etag=code.digest,
    )


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
@blp.empty(200)
@requires(Access.SUBMIT)
def upload_code(username: str, project_name: str) -> Response:
    """Upload the code that the project's new jobs run with"""
    project = find_project(username, project_name)
    request.max_content_length = settings().upload_limit + FRAMING
    projects.store_upload(project, me(), cast(BinaryIO, open_part("repo")), settings())
    return empty(200)


def project_view(project: Project) -> ProjectView:
    """Return the project with all its fields, as the current user sees it."""
    return ProjectView.from_project(project, bookmarked=bookmarks.is_bookmarked(project, me()))


def project_rows(projects: Iterable[Project]) -> list[ProjectRow]:
    """Return the projects as a list shows them to the current user."""
    rows = list(projects)
    bookmarked_ids = bookmarks.bookmarked_ids(me(), Project, [project.id for project in rows])
    return [ProjectRow.from_row(project, bookmarked=project.id in bookmarked_ids) for project in rows]


def _read_body(schema: Schema = _CREATE) -> Any:
    body = read_body()
    check_values(body)
    return deserialize(schema, body, "")
