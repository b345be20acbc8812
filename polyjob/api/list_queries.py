"""One page of a list, in two queries: the ids from an index that has them in order, then the items with these ids."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from flask import Response, jsonify, request
from peewee import fn

from polyjob.api import paging
from polyjob.api.request_context import me
from polyjob.auth import identity
from polyjob.auth.roles import writable_ids
from polyjob.db.models import Build, Job, Project, User
from polyjob.services import list_rows
from polyjob.services.list_rows import Item
from polyjob.services.listing import Listing
from polyjob.services.sorting import BUILD_SORT_COLUMNS, JOB_SORT_COLUMNS, Order, parse_order, single

MAX_COUNTED_ITEMS = 10_000
"""With a query, counting ends after this many items; a count of one more means "at least"."""

ToItems = Callable[[Sequence[int]], list[Item]]
"""Returns the items with these ids in this order, as the current user sees them. Missing ones are left out."""


def job_items(ids: Sequence[int]) -> list[Item]:
    return list_rows.job_items(ids, me().id)


def build_items(ids: Sequence[int]) -> list[Item]:
    return list_rows.build_items(ids, me().id)


def page_of_jobs(project: Project) -> Response:
    """Return the requested page of the project's jobs. The number of queries does not grow with the number of jobs."""
    listing = job_listing(me(), project, request.args.get("query"))
    order = parse_order(request.args.get("sort"), JOB_SORT_COLUMNS)
    return page_of(listing, order, project.job_count, job_items)


def page_of_builds(project: Project) -> Response:
    """Return the requested page of the project's builds, as `page_of_jobs` does."""
    listing = Listing(Build, *_ids(me(), [project]), request.args.get("query"))
    order = parse_order(request.args.get("sort"), BUILD_SORT_COLUMNS)
    return page_of(listing, order, project.build_count, build_items)


def page_of_all_jobs(to_items: ToItems) -> Response:
    """Return the requested page of the jobs of all projects that the current user may read."""
    listing = job_listing(me(), None, request.args.get("query"))
    order = parse_order(request.args.get("sort"), JOB_SORT_COLUMNS)
    readable = Project.select(fn.COALESCE(fn.SUM(Project.job_count), 0)).where(identity.readable_projects(me()))
    return page_of(listing, order, int(readable.scalar()), to_items)


def job_listing(user: User, project: Project | None, query: str | None, **options: Any) -> Listing:
    """Return the jobs of a project, or of all projects that the user may read, that meet the query.

    `options` are those of `Listing`. Raises Invalid for an invalid query.
    """
    columns = (Project.id, Project.user)
    projects = [project] if project else Project.select(*columns).where(identity.readable_projects(user))
    return Listing(Job, *_ids(user, projects), query, **options)


def _ids(user: User, projects: Iterable[Project]) -> tuple[list[int], list[int]]:
    """Return the ids of the projects, and of those in which the user may list archived items."""
    rows = list(projects)
    return [row.id for row in rows], writable_ids(user, rows)


def page_of(listing: Listing, order: Order, count: int, to_items: ToItems) -> Response:
    """Return the requested page of a list. `count` is the number of its items without a query."""
    if request.args.get("query"):
        count = listing.count(MAX_COUNTED_ITEMS + 1)
    if "cursor" not in request.args:
        ids = [row_id for _, row_id in listing.page(order, paging.limit(), paging.offset())]
        return jsonify(paging.page(to_items(ids), count))
    column, size = single(order), paging.limit()
    rows = listing.page([column], size + 1, after=paging.read_cursor(str(column)))
    next_cursor = paging.make_cursor(str(column), *rows[size - 1]) if len(rows) > size else None
    return jsonify(paging.cursor_page(to_items([row_id for _, row_id in rows[:size]]), count, next_cursor))
