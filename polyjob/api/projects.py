"""Projects: list, create, get, update, archive, delete, bookmark; and their uploads."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, BinaryIO, cast

from flask import Response, request, send_file
from marshmallow import Schema
from peewee import ModelSelect

from polyjob.api.blueprint import Blueprint
from polyjob.api.multipart_file import open_part
from polyjob.api.paging import limit, offset, page, page_of_query
from polyjob.api.params import query_parameter
from polyjob.api.path_prefixes import PROJECT
from polyjob.api.request_body import read_body
from polyjob.api.request_context import empty, find_project, me, settings, store
from polyjob.api.schemas.common import load_body
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
from polyjob.auth import identity, users
from polyjob.auth.permissions import Access, requires
from polyjob.db.models import Project, User
from polyjob.services import bookmarks, projects

MULTIPART_OVERHEAD_BYTES = 1 << 20
"""Room for the headers and boundaries of a multipart body beside its file."""

QUERY = query_parameter(
    "query",
    "The syntax is that of jobs. Fields: `id`, `name`, `description`, `tags`, `is_public`, `created_at`, `updated_at`.",
    type="string",
)
SORT = query_parameter(
    "sort",
    "`created_at`, `updated_at` or `name`, or several separated by commas; `-` for descending order.",
    type="string",
    default="-updated_at",
)
COMMIT = query_parameter("commit", "Digest of the upload; the latest by default.", type="string")

_CREATE, _CHANGE, _ROW_SCHEMA = ProjectBody(), ProjectChangeBody(), ProjectRowSchema()

blp = Blueprint("projects", __name__, description="Projects: they have jobs, builds and uploads.")


@blp.post("/projects")
@blp.reads(ProjectBody, required=True)
@blp.response(201, ProjectSchema)
@requires(Access.ACCOUNT)
def create_project() -> ProjectView:
    """Create a project"""
    return project_view(projects.create(me(), _read_body(), settings()))


@blp.get("/projects")
@blp.doc(parameters=[QUERY, SORT], responses={400: "BAD_REQUEST"})
@blp.page(ProjectRowSchema)
@requires(Access.READ)
def list_all_projects() -> dict[str, Any]:
    """List all projects that you can read, last changed first"""
    return _page_of_projects(
        projects.list_projects(None, query=request.args.get("query"), sort=request.args.get("sort"))
    )


@blp.get("/<username>")
@blp.doc(parameters=[QUERY, SORT], responses={400: "BAD_REQUEST"})
@blp.page(ProjectRowSchema)
@requires(Access.READ)
def list_projects(username: str) -> dict[str, Any]:
    """List the visible projects of a user, last changed first"""
    owner = users.find_for(me(), username)
    if owner is None:
        return page([], 0)
    return _page_of_projects(
        projects.list_projects(owner, query=request.args.get("query"), sort=request.args.get("sort"))
    )


def _page_of_projects(found: ModelSelect[Project]) -> dict[str, Any]:
    query = found.where(identity.readable_projects(me())).select(Project, User).join(User)
    return page(project_rows(query.limit(limit()).offset(offset())), query.count())


@blp.get("/<username>/projects/names")
@blp.page(ProjectNameSchema)
@requires(Access.READ)
def list_project_names(username: str) -> dict[str, Any]:
    """List the names of a user's visible projects"""
    owner = users.find_for(me(), username)
    if owner is None:
        return page([], 0)
    query = projects.list_projects(owner).where(identity.readable_projects(me()))
    return page_of_query(query)


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
    """Update a project's name, description, readme, tags or visibility"""
    project = find_project(username, project_name)
    return project_view(projects.update(project, _read_body(_CHANGE)))


@blp.delete(PROJECT)
@blp.empty(204)
@requires(Access.MANAGE)
def delete_project(username: str, project_name: str) -> Response:
    """Delete a project with its builds and uploads; stops and deletes its jobs"""
    projects.delete(find_project(username, project_name), me(), settings())
    return empty(204)


@blp.post(f"{PROJECT}/archive")
@blp.empty(200)
@requires(Access.MANAGE)
def archive_project(username: str, project_name: str) -> Response:
    """Archive a project: stop its jobs, and hide it from lists"""
    projects.archive(find_project(username, project_name, archived=True), me(), settings())
    return empty(200)


@blp.post(f"{PROJECT}/restore")
@blp.empty(200)
@requires(Access.MANAGE)
def restore_project(username: str, project_name: str) -> Response:
    """Restore an archived project"""
    projects.restore(find_project(username, project_name, archived=True))
    return empty(200)


@blp.post(f"{PROJECT}/bookmark")
@blp.empty(201)
@requires(Access.BOOKMARK)
def bookmark_project(username: str, project_name: str) -> Response:
    """Bookmark a project"""
    bookmarks.add(find_project(username, project_name), me())
    return empty(201)


@blp.delete(f"{PROJECT}/unbookmark")
@blp.empty(204)
@requires(Access.BOOKMARK)
def unbookmark_project(username: str, project_name: str) -> Response:
    """Remove a bookmark"""
    bookmarks.remove(find_project(username, project_name), me())
    return empty(204)


# Uploads.


@blp.get(f"{PROJECT}/repo")
@blp.response(200, RepositorySchema)
@requires(Access.READ)
def get_repository(username: str, project_name: str) -> dict[str, Any]:
    """Get the latest upload of a project"""
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
    """Run new jobs without an upload; existing jobs keep theirs"""
    projects.remove_upload(find_project(username, project_name))
    return empty(204)


@blp.get(f"{PROJECT}/repo/download")
@blp.doc(parameters=[COMMIT])
@blp.response(200, {"type": "string", "format": "binary"}, content_type="application/gzip")
@requires(Access.READ)
def download_code(username: str, project_name: str) -> Response:
    """Download an upload of a project, a .tar.gz file"""
    project = find_project(username, project_name)
    upload = projects.find_upload(project, request.args.get("commit") or None)
    return send_file(
        store().upload_path(upload.digest),
        mimetype="application/gzip",
        as_attachment=True,
        download_name=f"{project.unique_name.replace('.', '_')}.tar.gz",
        etag=upload.digest,
    )


@blp.put(f"{PROJECT}/repo/upload")
@blp.doc(
    requestBody={
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "properties": {"repo": {"type": "string", "format": "binary", "description": "A .tar.gz file."}},
                    "required": ["repo"],
                }
            }
        },
    }
)
@blp.empty(200)
@requires(Access.SUBMIT)
def upload_code(username: str, project_name: str) -> Response:
    """Upload the files that new jobs of a project run with"""
    project = find_project(username, project_name)
    request.max_content_length = settings().upload_limit + MULTIPART_OVERHEAD_BYTES
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


def project_items(ids: Sequence[int]) -> list[dict[str, Any]]:
    """Return the projects with these ids in this order, as JSON. Missing ones are left out."""
    query = Project.select(Project, User).join(User).where(Project.id.in_(list(ids)))
    projects = {project.id: project for project in query}
    items: list[dict[str, Any]] = _ROW_SCHEMA.dump(
        project_rows(projects[id] for id in ids if id in projects), many=True
    )
    return items


def _read_body(schema: Schema = _CREATE) -> Any:
    return load_body(schema, read_body())
