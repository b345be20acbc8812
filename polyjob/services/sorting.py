"""The order of lists: translate `?sort=`. Pure: does not read the database."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from peewee import Field, Ordering

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
class SortedBy:
    """A column by which a list is sorted. Nulls come last."""

    column: Field
    is_descending: bool

    @property
    def name(self) -> str:
        return str(self.column.column_name)

    @property
    def direction(self) -> str:
        return ("DESC" if self.is_descending else "ASC") + (" NULLS LAST" if self.column.null else "")

    def __str__(self) -> str:
        return f"-{self.name}" if self.is_descending else self.name


Order = Sequence[SortedBy]
"""The columns by which a list is sorted. Equal rows are in the order of their ids, in the direction of the first."""


def parse_order(text: str | None, columns: Mapping[str, Field], default: str = "-updated_at") -> Order:
    """Return the order of `?sort=`. Raises Invalid for the parameter `sort` if a name is unknown."""
    names = sort_names(text, columns, default)
    return [SortedBy(columns[name.removeprefix("-")], name.startswith("-")) for name in names]


def single(order: Order) -> SortedBy:
    """Return the only column of the order of a list that is read by cursor. Raises Invalid if it has several."""
    if len(order) > 1:
        raise Invalid([Problem("sort", "With `cursor`, a list is sorted by one field only.")])
    return order[0]


def _order(column: Field, descending: bool) -> Ordering:
    nulls = "LAST" if column.null else None
    return column.desc(nulls=nulls) if descending else column.asc(nulls=nulls)
