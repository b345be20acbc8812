"""The field `after` of a new job: the jobs that have to end first."""

from __future__ import annotations

import pytest

from polyjob.db.database import write
from polyjob.db.models import Job
from polyjob.services.endings import end_job
from polyjob.statuses import Status

from .conftest import move_job, pointers

JOBS = "/api/v1/ana/demo/jobs"
CONFIG = {"run": {"cmd": "true"}}


def submit(client, *after):
    return client.post(JOBS, {"config": CONFIG, "after": list(after)})


def test_waiting_job_shows_for_what_it_waits(client):
    first = client.submit()
    job = submit(client, {"job": first["id"], "on": "failure"}).json
    assert job["after"] == [{"job": first["id"], "on": "failure", "is_met": False, "reads_outputs": False}]
    assert job["waiting"] == f"Waiting for #{first['id']} to fail."
    assert (job["last_status"], job["queue_position"]) == ("created", None)


def test_id_or_unique_name_stands_for_success(client):
    first = client.submit()
    job = submit(client, first["id"], str(first["id"]), first["unique_name"], {"job": first["id"]}).json
    assert [(one["job"], one["on"]) for one in job["after"]] == [(first["id"], "success")] * 4


def test_job_without_dependencies_has_an_empty_list(client):
    assert client.submit()["after"] == []


def test_skipped_job_says_why_in_lists(client):
    first = client.submit()
    job = submit(client, {"job": first["id"], "on": "failure"}).json
    move_job(first["id"], Status.SCHEDULED, Status.RUNNING)
    with write("test"):
        end_job(Job.get_by_id(first["id"]), Status.SUCCEEDED)
    shown = client.get(f"{JOBS}/{job['id']}").json
    listed = client.get(JOBS, query_string={"query": f"id:{job['id']}"}).json["results"][0]
    assert shown["last_status"] == "skipped"
    assert shown["reason"] == listed["reason"] == "a dependency cannot be met"


@pytest.mark.parametrize(
    ("after", "pointer"),
    [
        (999, "/after/0/job"),
        ({"job": 999}, "/after/0/job"),
        ("ana.demo.jobs.999", "/after/0/job"),
        ("eva.demo.jobs.1", "/after/0/job"),
        ("first", "/after/0/job"),
        (10**18, "/after/0"),
        ({"on": "success"}, "/after/0/job"),
        ({"job": 1, "on": "sunrise"}, "/after/0/on"),
        ({"job": 1, "at": 3}, "/after/0/at"),
        ({"job": [1]}, "/after/0/job"),
        (True, "/after/0"),
    ],
)
def test_wrong_dependency_is_named(client, after, pointer):
    client.submit()
    assert pointers(submit(client, after)) == [pointer]
    assert Job.select().count() == 1


def test_list_of_dependencies_is_limited(client):
    first = client.submit()
    assert pointers(submit(client, *[first["id"]] * 101)) == ["/after"]
    assert pointers(client.post(JOBS, {"config": CONFIG, "after": first["id"]})) == ["/after"]


def test_job_cannot_wait_for_itself(client):
    first = client.submit()
    assert pointers(submit(client, first["id"] + 1)) == ["/after/0/job"]


def test_unreadable_job_is_unknown(client, other):
    first = client.submit()
    other.post("/api/v1/projects", {"name": "mine"})
    response = other.post("/api/v1/bob/mine/jobs", {"config": CONFIG, "after": [first["id"]]})
    assert pointers(response) == ["/after/0/job"]


def test_job_of_another_project_can_be_waited_for(client):
    client.post("/api/v1/projects", {"name": "second"})
    first = client.submit()
    job = client.post("/api/v1/ana/second/jobs", {"config": CONFIG, "after": [first["id"]]}).json
    assert job["waiting"] == f"Waiting for #{first['id']} to succeed."
