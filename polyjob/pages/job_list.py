"""One page of a list of jobs: parse the query string, select the rows, and link the pages before and after.

Each sort order has an index that starts with the project. The list over all projects merges the first rows of each
project, so neither jobs on other pages nor other users' projects slow it down.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from urllib.parse import urlencode

from peewee import SQL

from polyjob.api.list_queries import job_listing
from polyjob.db.database import database
from polyjob.db.models import QUEUED, Job, Project, User
from polyjob.db.prepared import Prepared
from polyjob.errors import Invalid
from polyjob.formatting import describe_exit, sentence
from polyjob.services import bookmarks, job_queue
from polyjob.services.listing import Cursor
from polyjob.services.sorting import JOB_SORT_COLUMNS, SortedBy
from polyjob.statuses import Status

PAGE_SIZE = 50
SORTS = ("-created_at", "created_at", "-updated_at", "updated_at")
MAX_QUEUE_POSITION = 200
"""The last position in the queue that a list shows."""
MAX_CURSOR_DIGITS = 18
"""Every number of so many digits fits into an SQLite integer."""
_UNKNOWN_SORT = "Unknown sort field `{}`; use `created_at` or `updated_at`, with `-` in front for descending order."

_COLUMNS = (
    *("id", "name", "status", "created_at", "started_at", "finished_at", "updated_at", "tags", "is_managed"),
    *("archived_at", "project", "user", "exit_code", "exit", "stop_at", "stop_kind", "command", "is_held"),
)
"""The columns that a list shows. Configs can be large and are not among them."""
_ONE_OF = SQL("id IN (SELECT value FROM json_each(?))", ("[]",))
_JOBS = Prepared(lambda: Job.select(*(getattr(Job, name) for name in _COLUMNS)).where(_ONE_OF))
_PROJECTS = Prepared(lambda: Project.select(Project.id, Project.name, Project.user).where(_ONE_OF))
_USERS = Prepared(lambda: User.select(User.id, User.username).where(_ONE_OF))

RUNNING = "status:running|building|scheduled"
FAILED = "status:failed|upstream_failed"


@dataclass(frozen=True)
class ListRequest:
    """The query string of a list. An unknown `show`, `next` or `previous` counts as not given."""

    query: str = ""
    sort: str = SORTS[0]
    show: str = ""
    """`bookmarked`, `archived`, or empty for all jobs that are not archived."""
    next: tuple[int, int] | None = None
    """Show the page after the row with this value and id."""
    previous: tuple[int, int] | None = None
    """Show the page before the row with this value and id."""
    problem: str | None = None
    """The error message for an unknown sort field."""

    @classmethod
    def parse(cls, arguments: Mapping[str, str]) -> ListRequest:
        sort, show = arguments.get("sort", ""), arguments.get("show", "")
        return cls(
            query=arguments.get("query", "").strip(),
            sort=sort if sort in SORTS else SORTS[0],
            show=show if show in ("bookmarked", "archived") else "",
            next=_parse_cursor(arguments.get("next")),
            previous=_parse_cursor(arguments.get("previous")),
            problem=_UNKNOWN_SORT.format(sort[:40]) if sort and sort not in SORTS else None,
        )

    def url(self, **changes: str) -> str:
        """Return the query string with these changes. It starts at the first page unless they name another one."""
        parameters = {"query": self.query, "show": self.show, "sort": self.sort} | changes
        parameters = {name: value for name, value in parameters.items() if value}
        if parameters.get("sort") == SORTS[0]:
            del parameters["sort"]
        return f"?{urlencode(parameters)}"


@dataclass(frozen=True)
class Page:
    request: ListRequest
    jobs: list[Job]
    notes: dict[int, str] = field(default_factory=dict)
    """Job id → the text beside its status: its position in the queue, or the reason why it did not succeed."""
    bookmarked: set[int] = field(default_factory=set)
    """Ids of the jobs that the user has bookmarked."""
    previous: str | None = None
    next: str | None = None
    problem: str | None = None
    """The error in the query or sort order; the list is empty then."""

    @property
    def is_first(self) -> bool:
        return self.request.next is None and self.previous is None

    @property
    def is_unfiltered(self) -> bool:
        return not (self.request.query or self.request.show)


def read_page(user: User, project: Project | None, request: ListRequest) -> Page:
    """Read a page of one project's jobs, or of all jobs that the user may read. Every page costs the same."""
    if request.problem:
        return Page(request, [], problem=request.problem)
    try:
        listing = job_listing(
            user,
            project,
            request.query,
            is_archived=request.show == "archived",
            bookmarks_of=user.id if request.show == "bookmarked" else None,
        )
    except Invalid as error:
        return Page(request, [], problem=sentence(str(error)))
    column, is_backward = JOB_SORT_COLUMNS[request.sort.removeprefix("-")], request.previous is not None
    order = SortedBy(column, request.sort.startswith("-") != is_backward)
    rows = listing.page([order], PAGE_SIZE + 1, after=request.previous if is_backward else request.next)
    has_more, rows = len(rows) > PAGE_SIZE, rows[:PAGE_SIZE]
    has_next, has_previous = (True, has_more) if is_backward else (has_more, request.next is not None)
    if is_backward:
        rows.reverse()
    jobs = _load([job_id for _, job_id in rows])
    return Page(
        request,
        jobs,
        notes=_notes(jobs),
        bookmarked=bookmarks.bookmarked_ids(user, Job, [job.id for job in jobs]) if jobs else set(),
        previous=_cursor_url(request, "previous", rows[0]) if rows and has_previous else None,
        next=_cursor_url(request, "next", rows[-1]) if rows and has_next else None,
    )


