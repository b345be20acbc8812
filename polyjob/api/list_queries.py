"""One page of a list, in two queries: the ids from an index that has them in order, then the items with these ids."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from flask import Response, jsonify, request
from peewee import Field

from polyjob.api import paging
from polyjob.api.list_rows import ToItems, build_items, job_items
from polyjob.api.request_context import me
from polyjob.auth import identity
from polyjob.db.models import Build, Job, Project
from polyjob.services import builds, jobs
from polyjob.services.sorting import BUILD_SORT_COLUMNS, JOB_SORT_COLUMNS, after_cursor, cursor_order, parse_sort

MAX_COUNTED_ITEMS = 10_000
"""With a query, counting ends after this many items; a count of one more means "at least"."""


def page_of_jobs(project: Project) -> Response:
    """Return the requested page of the project's jobs. The number of queries does not grow with the number of jobs."""
    query, sort = request.args.get("query"), request.args.get("sort")
    matching = jobs.list_jobs(project, query, sort, with_archived=identity.may_write(me(), project))
    return _page(_List(Job, matching, JOB_SORT_COLUMNS, project.job_count, job_items))


def page_of_builds(project: Project) -> Response:
    """Return the requested page of the project's builds, as `page_of_jobs` does."""
    query, sort = request.args.get("query"), request.args.get("sort")
    matching = builds.list_builds(project, query, sort, with_archived=identity.may_write(me(), project))
    return _page(_List(Build, matching, BUILD_SORT_COLUMNS, project.build_count, build_items))


@dataclass(frozen=True)
class _List:
    """A list of which a page is requested."""

    table: Any
    matching: Any
    """The query for all its items."""
    sort_columns: Mapping[str, Field]
    total: int
    """Number of items without a filter."""
    to_items: ToItems


def _page(listed: _List) -> Response:
    count = listed.total
    if request.args.get("query"):
        count = int(listed.matching.order_by().limit(MAX_COUNTED_ITEMS + 1).count())
    if "cursor" in request.args:
        ids, next_cursor = _ids_after_cursor(listed)
        return jsonify(paging.cursor_page(listed.to_items(ids), count, next_cursor))
    window = listed.matching.select(listed.table.id).limit(paging.limit()).offset(paging.offset())
    ids = [row[0] for row in window.tuples()]
    return jsonify(paging.page(listed.to_items(ids), count))


def _ids_after_cursor(listed: _List) -> tuple[list[int], str | None]:
    """Return the ids of the page after the request's cursor, and the cursor of the next page or None."""
    order, size = cursor_order(request.args.get("sort"), listed.sort_columns), paging.limit()
    last = paging.read_cursor(order.name)
    matching = listed.matching
    if last is not None:
        matching = matching.where(after_cursor(order, listed.table.id, *last))
    matching = matching.order_by(*parse_sort(order.name, listed.sort_columns)).limit(size + 1)
    rows = list(matching.select(order.column.alias("value"), listed.table.id.alias("id")).objects(_SortedRow))
    has_more, rows = len(rows) > size, rows[:size]
    if not has_more:
        return [row.id for row in rows], None
    last_value = order.column.db_value(rows[-1].value)
    return [row.id for row in rows], paging.make_cursor(order.name, last_value, rows[-1].id)


class _SortedRow:
    """A row's id, and its value of the column that the list is sorted by."""

    def __init__(self, value: Any, id: int) -> None:
        self.value, self.id = value, id
