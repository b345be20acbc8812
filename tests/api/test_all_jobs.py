"""The list of the jobs of all projects."""

from __future__ import annotations

import pytest

from polyjob.statuses import Status

from .conftest import CONFIG, move_job, publish

ALL = "/api/v1/projects/jobs"


@pytest.fixture
def jobs(client):
    """Jobs 1 and 3 of ana's `demo`, and job 2 of her `second`."""
    client.post("/api/v1/projects", {"name": "second"})
    for project, name in (("demo", "a"), ("second", "b"), ("demo", "c")):
        client.post(f"/api/v1/ana/{project}/jobs", {"config": CONFIG | {"name": name}})


def ids(response):
    assert response.status_code == 200, response.text
    return [row["id"] for row in response.json["results"]]


@pytest.mark.parametrize(("sort", "order"), [("-created_at", [3, 2, 1]), ("id", [1, 2, 3]), ("-started_at", [2, 3, 1])])
def test_jobs_of_several_projects_are_sorted_together(client, jobs, sort, order):
    move_job(2, Status.SCHEDULED)
    assert ids(client.get(f"{ALL}?sort={sort}")) == order
    assert ids(client.get(f"{ALL}?sort={sort}&limit=2&offset=1")) == order[1:]
    page = client.get(f"{ALL}?sort={sort}&limit=2&cursor=")
    assert (ids(page), page.json["count"]) == (order[:2], 3)
    assert ids(client.get(page.json["next"])) == order[2:]


@pytest.mark.parametrize(
    ("query", "found"), [("id:2", [2]), ("name:b", [2]), ("project.name:demo", [3, 1]), ("status:failed", [])]
)
def test_all_jobs_are_filtered(client, jobs, query, found):
    response = client.get(f"{ALL}?sort=-id&query={query}")
    assert (ids(response), response.json["count"]) == (found, len(found))


def test_jobs_of_unreadable_projects_are_not_listed(client, other, admin, jobs):
    assert (ids(other.get(ALL)), other.get(ALL).json["count"]) == ([], 0)
    assert admin.get(ALL).json["count"] == 3
    publish()
    assert other.get(ALL).json["count"] == 3


def test_archived_jobs_are_listed_by_query_for_writers(client, other, jobs):
    client.post("/api/v1/ana/demo/jobs/3/archive")
    publish()
    assert ids(client.get(f"{ALL}?sort=id")) == [1, 2]
    assert ids(client.get(f"{ALL}?query=archived:true")) == [3]
    assert ids(other.get(f"{ALL}?query=archived:true")) == []


def test_queued_jobs_have_their_position(client, jobs):
    move_job(1, Status.SCHEDULED)
    rows = client.get(f"{ALL}?sort=id").json["results"]
    assert [row["queue_position"] for row in rows] == [None, 1, 2]


def test_jobs_can_be_sorted_by_several_fields(client, jobs):
    move_job(2, Status.SCHEDULED)
    assert ids(client.get(f"{ALL}?sort=started_at,-id")) == [2, 3, 1]


def test_row_has_command_and_reason(client):
    client.submit(run={"cmd": ["make", "make test"]})
    client.submit(run={"cmd": "x" * 300})
    move_job(1, Status.SCHEDULED, Status.RUNNING, Status.FAILED, exit={"reason": "oom", "code": 137})
    rows = client.get(f"{ALL}?sort=id").json["results"]
    assert [(row["command"], row["reason"]) for row in rows] == [("make", "out of memory"), ("x" * 200, None)]
    job = client.get("/api/v1/ana/demo/jobs/1").json
    assert (job["command"], job["reason"]) == ("make", "out of memory")
