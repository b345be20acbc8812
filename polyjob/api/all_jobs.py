"""The list of the jobs of all projects."""

from __future__ import annotations

from typing import Any

from flask import Response, jsonify, request
from peewee import fn

from polyjob.api import paging
from polyjob.api.jobs import blp
from polyjob.api.list_queries import MAX_COUNTED_ITEMS
from polyjob.api.list_rows import job_items
from polyjob.api.request_context import me
from polyjob.api.schemas.jobs import JobOfAnyProjectSchema
from polyjob.auth import identity
from polyjob.auth.permissions import Access, requires
from polyjob.db.models import Job, Project
from polyjob.services import all_jobs, job_queue
from polyjob.services.filters import JOB_FIELDS, has_condition_on, parse_query
from polyjob.services.sorting import JOB_SORT_COLUMNS, CursorOrder, after_cursor, cursor_order
from polyjob.statuses import Status


@blp.get("/projects/jobs")
@blp.page(JobOfAnyProjectSchema, queries=True)
@requires(Access.READ)
def list_all_jobs() -> Response:
    """List the jobs of all projects that you can read, last changed first

    The list is sorted by one field only.
    """
    where, order, size = _conditions(), cursor_order(request.args.get("sort"), JOB_SORT_COLUMNS), paging.limit()
    count = _count(where)
    if "cursor" not in request.args:
        ids = [job_id for _, job_id in _rows(where, order, paging.offset() + size)[paging.offset() :]]
        return jsonify(paging.page(_items(ids), count))
    last = paging.read_cursor(order.name)
    rows = _rows([*where, after_cursor(order, Job.id, *last)] if last else where, order, size + 1)
    next_cursor = None
    if len(rows) > size:
        value, job_id = rows[size - 1]
        next_cursor = paging.make_cursor(order.name, order.column.db_value(value), job_id)
    return jsonify(paging.cursor_page(_items([job_id for _, job_id in rows[:size]]), count, next_cursor))


def _conditions() -> list[Any]:
    """Return the conditions for a job to be in the list. Raises Invalid for an error in the query."""
    query = request.args.get("query")
    where = [*parse_query(query, JOB_FIELDS, "job"), Job.deleted_at.is_null()]
    if not has_condition_on(query, "archived"):
        where.append(Job.archived_at.is_null())
    elif not me().is_admin:  # only writers of a project see its archived jobs
        own_projects = Project.select(Project.id).where(Project.user == me())
        where.append(Job.archived_at.is_null() | Job.project.in_(own_projects))
    return where


def _rows(where: list[Any], order: CursorOrder, count: int) -> list[tuple[Any, int]]:
    """Return (value of the sort column, id) of the first jobs."""
    return list(all_jobs.select_first(identity.readable_projects(me()), where, order, count).tuples())


def _count(where: list[Any]) -> int:
    readable = identity.readable_projects(me())
    if request.args.get("query"):
        return int(all_jobs.select_matching(readable, where).limit(MAX_COUNTED_ITEMS + 1).count())
    return int(Project.select(fn.COALESCE(fn.SUM(Project.job_count), 0)).where(readable).scalar())


def _items(ids: list[int]) -> list[dict[str, Any]]:
    items = job_items(ids)
    positions = job_queue.positions_of([item["id"] for item in items if item["last_status"] == Status.CREATED])
    return [item | {"queue_position": positions.get(item["id"])} for item in items]
