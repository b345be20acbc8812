"""A page of the list of projects, last changed first, with how many jobs and builds each has."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from polyjob.auth import identity
from polyjob.db.database import database
from polyjob.db.models import CLAIMED, Project, User

PAGE_SIZE = 100
LAST_PAGE = 10_000


@dataclass(frozen=True)
class Page:
    projects: list[Project]
    running: dict[int, int]
    """Id → jobs that have been taken up and not ended."""
    number: int
    has_next: bool


def read_page(user: User, arguments: Mapping[str, str]) -> Page:
    """The page of the projects that the user may read that `page=NUMBER` asks for, else the first."""
    asked = arguments.get("page", "")
    number = int(asked) if asked.isascii() and asked.isdecimal() and 0 < len(asked) < 6 else 1
    number = min(max(1, number), LAST_PAGE)
    query = Project.select(Project, User).join(User).where(identity.readable(user))
    query = query.order_by(Project.updated_at.desc(), Project.id.desc())
    found = list(query.limit(PAGE_SIZE + 1).offset((number - 1) * PAGE_SIZE))
    sql = f"SELECT project_id, COUNT(*) FROM job INDEXED BY job_claimed WHERE {CLAIMED.sql} GROUP BY project_id"
    running = database.execute_sql(sql)
    return Page(found[:PAGE_SIZE], dict(running), number, len(found) > PAGE_SIZE)
