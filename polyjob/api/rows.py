"""The rows of one page of a list: ids first, by an index that holds them in order, then what a list shows of each."""

from __future__ import annotations

from typing import Any

from flask import request

from polyjob import builds, jobs
from polyjob.api import paging
from polyjob.models import Build, Job, Project, User

_HIDDEN = {"config", "content", "readme", "data_refs", "key_parts", "handle", "log_cursor", "exit", "notes"}


MOST_COUNTED = 10_000
"""With a query, items are counted up to here; a count that is one more says «at least»."""


def page_of_jobs(project: Project) -> tuple[list[Job], int]:
    """(the jobs of the page, how many there are). A few queries, however many jobs."""
    found = jobs.list_jobs(project, *_asked())
    return _page(Job, found, project), _count(found, project.job_count)


def page_of_builds(project: Project) -> tuple[list[Build], int]:
    """As `page_of_jobs`."""
    found = builds.list_builds(project, *_asked())
    return _page(Build, found, project), _count(found, project.build_count)


def _asked() -> tuple[str | None, str | None]:
    return request.args.get("query"), request.args.get("sort")


def _count(found: Any, known: int) -> int:
    """Without a query the number is known; with one it is counted, as far as that is cheap."""
    return known if not request.args.get("query") else int(found.order_by().limit(MOST_COUNTED + 1).count())


def _page(table: Any, query: Any, project: Project) -> list[Any]:
    ids = [row[0] for row in query.select(table.id).limit(paging.limit()).offset(paging.offset()).tuples()]
    shown = [field for name, field in table._meta.fields.items() if name not in _HIDDEN]
    found = table.select(*shown, User.id, User.username).join(User, on=table.user).where(table.id.in_(ids))
    rows = {row.id: row for row in found}
    for row in rows.values():
        row.project = project
    return [rows[number] for number in ids if number in rows]
