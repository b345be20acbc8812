"""The rows of one page of a list: ids first, by an index that holds them in order, then what a list shows of each."""

from __future__ import annotations

from typing import Any

from polyjob import builds, jobs
from polyjob.api import paging
from polyjob.models import Build, Job, Project, User

_HIDDEN = {"config", "content", "readme", "data_refs", "key_parts", "handle", "log_cursor", "exit", "notes"}


def page_of_jobs(project: Project) -> list[Job]:
    """Three queries, however many jobs."""
    return _page(Job, jobs.list_jobs(project), project)


def page_of_builds(project: Project) -> list[Build]:
    return _page(Build, builds.list_builds(project), project)


def _page(table: Any, query: Any, project: Project) -> list[Any]:
    ids = [row[0] for row in query.select(table.id).limit(paging.limit()).offset(paging.offset()).tuples()]
    shown = [field for name, field in table._meta.fields.items() if name not in _HIDDEN]
    found = table.select(*shown, User.id, User.username).join(User, on=table.user).where(table.id.in_(ids))
    rows = {row.id: row for row in found}
    for row in rows.values():
        row.project = project
    return [rows[number] for number in ids if number in rows]
