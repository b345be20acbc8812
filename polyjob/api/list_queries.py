"""The rows of one page of a list: ids first, by an index that holds them in order, then what a list shows of each."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from flask import request
from peewee import Field

from polyjob.api import paging
from polyjob.api.request_context import me
from polyjob.auth import identity
from polyjob.db.models import Build, Job, Project, User
from polyjob.services import builds, jobs
from polyjob.services.sorting import BUILD_SORT_COLUMNS, JOB_SORT_COLUMNS, after_cursor, cursor_order, parse_sort

_HIDDEN = {
    "config",
    "content",
    "readme",
    "data_refs",
    "params",
    "key_parts",
    "handle",
    "log_cursor",
    "exit",
    "notes",
    "reported",
    "reason",
}


MOST_COUNTED = 10_000
"""With a query, items are counted up to here; a count that is one more says «at least»."""


def page_of_jobs(project: Project, show: Callable[[list[Job]], list[Any]]) -> dict[str, Any]:
    """The page of the project's jobs that the request asks for, each as `show` has it. A few queries, however many
    jobs there are."""
    found = jobs.list_jobs(project, *_asked(), with_archived=identity.may_write(me(), project))
    return _page(Job, found, JOB_SORT_COLUMNS, project, project.job_count, show)


def page_of_builds(project: Project, show: Callable[[list[Build]], list[Any]]) -> dict[str, Any]:
    """As `page_of_jobs`."""
    found = builds.list_builds(project, *_asked(), with_archived=identity.may_write(me(), project))
    return _page(Build, found, BUILD_SORT_COLUMNS, project, project.build_count, show)


def _asked() -> tuple[str | None, str | None]:
    return request.args.get("query"), request.args.get("sort")


def _page(
    table: Any,
    found: Any,
    columns: Mapping[str, Field],
    project: Project,
    known: int,
    show: Callable[[list[Any]], list[Any]],
) -> dict[str, Any]:
    count = known if not request.args.get("query") else int(found.order_by().limit(MOST_COUNTED + 1).count())
    if "cursor" in request.args:
        rows, following = _walk(table, found, columns)
        return paging.walked_page(show(load(table, rows, project)), count, following)
    ids = [row[0] for row in found.select(table.id).limit(paging.limit()).offset(paging.offset()).tuples()]
    return paging.page(show(load(table, ids, project)), count)


def _walk(table: Any, found: Any, columns: Mapping[str, Field]) -> tuple[list[int], str | None]:
    """(ids of the page behind the request's cursor, the cursor behind them; None where nothing follows)."""
    order, size = cursor_order(request.args.get("sort"), columns), paging.limit()
    last = paging.read_cursor(order.name)
    if last is not None:
        found = found.where(after_cursor(order, table.id, *last))
    found = found.order_by(*parse_sort(order.name, columns)).limit(size + 1)
    rows = list(found.select(order.column.alias("value"), table.id.alias("number")).objects(_Raw))
    more = len(rows) > size
    rows = rows[:size]
    cursor = paging.make_cursor(order.name, order.column.db_value(rows[-1].value), rows[-1].number) if more else None
    return [row.number for row in rows], cursor


class _Raw:
    """A row of a walk."""

    def __init__(self, value: Any, number: int) -> None:
        self.value, self.number = value, number


def load(table: Any, ids: Iterable[int], project: Project | None = None) -> list[Any]:
    """These rows in this order, with what a list shows of them. `project`: the one that all belong to."""
    ids = list(ids)
    shown = [field for name, field in table._meta.fields.items() if name not in _HIDDEN]
    query = table.select(*shown, User.id, User.username).join(User, on=table.user).where(table.id.in_(ids))
    rows = {row.id: row for row in query}
    for row in rows.values():
        if project is not None:
            row.project = project
    return [rows[number] for number in ids if number in rows]
