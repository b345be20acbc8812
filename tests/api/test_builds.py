"""Builds over HTTP."""

from __future__ import annotations

import json

import pytest

from polyjob.models import Build, BuildStatus, Job
from polyjob.statuses import Status
from polyjob.transitions import first_status, transition

from .conftest import BASE, now, write

ROW = {
    "id", "uuid", "name", "unique_name", "pod_id", "user", "description", "created_at", "updated_at", "started_at",
    "finished_at", "last_status", "tags", "project", "bookmarked", "backend", "is_managed", "invalidated",
    "node_scheduled",
}  # fmt: skip
DETAIL = ROW | {
    "config", "content", "resources", "num_jobs", "num_experiments", "dockerfile", "commit", "key",
}  # fmt: skip
CONFIG = {"build": {"image": "python:3", "build_steps": ["true"]}}


@pytest.fixture
def make(project, user):
    def make_build():
        moment = now()
        with write("test"):
            build = Build.create(
                uuid=f"{Build.select().count():032x}", project=project, user=user, config=CONFIG, runner="fake",
                key="k" * 64, key_parts={}, created_at=moment, updated_at=moment,
            )  # fmt: skip
            first_status(build)
        return build

    return make_build


def test_detail(client, make):
    build = make()
    client.submit()
    with write("test"):
        Job.update(build=build).execute()
        transition(build, Status.SCHEDULED)
    answer = client.get(f"{BASE}/builds/{build.id}/").json
    assert answer.keys() == DETAIL
    assert answer | {
        "unique_name": "ana.demo.builds.1", "pod_id": f"plx-build-{build.uuid}", "user": "ana", "project": "ana.demo",
        "last_status": "scheduled", "config": CONFIG, "num_jobs": 1, "num_experiments": 0, "dockerfile": None,
        "commit": None, "resources": None, "bookmarked": False, "is_managed": True, "backend": "fake",
        "invalidated": False,
    } == answer  # fmt: skip
    assert json.loads(answer["content"]) == CONFIG
    assert answer["started_at"] is not None


def test_list_pages_last_changed_first(client, make):
    for _ in range(3):
        make()
    first = client.get(f"{BASE}/builds?limit=2").json
    assert (first["count"], [build["id"] for build in first["results"]]) == (3, [3, 2])
    assert all(build.keys() == ROW for build in first["results"])
    assert [build["id"] for build in client.get(first["next"]).json["results"]] == [1]


def test_statuses_are_listed_oldest_first(client, make):
    build = make()
    with write("test"):
        transition(build, Status.SCHEDULED)
        transition(build, Status.FAILED, message="m", details={"step": 1})
    rows = client.get(f"{BASE}/builds/1/statuses").json
    assert [row["status"] for row in rows["results"]] == ["created", "scheduled", "failed"]
    last = rows["results"][-1]
    assert (rows["count"], last["message"], last["details"]) == (3, "m", {"step": 1})
    assert (last["job"], last["build"]) == (1, 1)
    assert client.get(f"{BASE}/builds/1/statuses/{last['uuid']}").json == last
    assert client.delete(f"{BASE}/builds/1/statuses/{last['uuid']}").status_code == 405
    assert BuildStatus.select().count() == 3


def test_what_is_not_there_is_not_found(client, make):
    make()
    client.post("/api/v1/projects", {"name": "second"})
    for path in (
        "/ana/demo/builds/2",
        "/ana/second/builds/1",
        "/ana/demo/builds/1/statuses/x",
        "/ana/demo/builds/2/statuses",
    ):
        assert client.get(f"/api/v1{path}").status_code == 404
