"""Restart, resume and copy jobs."""

from __future__ import annotations

import pytest

from polyjob.db.models import Job, Upload
from polyjob.statuses import Status

from .conftest import CONFIG, JOBS, move_job, now, pointers, write
from .helpers import JOB_FIELDS


class TestClones:
    @pytest.fixture
    def done(self, client):
        client.post(JOBS, {"config": CONFIG, "description": "d", "tags": ["t"]})
        move_job(1, Status.SCHEDULED, Status.RUNNING, Status.SUCCEEDED)

    @pytest.mark.parametrize("verb", ["restart", "resume", "copy"])
    def test_clone_has_the_same_config(self, client, done, verb):
        response = client.post(f"{JOBS}/1/{verb}/")
        assert response.status_code == 201
        job = response.json
        assert job.keys() == JOB_FIELDS
        assert (job["id"], job["original"], job["is_clone"], job["cloning_strategy"]) == (
            2,
            "ana.demo.jobs.1",
            True,
            verb,
        )
        assert (job["config"], job["description"], job["last_status"], job["user"]) == (CONFIG, "d", "created", "ana")
        assert client.get(JOBS).json["results"][0]["original"] == "ana.demo.jobs.1"

    @pytest.mark.parametrize(
        "body",
        [
            {"config": {"environment": {"env_vars": {"A": 1}}}},
            {"content": '{"environment": {"env_vars": [["A", "1"]]}}'},
            {"content": "{'environment': {'env_vars': [['A', '1']], 'labels': None}}"},
            {"environment": {"env_vars": {"A": "1"}}},
        ],
    )
    def test_patch_is_merged_into_the_config(self, client, done, body):
        job = client.post(f"{JOBS}/1/restart", body | {"description": "own", "ttl": 3}).json
        assert job["config"] == CONFIG | {"environment": {"env_vars": [["A", "1"]]}}
        assert (job["description"], job["ttl"]) == ("own", 3)

    @pytest.mark.parametrize("verb", ["restart", "resume", "copy"])
    @pytest.mark.parametrize(
        "body",
        [
            {"config": {"environment": None}},
            {"content": '{"environment": null}'},
            {"content": "environment: ~"},
            {"environment": None},
            {"environment": None, "build": None, "foo": None},
        ],
    )
    def test_null_in_a_patch_removes_a_section(self, client, verb, body):
        client.submit(environment={"env_vars": {"A": "1"}})
        move_job(1, Status.SCHEDULED, Status.RUNNING, Status.SUCCEEDED)
        response = client.post(f"{JOBS}/1/{verb}", body)
        assert (response.status_code, response.json["config"]) == (201, CONFIG)

    @pytest.mark.parametrize(
        ("body", "expected"),
        [
            ({"config": {"run": {"cmd": 3}}}, ["/config/run/cmd"]),
            ({"content": '{"run": {"cmd": 3}}'}, ["/content/run/cmd"]),
            ({"content": "bar"}, ["/content"]),
            ({"content": "[1]"}, ["/content"]),
            ({"run": {"cmd": 3}}, ["/run/cmd"]),
            ({"update_code": "maybe"}, ["/update_code"]),
            ({"ttl": "x"}, ["/ttl"]),
        ],
    )
    def test_invalid_patch_creates_no_job(self, client, done, body, expected):
        assert pointers(client.post(f"{JOBS}/1/restart", body)) == expected
        assert Job.select().count() == 1

    def test_invalid_update_code_is_explained(self, client, done):
        response = client.post(f"{JOBS}/1/restart", {"update_code": "maybe"})
        assert response.json["detail"] == "/update_code: update_code should be a boolean"

    @pytest.mark.parametrize(("verb", "status"), [("restart", 201), ("resume", 400), ("copy", 400)])
    def test_clone_of_a_job_that_is_not_done(self, client, verb, status):
        client.submit()
        response = client.post(f"{JOBS}/1/{verb}", {})
        assert response.status_code == status
        if status == 400:
            assert "done" in response.json["errors"][0]["detail"]

    def test_update_code_uses_the_latest_upload(self, client, done, project, user):
        with write("test"):
            code = Upload.create(project=project, user=user, digest="c" * 64, size=1, files={}, created_at=now())
            type(project).update(code=code).execute()
        assert client.post(f"{JOBS}/1/restart", {"update_code": "true"}).json["commit"] == "c" * 64
        assert client.post(f"{JOBS}/1/restart", {"update_code": False}).json["commit"] is None
