"""Reads lists of jobs and builds: the ids of one page, in order, and how many rows there are.

The statements name their index, so that SQLite never chooses another one. A page is read in one of three ways:

- *By value*: an index has the rows of each value, such as a status, in the order of the list. SQLite merges the values
  and stops at the end of the page.
- *Sorted*: an index finds at most `MAX_SORTED_ROWS` rows that meet one of the conditions, and SQLite sorts them.
- *Walk*: the index of the order is read until the page is full. This serves conditions that many rows meet.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from polyjob.db.database import database
from polyjob.db.models import ARCHIVED, LISTED, Build, Job
from polyjob.services.filters import (
    BUILD_FIELDS,
    JOB_FIELDS,
    PROJECT_FIELD_NAMES,
    QueryCondition,
    parse_conditions,
    read_values,
    true_or_false,
)
from polyjob.services.job_searches import BOOKMARKED, BY_BOOKMARK, Search, search_of
from polyjob.services.sorting import Order, SortedBy

MAX_SORTED_ROWS = 2_000
"""Rows that are sorted for a page. If more rows meet a condition, the list is walked in its order."""

_ORDERS: dict[tuple[Any, bool], dict[str, str]] = {
    (Job, False): {
        "updated_at": "job_updated",
        "created_at": "job_created",
        "started_at": "job_started",
        "finished_at": "job_finished",
        "id": "job_project",
    },
    (Job, True): {"updated_at": "job_archived_updated", "created_at": "job_archived_created"},
    (Build, False): {"updated_at": "build_updated", "created_at": "build_created"},
    (Build, True): {"archived_at": "build_archived"},
}
"""(table, archived) → the indexes that have the rows of a project in an order. The first serves all other orders."""

_PREFERENCE = ("status", "tag", "user_id", "")
"""The preferred search, if many rows meet several conditions. The indexes of statuses also have the user."""
_TAG_COLUMNS = frozenset(("id", "project_id", "tag", "created_at", "updated_at"))


@dataclass(frozen=True)
class Sql:
    """A part of a statement, and its parameters."""

    text: str
    parameters: tuple[Any, ...] = ()

    def __add__(self, other: Sql | str) -> Sql:
        other = Sql(other) if isinstance(other, str) else other
        return Sql(self.text + other.text, self.parameters + other.parameters)


def _join(separator: str, parts: Iterable[Sql]) -> Sql:
    parts = list(parts)
    return Sql(separator.join(part.text for part in parts), tuple(value for part in parts for value in part.parameters))


Cursor = tuple[int | None, int]
"""(value of the column that the list is sorted by, id) of a row."""


@dataclass(frozen=True, eq=False)
class _Condition:
    sql: Sql
    search: Search | None = None


@dataclass(frozen=True)
class _Path:
    """The way to the rows: an index (None: the primary key), and the conditions that are left to check."""

    index: str | None
    search: Search | None
    conditions: Sequence[Sql]


class Listing:
    """The jobs or builds of some projects that meet a query: the archived ones if it asks for them, else the others.

    Archived rows are listed only from `writable_ids`. Raises Invalid for an invalid query; see
    `polyjob.services.filters`. In the SQL, `t1` is the table.
    """

    def __init__(
        self,
        table: type[Job] | type[Build],
        project_ids: Sequence[int],
        writable_ids: Sequence[int],
        query: str | None = None,
        *,
        is_archived: bool = False,
        bookmarks_of: int | None = None,
    ) -> None:
        fields, subject = (JOB_FIELDS, "job") if table is Job else (BUILD_FIELDS, "build")
        of_projects, of_tags = [], []
        self._conditions = [] if bookmarks_of is None else [_Condition(Sql(BOOKMARKED, (bookmarks_of,)), BY_BOOKMARK)]
        for condition in parse_conditions(query, fields, subject):
            sql = _compile(condition.expression)
            if condition.name in PROJECT_FIELD_NAMES:
                of_projects.append(sql)
                continue
            if condition.name == "archived":
                is_archived |= true_or_false(condition.operand) != condition.is_negated
            if condition.name == "tags" and table is Job:
                of_tags.append((len(self._conditions), condition))
            self._conditions.append(_Condition(sql, search_of(condition) if table is Job else None))
        for index, condition in [] if is_archived else of_tags:
            self._conditions[index] = _Condition(_has_tag(condition), search_of(condition))
        ids = list(writable_ids if is_archived else project_ids)
        self._project_ids = _matching(ids, of_projects) if of_projects else ids
        self._table, self._is_archived = table._meta.table_name, is_archived
        self._visible = ARCHIVED.sql if is_archived else LISTED.sql
        self._orders = _ORDERS[table, is_archived]
        self._sizes: dict[_Condition, int] = {}

    def count(self, maximum: int) -> int:
        """Return the number of rows, but at most `maximum`."""
        if not self._project_ids:
            return 0
        path = self._path(())
        rows = _join(_union(path), self._branches(path, _one_of(self._project_ids), ("id",)))
        return _number(Sql("SELECT COUNT(*) FROM (") + rows + Sql(" LIMIT ?)", (maximum,)))

    def page(self, order: Order, limit: int, offset: int = 0, after: Cursor | None = None) -> list[Cursor]:
        """Return (value of the first column of the order, id) of the rows of one page.

        `after` starts the page after a row; the order has one column then.
        """
        if not self._project_ids:
            return []
        if len(self._project_ids) == 1:
            rows = self._rows(Sql("= ?", (self._project_ids[0],)), order, after)
        else:
            rows = self._rows_of_projects(order, limit + offset, after)
        rows += Sql(" LIMIT ? OFFSET ?", (limit, offset))
        return [(row[0], row[-1]) for row in database.execute_sql(rows.text, rows.parameters)]

    def _rows_of_projects(self, order: Order, limit: int, after: Cursor | None) -> Sql:
        """Select the first rows among the first rows of each project."""
        first = self._rows(Sql("= each.id"), order, after) + Sql(" LIMIT ?", (limit,))
        columns = ", ".join(f"row.{column.name}" for column in order)
        projects = Sql("(SELECT value AS id FROM json_each(?)) AS each", (json.dumps(self._project_ids),))
        table = f"{self._table} AS row ON row.id IN (SELECT id FROM ("
        return Sql(f"SELECT {columns}, row.id FROM ") + projects + f" CROSS JOIN {table}" + first + f")) {_by(order)}"

    def _rows(self, of_project: Sql, order: Order, after: Cursor | None) -> Sql:
        path = self._path(order)
        columns = [*(column.name for column in order), "id"]
        starts = _starts(order[0], after, *(_column(path, name) for name in (columns[0], "id"))) if after else [None]
        branches = (branch for start in starts for branch in self._branches(path, of_project, columns, start))
        return _join(_union(path), branches) + f" {_by(order)}"

    def _branches(
        self, path: _Path, of_project: Sql, columns: Sequence[str], start: Sql | None = None
    ) -> Iterator[Sql]:
        """Select the columns of the rows, in one SELECT for each value that the path searches for."""
        search, by_tag = path.search, _is_by_tag(path)
        conditions = [Sql(f"{_column(path, 'project_id')} ") + of_project]
        if by_tag:
            is_joined = bool(path.conditions) or not _TAG_COLUMNS.issuperset(columns)
            join = f" CROSS JOIN {self._table} AS t1 ON t1.id = job_tag.job_id" if is_joined else ""
            source = f"job_tag INDEXED BY {path.index}{join}"
        else:
            source = f"{self._table} AS t1 " + (f"INDEXED BY {path.index}" if path.index else "NOT INDEXED")
            conditions.append(Sql(self._visible))
        if search is not None and search.guard:
            conditions.append(Sql(search.guard))
        conditions += [*path.conditions, *([start] if start else [])]
        names = ", ".join(f"{_column(path, name)} AS {name}" for name in columns)
        select = Sql(f"SELECT {names} FROM {source} WHERE ") + _join(" AND ", conditions)
        if search is None or not search.by:
            yield select
            return
        for expression, value in search.values:
            yield select + Sql(f" AND {_column(path, search.by)} = {expression}", (value,))

    def _path(self, order: Order) -> _Path:
        """Choose the path for a page in this order, or for the number of all rows if the order is empty."""
        column = order[0].name if order else ""
        searches = [
            (condition, condition.search)
            for condition in self._conditions
            if condition.search and (condition.search.has_archived or not self._is_archived)
        ]
        searches.sort(key=lambda pair: _PREFERENCE.index(pair[1].by))
        in_order = [pair for pair in searches if len(order) == 1 and column in pair[1].in_order]
        if len(searches) == 1 and (in_order or not order):
            return self._path_by(searches[0][0], column)
        if searches:
            smallest = min((condition for condition, _ in searches), key=self._size)
            if not order or self._size(smallest) <= MAX_SORTED_ROWS:
                return self._path_by(smallest, column)
        if in_order:
            return self._path_by(in_order[0][0], column)
        index = self._orders.get(column) or next(iter(self._orders.values()))
        return _Path(index, None, [condition.sql for condition in self._conditions])

    def _path_by(self, searched: _Condition, column: str) -> _Path:
        search = searched.search
        assert search is not None
        others = [condition.sql for condition in self._conditions if condition is not searched or not search.by]
        return _Path(search.in_order.get(column, search.index), search, others)

    def _size(self, condition: _Condition) -> int:
        """Return how many rows the search of the condition finds, but at most one more than are sorted."""
        if condition not in self._sizes:
            assert condition.search is not None
            path = _Path(condition.search.index, condition.search, [] if condition.search.by else [condition.sql])
            rows = _join(" UNION ALL ", self._branches(path, _one_of(self._project_ids), ("id",)))
            limit = Sql(" LIMIT ?)", (MAX_SORTED_ROWS + 1,))
            self._sizes[condition] = _number(Sql("SELECT COUNT(*) FROM (") + rows + limit)
        return self._sizes[condition]


def _column(path: _Path, name: str) -> str:
    """Return the column in a SELECT by this path. Rows found by their tag have their times in the table of tags."""
    if _is_by_tag(path) and name in _TAG_COLUMNS:
        return "job_tag.job_id" if name == "id" else f"job_tag.{name}"
    return f"t1.{name}"


def _is_by_tag(path: _Path) -> bool:
    return path.search is not None and path.search.by == "tag"


def _union(path: _Path) -> str:
    """Return the operator that joins the branches: a job with several tags is found once for each."""
    return " UNION " if _is_by_tag(path) else " UNION ALL "


def _by(order: Order) -> str:
    directions = [*(column.direction for column in order), "DESC" if order[0].is_descending else "ASC"]
    return "ORDER BY " + ", ".join(f"{position} {direction}" for position, direction in enumerate(directions, 1))


def _starts(order: SortedBy, after: Cursor, column: str, key: str) -> list[Sql]:
    """Return the conditions for the rows after a row: each is a range of an index, and together they are all rows."""
    value, row_id = after
    compare = "<" if order.is_descending else ">"
    if order.name == "id":
        return [Sql(f"{key} {compare} ?", (row_id,))]
    if value is None:
        return [Sql(f"{column} IS NULL AND {key} {compare} ?", (row_id,))]
    later = Sql(f"({column}, {key}) {compare} (?, ?)", (value, row_id))
    return [later, Sql(f"{column} IS NULL")] if order.column.null else [later]


def _one_of(project_ids: Sequence[int]) -> Sql:
    if len(project_ids) == 1:
        return Sql("= ?", (project_ids[0],))
    return Sql("IN (SELECT value FROM json_each(?))", (json.dumps(project_ids),))


def _matching(project_ids: Sequence[int], conditions: Iterable[Sql]) -> list[int]:
    """Return the projects of which a job meets the conditions, which are on its project alone."""
    projects = Sql("SELECT t1.project_id FROM (SELECT value AS project_id FROM json_each(?)) AS t1 WHERE ")
    sql = Sql(projects.text, (json.dumps(project_ids),)) + _join(" AND ", conditions)
    return [row[0] for row in database.execute_sql(sql.text, sql.parameters)]


def _has_tag(condition: QueryCondition) -> Sql:
    """Return a condition on `tags` that looks into the table of tags, which is faster than reading the tags as JSON."""
    tags = read_values(condition.operand)
    exists = f"EXISTS (SELECT 1 FROM job_tag WHERE job_id = t1.id AND tag IN ({', '.join('?' * len(tags))}))"
    return Sql(f"NOT {exists}" if condition.is_negated else exists, tuple(tags))


def _compile(expression: Any) -> Sql:
    context = database.get_sql_context()
    with context.scope_normal(subquery=True):
        text, parameters = context.sql(expression).query()
    return Sql(text, tuple(parameters))


def _number(sql: Sql) -> int:
    return int(database.execute_sql(sql.text, sql.parameters).fetchone()[0])