def state(project: Project | None) -> tuple[object, ...]:
    """Return a value that differs after every change that a list shows."""
    sql = "SELECT COUNT(*), SUM(jobs_version), MAX(updated_at) FROM project"
    row: tuple[object, ...] = database.execute_sql(sql).fetchone()
    return row if project is None else (*row, project.id)


def _load(job_ids: list[int]) -> list[Job]:
    """Load the columns that a list shows, in the order of the ids, with user, project and its owner."""
    jobs = {job.id: job for job in _JOBS(json.dumps(job_ids))}
    projects = {project.id: project for project in _PROJECTS(_ids(job.project_id for job in jobs.values()))}
    owner_ids = {project.user_id for project in projects.values()}
    users = {user.id: user for user in _USERS(_ids({job.user_id for job in jobs.values()} | owner_ids))}
    for project in projects.values():
        project.user = users[project.user_id]
    for job in jobs.values():
        job.project, job.user = projects[job.project_id], users[job.user_id]
    return [jobs[job_id] for job_id in job_ids if job_id in jobs]


def _ids(ids: Iterable[int]) -> str:
    return json.dumps(list(set(ids)))


def _notes(jobs: list[Job]) -> dict[int, str]:
    positions = _queue_positions() if any(job.status is Status.CREATED for job in jobs) else {}
    return {job.id: note for job in jobs if (note := _note(job, positions.get(job.id)))}


def _note(job: Job, position: int | None) -> str | None:
    if position is not None:
        return f"position {position}" if position > 1 else "next"
    if job.status is Status.CREATED and job.is_held:
        return "waits"
    if job.stop_at and not job.finished_at:
        return "stopping"
    return describe_exit(job.status, job.exit, job.stop_kind)


def _queue_positions() -> dict[int, int]:
    sql = f"SELECT id FROM job WHERE {QUEUED.sql} AND runner = ? ORDER BY id LIMIT ?"
    runners = job_queue.queued_runners()
    queues = [database.execute_sql(sql, (runner, MAX_QUEUE_POSITION)).fetchall() for runner in runners]
    return {job_id: position for queue in queues for position, (job_id,) in enumerate(queue, 1)}


def _cursor_url(request: ListRequest, name: str, row: Cursor) -> str:
    return request.url(**{name: f"{row[0]}.{row[1]}"})


def _parse_cursor(text: str | None) -> tuple[int, int] | None:
    """Parse `VALUE.ID`; None if the text is not a cursor."""
    parts = (text or "").split(".")
    if len(parts) != 2 or not all(
        part.isascii() and part.isdecimal() and len(part) <= MAX_CURSOR_DIGITS for part in parts
    ):
        return None
    return int(parts[0]), int(parts[1])
