"""The order of lists: translate `?sort=` to ORDER BY, and cursors to conditions. Pure: does not read the database."""

from __future__ import annotations

import difflib
import operator
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from peewee import SQL, Expression, Field, NodeList, Ordering, Value

from polyjob.db.models import Build, Job, Project
from polyjob.errors import Invalid, Problem

MAX_SORT_FIELDS = 50
"""Fields of a sort."""

_RUN_COLUMNS: Sequence[str] = ("id", "created_at", "updated_at", "started_at", "finished_at")
JOB_SORT_COLUMNS: Mapping[str, Field] = {name: getattr(Job, name) for name in _RUN_COLUMNS}
BUILD_SORT_COLUMNS: Mapping[str, Field] = {name: getattr(Build, name) for name in _RUN_COLUMNS}
PROJECT_SORT_COLUMNS: Mapping[str, Field] = {
    "id": Project.id,
    "name": Project.name,
    "created_at": Project.created_at,
    "updated_at": Project.updated_at,
}


def parse_sort(text: str | None, columns: Mapping[str, Field], default: str = "-updated_at") -> list[Ordering]:
    """Return the ORDER BY of `?sort=`: names of columns, each with `-` if it is descending.

    Nulls come last, and the id makes the order of equal rows stable. Raises Invalid for the parameter `sort` if a name
    is unknown.
    """
    names = sort_names(text, columns, default)
    orders = [_order(columns[name.removeprefix("-")], name.startswith("-")) for name in names]
    return [*orders, _order(columns["id"], names[0].startswith("-"))]


def sort_names(text: str | None, fields: Iterable[str], default: str) -> list[str]:
    """Return the names of `?sort=`, each with its `-`, or the default.

    Raises Invalid for the parameter `sort` if a name is unknown.
    """
    names = [name.strip() for name in (text or "").split(",") if name.strip()]
    unknown = [name for name in names if name.removeprefix("-") not in fields]
    if unknown:
        names_of_fields = ", ".join(f"`{name}`" for name in fields)
        close = difflib.get_close_matches(unknown[0].removeprefix("-")[:100], list(fields), n=1)
        hint = f" Did you mean `{close[0]}`?" if close else ""
        detail = (
            f"Unknown sort field `{shorten(unknown[0])}`; use one of: {names_of_fields}. A `-` before a field sorts"
            f" in descending order.{hint}"
        )
        raise Invalid([Problem("sort", detail)])
    if len(names) > MAX_SORT_FIELDS:
        raise Invalid([Problem("sort", f"A list is sorted by at most {MAX_SORT_FIELDS} fields.")])
    return names or [default]


def shorten(text: str) -> str:
    """Return the text for an error message, cut after 100 characters."""
    return text if len(text) <= 100 else f"{text[:99]}…"


@dataclass(frozen=True)
class CursorOrder:
    """The order of a list that is read by cursor: by one column, then by id."""

    name: str
    column: Field
    descending: bool


def cursor_order(text: str | None, columns: Mapping[str, Field], default: str = "-updated_at") -> CursorOrder:
    """Return the order of `?sort=` for a list that is read by cursor. Raises Invalid if it names several columns."""
    names = sort_names(text, columns, default)
    if len(names) > 1:
        raise Invalid([Problem("sort", "With `cursor`, a list is sorted by one field only.")])
    name = names[0].removeprefix("-")
    return CursorOrder(names[0], columns[name], names[0].startswith("-"))


def after_cursor(order: CursorOrder, key: Field, value: Any, row_id: int) -> Any:
    """Return the condition for rows that come after the row with this (stored) value and id. Nulls come last."""
    compare = operator.lt if order.descending else operator.gt
    if order.column is key:
        return compare(key, row_id)
    if value is None:
        return order.column.is_null() & compare(key, row_id)
    columns = NodeList((order.column, key), glue=", ", parens=True)
    cursor = NodeList((Value(value), Value(row_id)), glue=", ", parens=True)
    after = NodeList((columns, SQL("<" if order.descending else ">"), cursor))
    return Expression(after, "OR", order.column.is_null()) if order.column.null else Expression(after, "AND", SQL("1"))


def _order(column: Field, descending: bool) -> Ordering:
    nulls = "LAST" if column.null else None
    return column.desc(nulls=nulls) if descending else column.asc(nulls=nulls)
