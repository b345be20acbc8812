"""The cost of lists: no filter and no order looks at each job."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from polyjob.clock import now
from polyjob.db.database import close_database, database, open_database, write
from polyjob.db.models import Build, Job, Project, Upload, User
from polyjob.services.filters import JOB_FIELDS
from polyjob.services.listing import MAX_SORTED_ROWS, Listing
from polyjob.services.sorting import JOB_SORT_COLUMNS, parse_order
from polyjob.storage.store import Store
from tests.sqlite_work import work

FEW, MANY = 100, 20_000
MAX_COUNTED_ITEMS = 10_001
SPARE_WORK = 2 * MAX_SORTED_ROWS
"""Instructions, in tens, with which `MAX_SORTED_ROWS` entries of an index are counted. A look at each of the many jobs
costs many times as much."""

QUERIES = {
    "id": ["id:3", "id:3|4|99999999"],
    "name": ["name:odd", "name:none", "name:od%", "name:%none%"],
    "description": ["description:%text%", "description:none"],
    "status": ["status:failed", "status:running|building|scheduled", "status:~succeeded", "status:succeeded"],
    "created_at": ["created_at:<1980-01-01", "created_at:1970-01-01", "created_at:>2030-01-01"],
    "updated_at": ["updated_at:<1980-01-01", "updated_at:>2030-01-01"],
    "started_at": ["started_at:<1980-01-01", "started_at:>2030-01-01"],
    "finished_at": ["finished_at:<1980-01-01", "finished_at:>2030-01-01"],
    "tags": ["tags:odd", "tags:odd|none", "tags:none", "tags:usual", "tags:odd,status:succeeded"],
    "user": ["user:bo", "user:ana", "user:2"],
    "user.id": ["user.id:2", "user.id:9"],
    "user.username": ["user.username:bo", "user.username:ana", "user.username:nobody", "user.username:bo|nobody"],
    "project": ["project:1", "project:2"],
    "project.id": ["project.id:1", "project.id:2"],
    "project.name": ["project.name:demo", "project.name:other", "project.name:~demo"],
    "commit": ["commit:digest", "commit:none"],
    "backend": ["backend:fake", "backend:docker", "backend:none"],
    "is_managed": ["is_managed:true", "is_managed:false"],
    "archived": ["archived:true", "archived:false", "archived:~false"],
    "build": ["build:1", "build:ana.demo.builds.9"],
    "build.id": ["build.id:1"],
    "original": ["original:1", "original:ana.demo.jobs.9"],
    "cloning_strategy": ["cloning_strategy:restart", "cloning_strategy:copy"],
    "exit_code": ["exit_code:0", "exit_code:3", "exit_code:>0", "exit_code:<0", "exit_code:>=0"],
}
SORTS = [sign + name for name in JOB_SORT_COLUMNS for sign in ("", "-")]
USUAL_SORTS = ("created_at", "updated_at")


def test_each_field_has_examples() -> None:
    assert QUERIES.keys() == JOB_FIELDS.keys()


def make_jobs(count: int, *, are_odd: bool) -> None:
    """Create usual jobs, which have succeeded; or odd ones, each with a value that usual ones do not have."""
    shared = (
        "WITH RECURSIVE numbers (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < ?)"
        " INSERT INTO job (uuid, project_id, user_id, is_managed, runner, status, created_at, updated_at, started_at,"
        " finished_at, exit_code, tags, name, description, code_id, build_id, original_id, cloning_strategy,"
        " archived_at, config) SELECT lower(hex(randomblob(16))), 1, "
    )
    usual = (
        "1, 1, 'fake', 'succeeded', 1700000000000000 + n, 1700000000000000 + n, 1700000000000000 + n,"
        " 1700000000000000 + n, 0, iif(n % 2, '[\"usual\"]', NULL), NULL, NULL, NULL, NULL, NULL, NULL, NULL, '{}'"
    )
    odd = (
        "iif(n % 10 = 1, 2, 1), n % 10 <> 2, iif(n % 10 = 3, 'docker', 'fake'),"
        " CASE n % 10 WHEN 4 THEN 'failed' WHEN 5 THEN 'running' ELSE 'succeeded' END, n, n, n, n, iif(n % 10, 3, 0),"
        " iif(n % 10 = 6, '[\"odd\",\"usual\"]', NULL), iif(n = 7, 'odd', NULL), iif(n = 8, 'a text', NULL),"
        " iif(n % 10 = 3, 1, NULL), iif(n % 10 = 3, 1, NULL), iif(n = 9, 1, NULL), iif(n = 9, 'restart', NULL),"
        " iif(n % 25 = 0, 1, NULL), '{}'"
    )
    with write("test"):
        database.execute_sql(f"{shared}{odd if are_odd else usual} FROM numbers", (count,))


class Costs:
    """The work of each page and count, with few jobs and with many, and the plans of the statements with many."""

    def __init__(self) -> None:
        self.pages: dict[tuple[str, str, bool], list[int]] = {}
        self.counts: dict[str, list[int]] = {}
        self.matching: dict[str, int] = {}
        self.plans: dict[tuple[str, str], list[str]] = {}

    def measure(self) -> None:
        for query in (query for queries in QUERIES.values() for query in queries):
            for sort in SORTS:
                for project_ids in ([1], [1, 2]):
                    jobs = Listing(Job, project_ids, project_ids, query)
                    order = parse_order(sort, JOB_SORT_COLUMNS)
                    cost = work(lambda jobs=jobs, order=order: jobs.page(order, 20))  # type: ignore[misc]
                    self.pages.setdefault((query, sort, len(project_ids) == 1), []).append(cost)
            jobs = Listing(Job, [1], [1], query)
            self.matching[query] = jobs.count(MAX_COUNTED_ITEMS)
            jobs = Listing(Job, [1], [1], query)
            self.counts.setdefault(query, []).append(work(lambda jobs=jobs: jobs.count(MAX_COUNTED_ITEMS)))  # type: ignore[misc]


@pytest.fixture(scope="module")
def costs(tmp_path_factory: pytest.TempPathFactory, new_database: Path) -> Iterator[Costs]:
    folder = tmp_path_factory.mktemp("lists") / "data"
    Store(folder).prepare()
    shutil.copyfile(new_database, folder / "polyjob.db")
    open_database(folder)
    moment = now()
    with write("test"):
        for number, name in enumerate(("ana", "bo"), 1):
            User.create(id=number, username=name, created_at=moment)
        for number, name in enumerate(("demo", "other"), 1):
            Project.create(
                id=number, uuid=name, user=1, name=name, is_public=False, created_at=moment, updated_at=moment
            )
        Upload.create(project=1, user=1, digest="digest", size=1, files={}, created_at=moment)
        shared = {"config": {}, "runner": "fake", "key": "", "key_parts": {}, "created_at": moment}
        Build.create(uuid="b", project=1, user=1, updated_at=moment, **shared)
    measured = Costs()
    make_jobs(FEW, are_odd=True)
    measured.measure()
    make_jobs(MANY, are_odd=False)
    measured.measure()
    yield measured
    close_database()


@pytest.mark.parametrize("query", [query for queries in QUERIES.values() for query in queries])
def test_filtered_pages_cost_the_same_with_many_jobs(costs: Costs, query: str) -> None:
    pages = {key[1:]: cost for key, cost in costs.pages.items() if key[0] == query}
    assert {key: cost for key, cost in pages.items() if cost[1] > 2 * cost[0] + SPARE_WORK} == {}


@pytest.mark.parametrize("query", [query for queries in QUERIES.values() for query in queries])
def test_counts_cost_as_much_as_they_count(costs: Costs, query: str) -> None:
    assert costs.counts[query][1] <= 3 * costs.matching[query] + 2 * costs.counts[query][0] + SPARE_WORK


def plans(jobs: Listing, sort: str, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return the query plans of a page and a count: one line for each step."""
    executed = []
    original = database.execute_sql
    with monkeypatch.context() as patch:
        patch.setattr(database, "execute_sql", lambda *call: executed.append(call) or original(*call))
        jobs.page(parse_order(sort, JOB_SORT_COLUMNS), 20)
        jobs.count(MAX_COUNTED_ITEMS)
    return [row[3] for sql, *rest in executed for row in original(f"EXPLAIN QUERY PLAN {sql}", *rest)]


