"""A user's archived jobs, builds and projects."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from flask import Response, jsonify, request
from peewee import ModelSelect

from polyjob.api.bookmarks import blp, own_or_any_for_administrators
from polyjob.api.list_queries import ToItems, build_items, job_items
from polyjob.api.paging import limit, offset, page
from polyjob.api.params import query_parameter
from polyjob.api.projects import project_items
from polyjob.api.schemas.bookmarks import archived_of
from polyjob.api.schemas.builds import BuildRowSchema
from polyjob.api.schemas.jobs import JobRowSchema
from polyjob.api.schemas.projects import ProjectRowSchema
from polyjob.auth import identity
from polyjob.auth.permissions import Access, requires
from polyjob.db.models import Build, Job, Project, User
from polyjob.services import builds, jobs, projects
from polyjob.services.sorting import parse_sort

SORT = query_parameter(
    "sort",
    "`updated_at` or `created_at`; `-` for descending order. Without it, the last archived comes first.",
    type="string",
)
_SORT_COLUMNS = ("id", "created_at", "updated_at")


@blp.get("/archives/<username>/jobs")
@blp.doc(parameters=[SORT], responses={400: "BAD_REQUEST"})
@blp.page(archived_of(JobRowSchema))
@requires(Access.READ)
def archived_jobs(username: str) -> Response:
    """List the archived jobs of a user's projects, last archived first"""
    return _archived(username, jobs.list_archived, Job, job_items)


@blp.get("/archives/<username>/builds")
@blp.doc(parameters=[SORT], responses={400: "BAD_REQUEST"})
@blp.page(archived_of(BuildRowSchema))
@requires(Access.READ)
def archived_builds(username: str) -> Response:
    """List the archived builds of a user's projects, last archived first"""
    return _archived(username, builds.list_archived, Build, build_items)


@blp.get("/archives/<username>/projects")
@blp.doc(parameters=[SORT], responses={400: "BAD_REQUEST"})
@blp.page(archived_of(ProjectRowSchema))
@requires(Access.READ)
def archived_projects(username: str) -> Response:
    """List a user's archived projects, last changed first"""
    return _archived(username, lambda owner: projects.list_projects(owner, archived=True), Project, project_items)


def _archived(
    username: str, list_archived: Callable[[User], ModelSelect[Any]], table: Any, to_items: ToItems
) -> Response:
    owner = own_or_any_for_administrators(username)
    if owner is None:
        return jsonify(page([], 0))
    query = list_archived(owner)
    sort = request.args.get("sort")
    if sort:
        query = query.order_by(*parse_sort(sort, {name: getattr(table, name) for name in _SORT_COLUMNS}))
    only_project_id = identity.bound_project_id()
    if only_project_id is not None:
        query = query.where((table.id if table is Project else table.project) == only_project_id)
    ids = [row.id for row in query.select(table.id).limit(limit()).offset(offset())]
    return jsonify(page([item | {"deleted": True} for item in to_items(ids)], query.count()))
