"""The cost of lists in SQLite instructions, with a hundred jobs and with a hundred thousand."""

from __future__ import annotations

import uuid

import pytest

from polyjob.app import create_app
from polyjob.clock import now
from polyjob.db.database import database, write
from polyjob.db.models import Project, User
from polyjob.pages import projects, status
from polyjob.pages.job_list import ListRequest, read_page
from polyjob.settings import Settings
from tests.sqlite_work import work

FEW, MANY = 100, 100_000


def make_jobs(project: Project, count: int, state: str) -> None:
    with write("test"):
        database.execute_sql(
            "WITH RECURSIVE numbers (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < ?) "
            "INSERT INTO job (uuid, project_id, user_id, is_managed, runner, status, created_at, updated_at, "
            "started_at, finished_at, config) SELECT lower(hex(randomblob(16))), ?, ?, 1, 'fake', ?, "
            "1700000000000000 + n, 1700000000000000 + n, n, iif(? = 'created', NULL, 1700000000000000 + n), "
            '\'{"run": {"cmd": "true"}}\' FROM numbers',
            (count, project.id, project.user_id, state, state),
        )


@pytest.mark.parametrize("state", ["succeeded", "created"])
def test_list_pages_cost_the_same_with_many_jobs(user: User, project: Project, state: str) -> None:
    with write("test"):
        other = User.create(username="bob", created_at=now())
        moment = now()
        theirs = Project.create(
            uuid=uuid.uuid4().hex, user=other, name="theirs", is_public=False, created_at=moment, updated_at=moment
        )
    far = "1700000000000060.60"
    requests = [
        (project_or_none, ListRequest.parse({"sort": sort} | start))
        for project_or_none in (None, project)
        for sort in ("-created_at", "-updated_at", "created_at")
        for start in ({}, {"next": far}, {"previous": far})
    ]

    def cost() -> list[int]:
        return [work(lambda pair=pair: read_page(user, *pair)) for pair in requests]

    make_jobs(project, FEW, state)
    few = cost()
    make_jobs(project, MANY, state)
    make_jobs(theirs, MANY // 2, state)
    many = cost()
    assert all(0 < after <= 2 * before for before, after in zip(few, many, strict=True)), (few, many)


def test_other_overviews_cost_the_same_with_many_ended_jobs(user: User, project: Project, settings: Settings) -> None:
    def cost() -> list[int]:
        return [work(lambda: projects.read_page(user, {})), work(lambda: status.status_context(settings, 6))]

    with create_app(settings).app_context():
        make_jobs(project, status.FAILURE_SEARCH_JOBS, "succeeded")
        few = cost()
        make_jobs(project, MANY, "succeeded")
        many = cost()
    assert all(0 < after <= 2 * before for before, after in zip(few, many, strict=True)), (few, many)