@pytest.mark.parametrize("query", ["", *(query for queries in QUERIES.values() for query in queries)])
def test_no_list_scans_the_table_of_jobs(costs: Costs, monkeypatch: pytest.MonkeyPatch, query: str) -> None:
    for sort in SORTS:
        for project_ids in ([1], [1, 2]):
            steps = plans(Listing(Job, project_ids, project_ids, query), sort, monkeypatch)
            assert not [step for step in steps if step.startswith(("SCAN t1", "SCAN job", "SCAN row"))]


@pytest.mark.parametrize(
    ("queries", "sorts"),
    [
        (["", "exit_code:0"], SORTS),
        (["status:succeeded", "status:~failed", "user:ana", "tags:usual", "tags:usual|odd"], USUAL_SORTS),
        (["archived:true"], USUAL_SORTS),
        (["created_at:>2000-01-01", "created_at:>2000-01-01,status:succeeded"], ["created_at"]),
    ],
)
def test_lists_that_many_jobs_match_are_not_sorted(
    costs: Costs, monkeypatch: pytest.MonkeyPatch, queries: list[str], sorts: list[str]
) -> None:
    for query in queries:
        for sort in [*sorts, *(f"-{sort.removeprefix('-')}" for sort in sorts)]:
            steps = plans(Listing(Job, [1], [1], query), sort, monkeypatch)
            assert steps
            assert not [step for step in steps if "ORDER BY" in step]
