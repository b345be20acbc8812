"""Every call of the documented job API on a real server: at the documented path, with its effect."""

from __future__ import annotations

import io
import tarfile

import pytest

from .conftest import JOBS, eventually

DETAIL = {
    "id", "uuid", "name", "unique_name", "user", "description", "created_at", "updated_at", "last_status",
    "started_at", "finished_at", "tags", "project", "build_job", "is_clone", "original", "config", "resources",
    "node_scheduled", "bookmarked",
}  # fmt: skip
BASE = "/api/v1/root/quick-start"


@pytest.fixture(scope="module")
def done(server):
    """A job that built, ran, logged and wrote an output."""
    config = {
        "version": 1,
        "kind": "job",
        "build": {"image": "tensorflow/tensorflow:1.4.1-py3", "build_steps": ["python -c 'print(6 * 7)'"]},
        "run": {"cmd": "echo hello; echo data > $POLYAXON_RUN_OUTPUTS_PATH/data.txt"},
    }
    answer = server.call("POST", f"{JOBS}/", {"config": config})
    assert answer.status == 201
    return server.until_done(answer.json["id"])


def test_job_is_shown(server, done):
    answer = server.call("GET", f"{JOBS}/{done['id']}")
    assert answer.status == 200
    job = answer.json
    assert job.keys() >= DETAIL
    assert job["unique_name"] == f"root.quick-start.jobs.{job['id']}"
    assert (job["user"], job["project"], job["last_status"]) == ("root", "root.quick-start", "succeeded")
    assert job["build_job"].startswith("root.quick-start.builds.")
    assert job["config"]["run"]["cmd"].startswith("echo hello")
    assert (job["is_clone"], job["original"], job["bookmarked"], job["resources"]) == (False, None, False, None)
    assert job["started_at"] < job["finished_at"]


def test_job_is_updated(server, done):
    answer = server.call("PATCH", f"{JOBS}/{done['id']}/", {"description": "new description"})
    assert (answer.status, answer.json["description"]) == (200, "new description")
    assert server.job(done["id"])["description"] == "new description"


def test_statuses_are_listed(server, done):
    answer = server.call("GET", f"{JOBS}/{done['id']}/statuses").json
    assert (answer["count"], answer["next"], answer["previous"]) == (5, None, None)
    rows = answer["results"]
    assert [row["status"] for row in rows] == ["created", "scheduled", "building", "running", "succeeded"]
    assert all(row.keys() >= {"id", "uuid", "created_at", "message", "status", "details", "job"} for row in rows)
    assert {row["job"] for row in rows} == {done["id"]}
    assert rows[-1]["message"] == "Completed"
    assert rows[1]["created_at"] == done["started_at"]


def test_build_log_has_the_output_of_the_step(server, done):
    number = done["build_job"].rsplit(".", 1)[1]
    assert b"42" in server.call("GET", f"{BASE}/builds/{number}/logs").body


@pytest.mark.parametrize("strategy", ["restart", "resume", "copy"])
def test_jobs_are_restarted_resumed_and_copied(server, done, strategy):
    answer = server.call("POST", f"{JOBS}/{done['id']}/{strategy}")
    assert answer.status == 201
    clone = server.until_done(answer.json["id"])
    assert clone["last_status"] == "succeeded"
    assert (clone["original"], clone["is_clone"]) == (done["unique_name"], True)
    assert clone["cloning_strategy"] == strategy
    assert clone["build_job"] == done["build_job"]
    assert clone["config"] == done["config"]


@pytest.mark.parametrize(("strategy", "expected"), [("restart", b"no\n"), ("resume", b"data\n"), ("copy", b"data\n")])
def test_clones_start_with_the_right_outputs(server, done, strategy, expected):
    patch = {"config": {"run": {"cmd": "cat $POLYAXON_RUN_OUTPUTS_PATH/data.txt 2> /dev/null || echo no"}}}
    number = server.call("POST", f"{JOBS}/{done['id']}/{strategy}", patch).json["id"]
    server.until_done(number)
    assert server.log(number) == expected


def test_job_is_stopped(server):
    number = server.submit("sleep 100")["id"]
    server.until(number, "running")
    answer = server.call("POST", f"{JOBS}/{number}/stop")
    assert (answer.status, answer.body) == (200, b"")
    assert server.until_done(number)["last_status"] == "stopped"
    again = server.call("POST", f"{JOBS}/{number}/stop")
    assert (again.status, again.body) == (200, b"")


@pytest.mark.parametrize("path", ["{base}//jobs/{id}/logs", "{base}/jobs/{id}/logs/", "{base}/jobs/{id}/logs"])
def test_log_is_returned(server, done, path):
    answer = server.call("GET", path.format(base=BASE, id=done["id"]))
    assert (answer.status, answer.body) == (200, b"hello\n")


@pytest.mark.parametrize("path", ["{base}//jobs/{id}/outputs", "{base}/jobs/{id}/outputs/"])
def test_outputs_are_downloaded(server, done, path):
    answer = server.call("GET", path.format(base=BASE, id=done["id"]))
    assert answer.status == 200
    with tarfile.open(fileobj=io.BytesIO(answer.body)) as archive:
        assert archive.extractfile(f"{done['id']}/data.txt").read() == b"data\n"


def test_job_is_bookmarked(server, done):
    answer = server.call("POST", f"{JOBS}/{done['id']}/bookmark", **{"Content-Type": "application/json"})
    assert (answer.status, answer.body) == (201, b"")
    assert server.job(done["id"])["bookmarked"] is True
    answer = server.call("DELETE", f"{JOBS}/{done['id']}/unbookmark", **{"Content-Type": "application/json"})
    assert (answer.status, answer.body) == (204, b"")
    assert server.job(done["id"])["bookmarked"] is False


def test_job_is_deleted(server):
    job = server.submit("sleep 100")
    server.until(job["id"], "running")
    folder = server.data_dir / "jobs" / job["uuid"]
    assert folder.exists()
    answer = server.call("DELETE", f"{JOBS}/{job['id']}")
    assert (answer.status, answer.body) == (204, b"")
    assert server.call("GET", f"{JOBS}/{job['id']}").status == 404
    eventually(lambda: not folder.exists(), what="the removal")


@pytest.mark.parametrize("method", ["GET", "PATCH", "DELETE"])
def test_request_without_a_token_is_refused(server, done, method):
    answer = server.call(method, f"{JOBS}/{done['id']}", token="0" * 40)
    assert answer.status == 401
    assert answer.headers["WWW-Authenticate"] == "Token"
