"""Jobs of all projects that a user may read, by merging the first rows of each project.

Each sort order has an index that starts with the project, so other users' projects do not slow a list down.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from peewee import ModelSelect

from polyjob.db.models import Job, Project
from polyjob.services.sorting import CursorOrder


def select_first(readable: Any, where: Sequence[Any], order: CursorOrder, count: int) -> Any:
    """Select (value of the sort column, id) of the first jobs among the first jobs of each readable project.

    `readable` is a condition on projects, and `where` are conditions on jobs.
    """
    each, row = Project.alias("each"), Job.alias("row")
    first = Job.select(Job.id).where(Job.project == each.id, *where)
    first = first.order_by(*order_by(order, Job)).limit(count)
    return (
        each.select(getattr(row, order.column.name), row.id)
        .join(row, on=row.id.in_(first))
        .where(each.id.in_(Project.select(Project.id).where(readable)))
        .order_by(*order_by(order, row))
        .limit(count)
    )


def select_matching(readable: Any, where: Sequence[Any]) -> ModelSelect[Job]:
    """Select the jobs of all readable projects that satisfy the conditions, in no order."""
    return Job.select(Job.id).where(Job.project.in_(Project.select(Project.id).where(readable)), *where)


def order_by(order: CursorOrder, table: Any) -> list[Any]:
    """Return the ORDER BY: the sort column, nulls last, then the id."""
    column = getattr(table, order.column.name)
    nulls = "LAST" if order.column.null else None
    if order.descending:
        return [column.desc(nulls=nulls), table.id.desc()]
    return [column.asc(nulls=nulls), table.id.asc()]
