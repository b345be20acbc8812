"""A page of a list of jobs: which rows an address asks for, and where the pages before and behind it begin.

Every order that a list can have is that of an index that begins with the project. The jobs of all projects are put
together from the first rows of each, so that neither the jobs on other pages nor those of other people's projects cost
anything.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlencode

from peewee import SQL

from polyjob.auth import identity
from polyjob.db.database import database
from polyjob.db.models import ARCHIVED, QUEUED, SHOWN, UNDELETED, Bookmark, Job, Project, User
from polyjob.errors import Invalid
from polyjob.pages import formatting
from polyjob.services import bookmarks
from polyjob.services.filters import JOB_FIELDS, has_condition_on, parse_query
from polyjob.services.sorting import JOB_SORT_COLUMNS, CursorOrder, after_cursor
from polyjob.statuses import Status

PAGE_SIZE = 50
SORTS = ("-created_at", "created_at", "-updated_at", "updated_at")
_NO_SORT = "There is no sort field `{}`; there are: `created_at`, `updated_at`. `-` before a field reverses."
PLACES = 200
"""Jobs of the queue whose places a list knows."""
_LONGEST = 18
"""Digits of the largest number that SQLite surely takes."""

RUNNING = "status:running|building|scheduled"
FAILED = "status:failed|upstream_failed"


@dataclass(frozen=True)
class Asked:
    """What the address asks for. An unknown `show`, `next` or `previous` counts as not given."""

    query: str = ""
    sort: str = SORTS[0]
    show: str = ""
    """`bookmarked`, `archived`, or nothing: what is not archived."""
    next: tuple[int, int] | None = None
    """The page behind the row with this value and id."""
    previous: tuple[int, int] | None = None
    problem: str | None = None
    """Why the order that the address names is not one."""

    @classmethod
    def read(cls, arguments: Mapping[str, str]) -> Asked:
        sort, show = arguments.get("sort", ""), arguments.get("show", "")
        return cls(
            query=arguments.get("query", "").strip(),
            sort=sort if sort in SORTS else SORTS[0],
            show=show if show in ("bookmarked", "archived") else "",
            next=_place(arguments.get("next")),
            previous=_place(arguments.get("previous")),
            problem=_NO_SORT.format(sort[:40]) if sort and sort not in SORTS else None,
        )

    def address(self, **changes: str) -> str:
        """The query string of the list with these changes, from its first page on where those name no other."""
        known = {"query": self.query, "show": self.show, "sort": self.sort} | changes
        given = {name: value for name, value in known.items() if value and (name, value) != ("sort", SORTS[0])}
        return f"?{urlencode(given)}" if given else "?"


@dataclass(frozen=True)
class Page:
    asked: Asked
    jobs: list[Job]
    places: dict[int, int] = field(default_factory=dict)
    """Id → place in the queue, of those that wait and are not far behind."""
    marked: set[int] = field(default_factory=set)
    """Ids of what the user has bookmarked."""
    previous: str | None = None
    next: str | None = None
    problem: str | None = None
    """Why the query or the order is refused; then there are no jobs."""

    @property
    def is_first(self) -> bool:
        return self.asked.next is None and self.previous is None

    @property
    def is_plain(self) -> bool:
        """Whether it is of all the jobs that there are."""
        return not (self.asked.query or self.asked.show)


def read_page(user: User, project: Project | None, asked: Asked) -> Page:
    """The page of the project's jobs, or of those of every project that the user may read. Any page costs what the
    first costs."""
    if asked.problem:
        return Page(asked, [], problem=asked.problem)
    try:
        wanted = parse_query(asked.query, JOB_FIELDS, "job")
    except Invalid as error:
        return Page(asked, [], problem=formatting.sentence(str(error)))
    wanted.append(_visible(asked))
    if wanted[-1] is not SHOWN and not user.is_admin:  # only those who may write to a project see its archive
        wanted.append(
            Job.archived_at.is_null() | Job.project.in_(Project.select(Project.id).where(Project.user == user))
        )
    if asked.show == "bookmarked":
        marked = Bookmark.select(Bookmark.target_id)
        wanted.append(Job.id.in_(marked.where(Bookmark.user == user, Bookmark.kind == "job", Bookmark.is_set == 1)))
    name, is_back = asked.sort.removeprefix("-"), asked.previous is not None
    order = CursorOrder(asked.sort, JOB_SORT_COLUMNS[name], asked.sort.startswith("-") != is_back)
    start = asked.previous if is_back else asked.next
    if start is not None:
        wanted.append(after_cursor(order, Job.id, *start))
    rows = _of_all(user, wanted, order) if project is None else _of_project(project, wanted, order)
    found: list[tuple[Any, int]] = list(rows.tuples())
    has_more, found = len(found) > PAGE_SIZE, found[:PAGE_SIZE]
    has_next, has_previous = (True, has_more) if is_back else (has_more, asked.next is not None)
    if is_back:
        found.reverse()
    jobs = _load([number for _, number in found])
    return Page(
        asked,
        jobs,
        places=_places() if any(job.status is Status.CREATED for job in jobs) else {},
        marked=bookmarks.bookmarked_ids(user, Job, [job.id for job in jobs]) if jobs else set(),
        previous=_address(asked, "previous", found[0], order) if found and has_previous else None,
        next=_address(asked, "next", found[-1], order) if found and has_next else None,
    )


def _visible(asked: Asked) -> SQL:
    """The condition on jobs that the query does not select by `archived` itself."""
    if asked.show == "archived":
        return ARCHIVED
    return UNDELETED if has_condition_on(asked.query, "archived") else SHOWN


def state(project: Project | None) -> tuple[object, ...]:
    """What changes whenever something changes that a list shows."""
    sql = "SELECT COUNT(*), SUM(jobs_version), MAX(updated_at) FROM project"
    row: tuple[object, ...] = database.execute_sql(sql).fetchone()
    return row if project is None else (*row, project.id)


def _of_project(project: Project, wanted: list[Any], order: CursorOrder) -> Any:
    """(value, id) of the first rows of one project."""
    query = Job.select(order.column, Job.id).where(Job.project == project, *wanted)
    return query.order_by(*_by(order, Job)).limit(PAGE_SIZE + 1)


def _of_all(user: User, wanted: list[Any], order: CursorOrder) -> Any:
    """As `_of_project`, of all that the user may read: the first of the first rows of each."""
    each, row = Project.alias("each"), Job.alias("row")
    readable = Project.select(Project.id).where(identity.readable(user))
    first = Job.select(Job.id).where(Job.project == each.id, *wanted).order_by(*_by(order, Job)).limit(PAGE_SIZE + 1)
    return (
        each.select(getattr(row, order.column.name), row.id)
        .join(row, on=row.id.in_(first))
        .where(each.id.in_(readable))
        .order_by(*_by(order, row))
        .limit(PAGE_SIZE + 1)
    )


def _by(order: CursorOrder, table: Any) -> list[Any]:
    columns = (getattr(table, order.column.name), table.id)
    return [column.desc() if order.descending else column.asc() for column in columns]


def _load(numbers: list[int]) -> list[Job]:
    """What a list shows of these jobs, and never their config; in this order."""
    owner = User.alias()
    shown = (
        "id",
        "name",
        "status",
        "created_at",
        "started_at",
        "finished_at",
        "updated_at",
        "tags",
        "is_managed",
        "archived_at",
    )
    columns = [getattr(Job, name) for name in (*shown, "project", "user", "exit_code", "stop_at")]
    query = (
        Job.select(*columns, User.id, User.username, Project.id, Project.name, Project.user, owner.id, owner.username)
        .join(User, on=Job.user)
        .switch(Job)
        .join(Project, on=Job.project)
        .join(owner, on=(Project.user == owner.id))
        .where(Job.id.in_(numbers))
    )
    rows = {job.id: job for job in query}
    return [rows[number] for number in numbers if number in rows]


def _places() -> dict[int, int]:
    sql = f"SELECT id FROM job WHERE {QUEUED.sql} ORDER BY id LIMIT ?"
    return {number: place for place, (number,) in enumerate(database.execute_sql(sql, (PLACES,)), 1)}


def _address(asked: Asked, name: str, row: tuple[Any, int], order: CursorOrder) -> str:
    return asked.address(**{name: f"{order.column.db_value(row[0])}.{row[1]}"})


def _place(text: str | None) -> tuple[int, int] | None:
    parts = (text or "").split(".")
    if len(parts) != 2 or not all(part.isascii() and part.isdecimal() and len(part) <= _LONGEST for part in parts):
        return None
    return int(parts[0]), int(parts[1])
