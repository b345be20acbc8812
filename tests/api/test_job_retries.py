"""Retries of jobs in the API."""

from __future__ import annotations

from polyjob.db.database import write
from polyjob.db.models import Job
from polyjob.services.endings import end_job
from polyjob.statuses import Status

from .conftest import move_job, pointers

JOBS = "/api/v1/ana/demo/jobs"
DELAYED = {"retry": [{"times": 2, "delay": 60}]}


def fail(job_id: int) -> None:
    move_job(job_id, Status.SCHEDULED, Status.RUNNING)
    with write("test"):
        end_job(Job.get_by_id(job_id), Status.FAILED, details={"reason": "exited"}, exit_code=1)


def test_job_without_rules_has_no_retries(client):
    job = client.submit()
    assert (job["retries"], job["wait_until"]) == (None, None)


def test_job_shows_what_is_left_of_its_retries(client):
    first = client.submit(termination=DELAYED)
    assert first["retries"] == {"number": 0, "left": 2, "first_job": None, "next_job": None}
    fail(first["id"])
    retries = client.get(f"{JOBS}/{first['id']}").json["retries"]
    retry = client.get(f"{JOBS}/{retries['next_job']}").json
    assert retry["retries"] == {"number": 1, "left": 1, "first_job": first["id"], "next_job": None}
    assert (retry["original"], retry["cloning_strategy"]) == (first["unique_name"], "restart")


def test_waiting_retry_says_until_when(client):
    first = client.submit(termination=DELAYED)
    fail(first["id"])
    retry = client.get(f"{JOBS}/{first['id'] + 1}").json
    assert (retry["last_status"], retry["queue_position"]) == ("created", None)
    assert retry["wait_until"] > retry["created_at"]
    assert retry["waiting"].startswith("Waiting until 20")
    tag = client.get(f"{JOBS}/{retry['id']}").headers["ETag"]
    client.submit()
    assert client.get(f"{JOBS}/{retry['id']}", headers={"If-None-Match": tag}).status_code == 304


def test_clone_of_a_retry_begins_a_chain_of_its_own(client):
    first = client.submit(termination=DELAYED)
    fail(first["id"])
    clone = client.post(f"{JOBS}/{first['id'] + 1}/restart").json
    assert clone["retries"] == {"number": 0, "left": 2, "first_job": None, "next_job": None}


def test_wrong_rule_is_named(client):
    config = {"run": {"cmd": "true"}, "termination": {"retry": [{"on": [{"exit": 1}]}]}}
    assert pointers(client.post(JOBS, {"config": config})) == ["/config/termination/retry/0/times"]
