"""The items of lists: they have the members that the schemas define."""

from __future__ import annotations

import re

import pytest

from polyjob.api.schemas.builds import BuildRow, BuildRowSchema
from polyjob.api.schemas.jobs import JobRow, JobRowSchema
from polyjob.db.database import database
from polyjob.db.models import Build, Job
from polyjob.services import bookmarks
from polyjob.statuses import Status

from .conftest import BASE, JOBS, User, move_job, now

IMAGE = {"build": {"image": "busybox", "build_steps": ["true"]}}


@pytest.fixture
def runs(client, other):
    """Create a job without optional values, a build, and a clone that uses it and has all of them."""
    client.submit()
    build_id = client.post(f"{BASE}/builds", {"config": IMAGE}).json["id"]
    Build.update(name="b", tags=["ä"], description='"', node="n", invalidated_at=now(), started_at=now()).execute()
    client.submit(name="full", tags=["x", "y"], description="line\nbreak")
    columns = {"original": 1, "cloning_strategy": "restart", "build": build_id, "exit_code": 3, "ttl": 60, "node": "n"}
    columns["exit"] = {"reason": "exited", "code": 3}
    move_job(2, Status.SCHEDULED, Status.RUNNING, Status.FAILED, is_managed=False, **columns)
    bookmarks.add(Job.get_by_id(2), User.get(username="ana"))
    bookmarks.add(Build.get_by_id(build_id), User.get(username="ana"))
    bookmarks.add(Job.get_by_id(1), User.get(username="bob"))


def test_job_items_equal_their_schema(client, runs):
    listed = client.get(f"{JOBS}?sort=id").json["results"]
    rows = [JobRow.from_row(job, bookmarked=job.id == 2) for job in Job.select().order_by(Job.id)]
    assert listed == JobRowSchema().dump(rows, many=True)
    assert listed[1].keys() == JobRowSchema().fields.keys()
    assert all(value is not None for value in listed[1].values())


def test_build_items_equal_their_schema(client, runs):
    listed = client.get(f"{BASE}/builds?sort=id").json["results"]
    rows = [BuildRow.from_row(build, bookmarked=True) for build in Build.select().order_by(Build.id)]
    assert listed == BuildRowSchema().dump(rows, many=True)
    assert listed[0].keys() == BuildRowSchema().fields.keys()


@pytest.mark.parametrize(
    "path",
    [
        f"{JOBS}?query=status:failed&sort=-finished_at",
        f"{JOBS}?cursor=",
        "/api/v1/projects/jobs",
        "/api/v1/bookmarks/ana/jobs",
        "/api/v1/archives/ana/jobs",
    ],
)
def test_lists_of_jobs_do_not_read_configs(client, runs, monkeypatch, path):
    if "archives" in path:
        client.post(f"{JOBS}/2/archive")
    statements = []
    original = database.execute_sql
    monkeypatch.setattr(database, "execute_sql", lambda sql, *call: statements.append(sql) or original(sql, *call))
    row = client.get(path).json["results"][0]
    assert row.get("content_object", row)["command"] == "true"
    assert not [sql for sql in statements if re.search(r"\b(config|content|job\.\*|run\.\*)", sql)]


@pytest.mark.parametrize("path", [JOBS, f"{BASE}/builds", "/api/v1/ana", "/api/v1/bookmarks/ana/jobs"])
def test_number_of_queries_does_not_grow_with_the_page(client, runs, monkeypatch, path):
    executed = []
    original = database.execute_sql
    monkeypatch.setattr(database, "execute_sql", lambda *call: executed.append(call) or original(*call))

    def count():
        executed.clear()
        assert client.get(path).json["results"]
        return len(executed)

    few = count()
    for number in range(5):
        client.post("/api/v1/projects", {"name": f"p{number}"})
        client.submit()
        bookmarks.add(Job.get_by_id(3 + number), User.get(username="ana"))
        client.post(f"{BASE}/builds", {"config": IMAGE | {"name": f"b{number}"}})
    assert count() == few
