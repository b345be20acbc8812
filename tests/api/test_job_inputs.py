"""`environment.outputs.jobs` of a new job: the jobs whose outputs it reads."""

from __future__ import annotations

import pytest

from polyjob.db.models import Job

from .conftest import pointers

JOBS = "/api/v1/ana/demo/jobs"
POINTER = "/config/environment/outputs/jobs"


def config(*jobs):
    return {"run": {"cmd": "true"}, "environment": {"outputs": {"jobs": list(jobs)}}}


def submit(client, *jobs):
    return client.post(JOBS, {"config": config(*jobs)})


def test_job_waits_for_the_jobs_whose_outputs_it_reads(client):
    first = client.submit()
    job = submit(client, first["id"]).json
    assert job["after"] == [{"job": first["id"], "on": "success", "is_met": False, "reads_outputs": True}]
    assert job["waiting"] == f"Waiting for #{first['id']} to succeed."
    assert job["config"]["environment"]["outputs"] == {"jobs": [first["id"]]}


def test_jobs_have_an_id_or_a_unique_name(client):
    first, second = client.submit(), client.submit()
    job = submit(client, first["unique_name"], str(second["id"])).json
    assert [one["job"] for one in job["after"]] == [first["id"], second["id"]]


@pytest.mark.parametrize(
    ("jobs", "pointer"),
    [
        ([999], f"{POINTER}/0"),
        (["1", "ana.demo.jobs.999"], f"{POINTER}/1"),
        ([1, "ana.demo.jobs.1"], f"{POINTER}/1"),
        ([1, {"job": 1}], f"{POINTER}/1"),
        ([1] * 101, POINTER),
    ],
)
def test_wrong_job_is_named(client, jobs, pointer):
    client.submit()
    assert pointers(submit(client, *jobs)) == [pointer]
    assert Job.select().count() == 1


def test_pointer_follows_the_form_of_the_body(client):
    body = {"content": "run: {cmd: 'true'}\nenvironment: {outputs: {jobs: [999]}}\n"}
    assert pointers(client.post(JOBS, body)) == ["/content/environment/outputs/jobs/0"]


def test_unreadable_job_is_unknown(client, other):
    first = client.submit()
    other.post("/api/v1/projects", {"name": "mine"})
    response = other.post("/api/v1/bob/mine/jobs", {"config": config(first["id"])})
    assert pointers(response) == [f"{POINTER}/0"]


def test_clone_of_another_user_needs_to_read_the_jobs(client, other):
    client.post("/api/v1/projects", {"name": "open", "is_public": True})
    secret = client.submit()
    job = client.post("/api/v1/ana/open/jobs", {"config": config(secret["id"])}).json
    client.post("/api/v1/ana/open/members", {"username": "bob", "role": "submit"})
    response = other.post(f"/api/v1/ana/open/jobs/{job['id']}/restart", {})
    assert response.status_code == 400
    assert "may not read it" in response.text
    assert client.post(f"/api/v1/ana/open/jobs/{job['id']}/restart", {}).status_code == 201


def test_jobs_of_a_sweep_read_outputs(client):
    first = client.submit()
    body = {"config": config(first["id"]) | {"params": {"x": 1}}, "sweep": {"x": [1, 2]}}
    response = client.post(f"{JOBS}/sweep", body)
    assert response.status_code == 201, response.text
    assert {one["job"] for row in response.json["jobs"] for one in client.get(f"{JOBS}/{row['id']}").json["after"]} == {
        first["id"]
    }


def test_schedule_cannot_read_outputs(client):
    first = client.submit()
    body = {"cron": "0 3 * * *", "job": {"config": config(first["id"])}}
    response = client.post("/api/v1/ana/demo/schedules", body)
    assert pointers(response) == ["/job/config/environment/outputs/jobs"]
