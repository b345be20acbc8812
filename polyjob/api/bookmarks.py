"""The jobs, builds and projects that a user has bookmarked."""

from __future__ import annotations

from typing import Any

from flask import Response, jsonify, request
from peewee import ModelSelect

from polyjob.api.blueprint import Blueprint
from polyjob.api.list_queries import ToItems, build_items, job_items
from polyjob.api.paging import limit, offset, page
from polyjob.api.params import query_parameter
from polyjob.api.projects import project_items
from polyjob.api.request_context import me
from polyjob.api.schemas.bookmarks import bookmarked_of
from polyjob.api.schemas.builds import BuildRowSchema
from polyjob.api.schemas.jobs import JobRowSchema
from polyjob.api.schemas.projects import ProjectRowSchema
from polyjob.auth import identity, users
from polyjob.auth.permissions import Access, requires
from polyjob.db.models import Build, Job, Project, User
from polyjob.services import bookmarks
from polyjob.services.sorting import sort_names

SORT = query_parameter(
    "sort",
    "By the time of the bookmark: `updated_at` or `created_at`; `-` for the latest first.",
    type="string",
    default="-updated_at",
)

blp = Blueprint("marked", __name__, description="Bookmarks and archives.")


@blp.get("/bookmarks/<username>/jobs")
@blp.doc(parameters=[SORT], responses={400: "BAD_REQUEST"})
@blp.page(bookmarked_of(JobRowSchema))
@requires(Access.READ)
def bookmarked_jobs(username: str) -> Response:
    """List a user's bookmarked jobs, latest bookmark first"""
    return _bookmarked(username, Job, job_items)


@blp.get("/bookmarks/<username>/builds")
@blp.doc(parameters=[SORT], responses={400: "BAD_REQUEST"})
@blp.page(bookmarked_of(BuildRowSchema))
@requires(Access.READ)
def bookmarked_builds(username: str) -> Response:
    """List a user's bookmarked builds, latest bookmark first"""
    return _bookmarked(username, Build, build_items)


@blp.get("/bookmarks/<username>/projects")
@blp.doc(parameters=[SORT], responses={400: "BAD_REQUEST"})
@blp.page(bookmarked_of(ProjectRowSchema))
@requires(Access.READ)
def bookmarked_projects(username: str) -> Response:
    """List a user's bookmarked projects, latest bookmark first"""
    return _bookmarked(username, Project, project_items)


def _bookmarked(username: str, table: Any, to_items: ToItems) -> Response:
    """Return the requested page of the bookmarks, without those of objects that the user may not read any more."""
    owner = own_or_any_for_administrators(username)
    if owner is None:
        return jsonify(page([], 0))
    order = sort_names(request.args.get("sort"), ("created_at", "updated_at"), "-updated_at")[0]
    query = bookmarks.list_bookmarks(owner, table, by=order)
    query = query.where(bookmarks.Bookmark.target_id.in_(_readable_ids(table)))
    ids = [row.target_id for row in query.limit(limit()).offset(offset())]
    return jsonify(page([{"content_object": item} for item in to_items(ids)], query.count()))


def own_or_any_for_administrators(username: str) -> User | None:
    """Return the user of this name if it is the current user, or if the current user is an administrator.

    To anybody else, the bookmarks and archives of others look empty.
    """
    owner = users.find_for(me(), username)
    return owner if owner is not None and (me().id == owner.id or me().is_admin) else None


def _readable_ids(table: Any) -> ModelSelect[Any]:
    """Select the ids of the objects that lists show to the current user."""
    projects = Project.select(Project.id).where(identity.readable_projects(me()))
    if table is Project:
        return projects
    is_visible = table.deleted_at.is_null() & table.archived_at.is_null()
    return table.select(table.id).where(table.project.in_(projects), is_visible)
