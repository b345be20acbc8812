"""What one has bookmarked, and what one has archived, of every kind."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from flask import request
from peewee import ModelSelect

from polyjob.api import list_queries
from polyjob.api.blueprint import Blueprint
from polyjob.api.builds import build_rows
from polyjob.api.jobs import job_rows
from polyjob.api.paging import limit, offset, page
from polyjob.api.projects import project_rows
from polyjob.api.request_context import me
from polyjob.api.schemas.bookmarks import archived_of, bookmarked_of
from polyjob.api.schemas.builds import BuildRowSchema
from polyjob.api.schemas.jobs import JobRowSchema
from polyjob.api.schemas.projects import ProjectRowSchema
from polyjob.auth import identity, users
from polyjob.auth.permissions import Access, requires
from polyjob.db.models import Build, Job, Project, User
from polyjob.services import bookmarks, builds, jobs, projects
from polyjob.services.sorting import parse_sort, sort_names

SORT = {
    "name": "sort",
    "in": "query",
    "description": "By when the bookmark was set: `updated_at` or `created_at`, `-` for the latest first.",
    "schema": {"type": "string", "default": "-updated_at"},
}

ARCHIVE_SORT = {
    "name": "sort",
    "in": "query",
    "description": "`updated_at` or `created_at`, `-` for descending; the last archived first unless given.",
    "schema": {"type": "string"},
}
_ARCHIVE_ORDERS = ("id", "created_at", "updated_at")

blp = Blueprint("marked", __name__, description="Bookmarks and archives.")


@blp.get("/bookmarks/<username>/jobs")
@blp.doc(parameters=[SORT], responses={400: "BAD_REQUEST"})
@blp.page(bookmarked_of(JobRowSchema))
@requires(Access.READ)
def bookmarked_jobs(username: str) -> dict[str, Any]:
    """List the jobs that one has bookmarked, the latest first"""
    return _bookmarked(username, Job, job_rows)


@blp.get("/bookmarks/<username>/builds")
@blp.doc(parameters=[SORT], responses={400: "BAD_REQUEST"})
@blp.page(bookmarked_of(BuildRowSchema))
@requires(Access.READ)
def bookmarked_builds(username: str) -> dict[str, Any]:
    """List the builds that one has bookmarked, the latest first"""
    return _bookmarked(username, Build, build_rows)


@blp.get("/bookmarks/<username>/projects")
@blp.doc(parameters=[SORT], responses={400: "BAD_REQUEST"})
@blp.page(bookmarked_of(ProjectRowSchema))
@requires(Access.READ)
def bookmarked_projects(username: str) -> dict[str, Any]:
    """List the projects that one has bookmarked, the latest first"""
    return _bookmarked(username, Project, project_rows)


@blp.get("/archives/<username>/jobs")
@blp.doc(parameters=[ARCHIVE_SORT], responses={400: "BAD_REQUEST"})
@blp.page(archived_of(JobRowSchema))
@requires(Access.READ)
def archived_jobs(username: str) -> dict[str, Any]:
    """List the archived jobs of one's own projects, the latest first"""
    return _archived(username, jobs.list_archived, Job, job_rows)


@blp.get("/archives/<username>/builds")
@blp.doc(parameters=[ARCHIVE_SORT], responses={400: "BAD_REQUEST"})
@blp.page(archived_of(BuildRowSchema))
@requires(Access.READ)
def archived_builds(username: str) -> dict[str, Any]:
    """List the archived builds of one's own projects, the latest first"""
    return _archived(username, builds.list_archived, Build, build_rows)


@blp.get("/archives/<username>/projects")
@blp.doc(parameters=[ARCHIVE_SORT], responses={400: "BAD_REQUEST"})
@blp.page(archived_of(ProjectRowSchema))
@requires(Access.READ)
def archived_projects(username: str) -> dict[str, Any]:
    """List one's own archived projects, last changed first"""
    return _archived(username, lambda owner: projects.list_projects(owner, archived=True), Project, project_rows)


def _bookmarked(username: str, table: Any, show: Callable[[list[Any]], list[Any]]) -> dict[str, Any]:
    """Of somebody else, nothing is shown but to an administrator. What one may not read any more is left out."""
    owner = users.find_for(me(), username)
    if owner is None or not _may_list(owner):
        return page([], 0)
    by = sort_names(request.args.get("sort"), ("created_at", "updated_at"), "-updated_at")[0]
    query = bookmarks.list_bookmarks(owner, table, by=by).where(bookmarks.Bookmark.target_id.in_(_readable(table)))
    numbers = [row.target_id for row in query.limit(limit()).offset(offset())]
    found = _load(table, numbers)
    return page([{"content_object": item} for item in show(found)], query.count())


def _archived(
    username: str,
    find: Callable[[User], ModelSelect[Any]],
    table: Any,
    show: Callable[[list[Any]], list[Any]],
) -> dict[str, Any]:
    owner = users.find_for(me(), username)
    if owner is None or not _may_list(owner):
        return page([], 0)
    query = find(owner)
    if request.args.get("sort"):
        query = query.order_by(
            *parse_sort(request.args["sort"], {name: getattr(table, name) for name in _ARCHIVE_ORDERS})
        )
    only = identity.bound_project_id()
    if only is not None:
        query = query.where((table.id if table is Project else table.project) == only)
    numbers = [row.id for row in query.select(table.id).limit(limit()).offset(offset())]
    return page(show(_load(table, numbers)), query.count())


def _may_list(owner: User) -> bool:
    return bool(me().id == owner.id or me().is_admin)


def _readable(table: Any) -> ModelSelect[Any]:
    """The ids of what lists show to whoever asks."""
    of_projects = Project.select(Project.id).where(identity.readable_projects(me()))
    if table is Project:
        return of_projects
    return table.select(table.id).where(
        table.project.in_(of_projects), table.deleted_at.is_null(), table.archived_at.is_null()
    )


def _load(table: Any, numbers: list[int]) -> list[Any]:
    if table is not Project:
        return list_queries.load(table, numbers)
    found = {project.id: project for project in Project.select().where(Project.id.in_(numbers))}
    return [found[number] for number in numbers if number in found]
