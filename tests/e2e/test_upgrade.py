"""A data folder that an older polyjob left behind: a newer server takes over all its jobs.

Each file of `data_folders/` is a data folder as it was when its server was killed with SIGKILL, made by the version of
that day. It has ended, running and waiting jobs, an upload, a build, outputs, a bookmark and a second token. To keep it
small, virtualenvs, sockets and the reserve file are left out.
"""

from __future__ import annotations

import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.e2e.conftest import Server, eventually

FOLDERS = sorted((Path(__file__).parent / "data_folders").glob("*.tar.gz"))
assert FOLDERS
JOBS = "/api/v1/root/demo/jobs"
ENDED = {"good": "succeeded", "with-upload": "succeeded", "with-build": "succeeded", "to-stop": "stopped"}
RUNNING = ("running", "running-2", "running-3")


@pytest.fixture(params=FOLDERS, ids=lambda path: path.name.removesuffix(".tar.gz"))
def server(request: pytest.FixtureRequest, make_server: Callable[..., Server]) -> Server:
    server: Server = make_server(slots="3")
    server.data_dir.mkdir(mode=0o700)
    with tarfile.open(request.param) as tarball:
        tarball.extractall(server.data_dir, filter="data")
    server.start()
    return server


def jobs_by_name(server: Server) -> dict[str, dict]:
    return {job["name"]: job for job in server.call("GET", f"{JOBS}?limit=100").json["results"]}


def ended_jobs(server: Server) -> dict[str, dict] | None:
    jobs = jobs_by_name(server)
    return jobs if all(job["finished_at"] for job in jobs.values()) else None


def restarted_log(server: Server, number: int) -> bytes:
    answer = server.call("POST", f"{JOBS}/{number}/restart")
    assert answer.status == 201, answer
    path = f"{JOBS}/{answer.json['id']}"
    job = eventually(lambda: (found := server.call("GET", path).json)["finished_at"] and found, 60, "its end")
    assert job["last_status"] == "succeeded", job
    return server.call("GET", f"{path}/logs").body


def test_new_server_takes_over_all_jobs_of_an_old_folder(server):
    jobs = eventually(lambda: ended_jobs(server), 60, "the end of all jobs")

    assert {name: jobs[name]["last_status"] for name in ENDED} == ENDED
    assert jobs["waiting"]["last_status"] == "succeeded"
    assert server.call("GET", f"{JOBS}/{jobs['waiting']['id']}/logs").body == b"ran at last\n"
    for name in RUNNING:  # their processes ended together with the machine that they ran on
        assert jobs[name]["last_status"] == "failed"
        job = server.call("GET", f"{JOBS}/{jobs[name]['id']}").json
        assert job["exit"]["reason"] == "lost"
        assert server.call("GET", f"{JOBS}/{jobs[name]['id']}/logs").body == b"first line\n"
    archived = server.call("GET", "/api/v1/archives/root/jobs").json["results"]
    assert [(job["name"], job["last_status"]) for job in archived] == [("bad", "failed")]
    bookmarks = server.call("GET", "/api/v1/bookmarks/root/jobs").json["results"]
    assert [bookmark["content_object"]["name"] for bookmark in bookmarks] == ["good"]


def test_outputs_uploads_and_builds_of_an_old_folder_work(server):
    jobs = jobs_by_name(server)
    good = f"{JOBS}/{jobs['good']['id']}"

    assert server.call("GET", f"{good}/logs").body == b"out\n"
    assert server.call("GET", f"{good}/outputs/files?path=answer.txt").body == b"42\n"
    assert restarted_log(server, jobs["with-upload"]["id"]) == b'print("uploaded")\n'
    assert restarted_log(server, jobs["with-build"]["id"]) == b"after build\n"
