"""The history of jobs, and what clients inside them report."""

from __future__ import annotations

import pytest

from polyjob.db.models import Job, JobStatus
from polyjob.statuses import Status

from .conftest import JOBS, move_job, pointers

STATUS = {"id", "uuid", "created_at", "status", "message", "traceback", "details", "job"}


@pytest.fixture
def job(client):
    return client.submit()


@pytest.fixture
def unmanaged(client):
    return client.post(JOBS, {"is_managed": False}).json


class TestList:
    def test_oldest_first(self, client, job):
        move_job(1, Status.SCHEDULED, Status.RUNNING)
        response = client.get(f"{JOBS}/1/statuses").json
        assert (response["count"], response["next"]) == (3, None)
        rows = response["results"]
        assert [row["status"] for row in rows] == ["created", "scheduled", "running"]
        assert all(row.keys() == STATUS and row["job"] == 1 and row["details"] is None for row in rows)
        assert rows[0]["created_at"] == job["created_at"]

    def test_pages(self, client, job):
        move_job(1, Status.SCHEDULED, Status.RUNNING)
        first = client.get(f"{JOBS}/1/statuses?limit=2").json
        assert [row["status"] for row in first["results"]] == ["created", "scheduled"]
        assert [row["status"] for row in client.get(first["next"]).json["results"]] == ["running"]


class TestOne:
    def test_by_its_uuid(self, client, job):
        row = client.get(f"{JOBS}/1/statuses").json["results"][0]
        assert client.get(f"{JOBS}/1/statuses/{row['uuid']}/").json == row

    def test_of_another_job_is_not_found(self, client, job):
        client.submit()
        row = client.get(f"{JOBS}/2/statuses").json["results"][0]
        assert client.get(f"{JOBS}/1/statuses/{row['uuid']}").status_code == 404

    @pytest.mark.parametrize("method", ["PATCH", "PUT", "DELETE"])
    def test_never_changes(self, client, job, method):
        uuid = JobStatus.get().uuid
        response = client.call(method, f"{JOBS}/1/statuses/{uuid}", {"status": "failed"})
        assert (response.status_code, response.json["detail"]) == (405, f'Method "{method}" not allowed.')
        assert "GET" in response.headers["Allow"]
        assert JobStatus.get().status is Status.CREATED


class TestPost:
    def test_report_on_a_managed_job_is_a_note(self, client, job):
        move_job(1, Status.SCHEDULED, Status.RUNNING)
        response = client.post(f"{JOBS}/1/statuses", {"status": "succeeded", "message": "m"})
        assert (response.status_code, response.json["status"]) == (201, "running")
        assert response.json.keys() == STATUS
        assert JobStatus.select().count() == 3
        assert Job.get().status is Status.RUNNING

    def test_stopped_status_from_a_person_requests_a_stop(self, client, job, user):
        move_job(1, Status.SCHEDULED, Status.RUNNING)
        assert client.post(f"{JOBS}/1/statuses", {"status": "stopped"}).status_code == 201
        assert (Job.get().stop_kind, Job.get().stop_by) == ("person", user)

    def test_report_changes_the_status_of_an_unmanaged_job(self, client, unmanaged):
        sent = {"status": "failed", "message": "m", "traceback": "t", "details": {"a": [1]}}
        client.post(f"{JOBS}/1/statuses", {"status": "running"})
        response = client.post(f"{JOBS}/1/statuses", sent)
        assert response.status_code == 201
        assert response.json | sent == response.json
        job = client.get(f"{JOBS}/1").json
        assert job["last_status"] == "failed"
        assert job["started_at"] < job["finished_at"]

    def test_report_on_a_done_job_returns_its_status(self, client, unmanaged):
        client.post(f"{JOBS}/1/statuses", {"status": "succeeded"})
        response = client.post(f"{JOBS}/1/statuses", {"status": "running"})
        assert (response.status_code, response.json["status"]) == (201, "succeeded")
        assert JobStatus.select().count() == 2

    @pytest.mark.parametrize("body", [{}, None, {"status": None}])
    def test_empty_report_returns_the_status(self, client, unmanaged, body):
        response = client.post(f"{JOBS}/1/statuses", body)
        assert (response.status_code, response.json["status"]) == (201, "created")
        assert JobStatus.select().count() == 1

    @pytest.mark.parametrize("status", ["x", "RUNNING", 3, [], True])
    def test_unknown_status_is_refused(self, client, unmanaged, status):
        response = client.post(f"{JOBS}/1/statuses", {"status": status})
        assert pointers(response) == ["/status"]
        assert response.json["status"] == 400
        assert "is not a valid choice." in response.json["detail"]

    @pytest.mark.parametrize(
        ("body", "pointer"),
        [({"details": [1]}, "/details"), ({"message": 3}, "/message"), ({"details": {"a": "\0"}}, "/details/a")],
    )
    def test_problems_of_a_report_are_listed(self, client, unmanaged, body, pointer):
        assert pointers(client.post(f"{JOBS}/1/statuses", {"status": "running"} | body)) == [pointer]

    def test_long_report_is_shortened(self, client, unmanaged):
        body = {"status": "failed", "message": "m" * 10_000, "traceback": "t" * 100_000}
        response = client.post(f"{JOBS}/1/statuses", body).json
        assert len(response["message"]) == 256
        assert len(response["traceback"]) == 64 << 10

    def test_note_is_not_longer_than_a_message(self, client, job):
        client.post(f"{JOBS}/1/statuses", {"status": "running", "message": "m" * 100_000})
        assert len(client.get(f"{JOBS}/1").json["notes"][0]["text"]) < 5000


def test_heartbeats_are_accepted(client, job):
    response = client.post(f"{JOBS}/1/_heartbeat/")
    assert (response.status_code, response.data) == (200, b"")
    assert client.post(f"{JOBS}/2/_heartbeat").status_code == 404


class TestCodeReferences:
    def test_code_reference_without_upload_has_nulls(self, client, job):
        response = client.get(f"{JOBS}/1/coderef")
        assert (response.status_code, set(response.json.values())) == (200, {None})

    def test_reported_code_reference_is_a_note(self, client, job):
        response = client.post(
            f"{JOBS}/1/coderef", {"commit": "abc", "git_url": "https://git.example/x", "is_dirty": True}
        )
        assert (response.status_code, response.json["commit"], response.json["is_dirty"]) == (201, "abc", True)
        assert "https://git.example/x, abc" in client.get(f"{JOBS}/1").json["notes"][0]["text"]

    def test_invalid_code_reference_is_refused(self, client, job):
        assert pointers(client.post(f"{JOBS}/1/coderef", {"commit": 3})) == ["/commit"]
