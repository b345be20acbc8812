"""One page of the list of projects, last changed first, with the number of running jobs of each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from polyjob.auth import identity
from polyjob.db.database import database
from polyjob.db.models import CLAIMED, Project, User

PAGE_SIZE = 100
MAX_PAGE = 10_000


@dataclass(frozen=True)
class Page:
    projects: list[Project]
    running: dict[int, int]
    """Project id → number of claimed jobs that have not ended."""
    number: int
    has_next: bool


def read_page(user: User, arguments: Mapping[str, str]) -> Page:
    """Read a page of the projects that the user may read: `page=NUMBER`, or page 1 if that is missing or invalid."""
    text = arguments.get("page", "")
    number = int(text) if text.isascii() and text.isdecimal() and 0 < len(text) < 6 else 1
    number = min(max(1, number), MAX_PAGE)
    query = Project.select(Project, User).join(User).where(identity.readable_projects(user))
    query = query.order_by(Project.updated_at.desc(), Project.id.desc())
    projects = list(query.limit(PAGE_SIZE + 1).offset((number - 1) * PAGE_SIZE))
    sql = f"SELECT project_id, COUNT(*) FROM job INDEXED BY job_claimed WHERE {CLAIMED.sql} GROUP BY project_id"
    running = database.execute_sql(sql)
    return Page(projects[:PAGE_SIZE], dict(running), number, len(projects) > PAGE_SIZE)
