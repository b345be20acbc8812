"""Builds over HTTP."""

from __future__ import annotations

import json

import pytest

from polyjob.db.models import Build, BuildStatus, Job
from polyjob.services import builds, specs
from polyjob.services.transitions import insert_first_status, transition
from polyjob.settings import read_settings
from polyjob.statuses import Status
from polyjob.storage.store import Store

from .conftest import BASE, move_job, now, pointers, write

ROW = {
    "id", "uuid", "name", "unique_name", "pod_id", "user", "description", "created_at", "updated_at", "started_at",
    "finished_at", "last_status", "tags", "project", "bookmarked", "backend", "is_managed", "invalidated",
    "node_scheduled",
}  # fmt: skip
DETAIL = ROW | {
    "config", "content", "resources", "num_jobs", "num_experiments", "dockerfile", "image", "base", "commit", "key",
    "reason", "notes",
}  # fmt: skip
BUILD = {"version": 1, "kind": "build", "build": {"image": "python:3", "build_steps": ["true"]}}
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
            insert_first_status(build)
        return build

    return make_build


def finish(build):
    with write("test"):
        for status in (Status.SCHEDULED, Status.RUNNING, Status.SUCCEEDED):
            assert transition(build, status)


def test_detail(client, make):
    build = make()
    client.submit()
    with write("test"):
        Job.update(build=build).execute()
        transition(build, Status.SCHEDULED)
    response = client.get(f"{BASE}/builds/{build.id}/").json
    assert response.keys() == DETAIL
    assert response | {
        "unique_name": "ana.demo.builds.1", "pod_id": f"plx-build-{build.uuid}", "user": "ana", "project": "ana.demo",
        "last_status": "scheduled", "config": CONFIG, "num_jobs": 1, "num_experiments": 0, "dockerfile": None,
        "commit": None, "resources": None, "bookmarked": False, "is_managed": True, "backend": "fake",
        "invalidated": False,
    } == response  # fmt: skip
    assert json.loads(response["content"]) == CONFIG
    assert response["started_at"] is not None


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


def test_missing_item_is_not_found(client, make):
    make()
    client.post("/api/v1/projects", {"name": "second"})
    for path in (
        "/ana/demo/builds/2",
        "/ana/second/builds/1",
        "/ana/demo/builds/1/statuses/x",
        "/ana/demo/builds/2/statuses",
    ):
        assert client.get(f"/api/v1{path}").status_code == 404


class TestCreate:
    def test_build_is_created_without_a_job(self, client):
        response = client.post(f"{BASE}/builds", {"config": BUILD | {"tags": ["t"]}, "name": "base"})
        assert response.status_code == 201, response.text
        assert response.json.keys() == DETAIL
        assert (response.json["last_status"], response.json["name"]) == ("created", "base")
        assert response.json["reason"]["kind"] == "asked"
        assert client.get(f"{BASE}/builds/{response.json['id']}").json == response.json
        assert client.get(BASE).json["num_builds"] == 1

    def test_needs_a_config(self, client):
        assert pointers(client.post(f"{BASE}/builds", {})) == ["/content"]
        assert Build.select().count() == 0


class TestChange:
    def test_name_description_and_tags(self, client, make):
        make()
        client.patch(f"{BASE}/builds/1", {"tags": ["a"], "description": "d"})
        response = client.patch(f"{BASE}/builds/1", {"name": "n", "tags": ["b", "a"], "merge": True}).json
        assert (response["name"], response["description"], response["tags"]) == ("n", "d", ["a", "b"])
        assert pointers(client.patch(f"{BASE}/builds/1", {"name": "a b"})) == ["/name"]

    def test_repeated_stop_has_no_further_effect(self, client, make):
        make()
        for _ in range(2):
            response = client.post(f"{BASE}/builds/1/stop")
            assert (response.status_code, response.data) == (200, b"")
        assert Build.get_by_id(1).stop_at is not None

    def test_stop_of_a_done_build_has_no_effect(self, client, make):
        finish(make())
        assert client.post(f"{BASE}/builds/1/stop").status_code == 200
        assert Build.get_by_id(1).stop_at is None

    @pytest.mark.parametrize(
        ("withdraw", "kind"),
        [("1/invalidate", "invalidated"), ("invalidate", "invalidated"), ("1/archive", "archived"), ("1", "deleted")],
    )
    @pytest.mark.parametrize("since", [None, "failed", "outdated"])
    def test_build_after_an_invalidated_one_uses_no_cache(self, client, data_dir, withdraw, kind, since):
        def build():
            return Build.get_by_id(client.post(f"{BASE}/builds", {"config": BUILD}).json["id"])

        settings = read_settings({}, data_dir=data_dir)
        finish(build())
        assert not specs.build_spec(build(), Store(data_dir), settings, "i").nocache
        finish(Build.get_by_id(2))
        call = client.delete if kind == "deleted" else client.post
        assert call(f"{BASE}/builds/{withdraw.replace('1', '2')}").status_code in (200, 204)
        if since == "failed":
            failed = build()
            with write("test"):
                assert transition(failed, Status.STOPPED)
        if since == "outdated":
            finish(again := build())
            with write("test"):
                builds.mark_stale(Build.get_by_id(again.id), "its image is not there any more")
        fresh = build()
        assert fresh.reason["kind"] == kind
        assert specs.build_spec(fresh, Store(data_dir), settings, "i").nocache

    def test_invalidate_one_or_all(self, client, make):
        make(), make()
        assert client.post(f"{BASE}/builds/1/invalidate").status_code == 200
        assert [client.get(f"{BASE}/builds/{n}").json["invalidated"] for n in (1, 2)] == [True, False]
        first = Build.get_by_id(1).invalidated_at
        assert client.post(f"{BASE}/builds/invalidate").status_code == 200
        assert client.get(f"{BASE}/builds/2").json["invalidated"] is True
        assert Build.get_by_id(1).invalidated_at == first

    def test_archive_hides_and_restore_shows(self, client, make):
        finish(make())
        assert client.post(f"{BASE}/builds/1/archive").status_code == 200
        assert client.get(f"{BASE}/builds/1").status_code == 404
        assert client.get(f"{BASE}/builds").json["count"] == 0
        listed = client.get("/api/v1/archives/ana/builds").json["results"]
        assert [(item["id"], item["deleted"]) for item in listed] == [(1, True)]
        assert client.post(f"{BASE}/builds/1/restore").status_code == 200
        assert client.get(f"{BASE}/builds").json["count"] == 1
        assert client.post(f"{BASE}/builds/7/restore").status_code == 404

    def test_bookmarks(self, client, make):
        make()
        assert client.post(f"{BASE}/builds/1/bookmark").status_code == 201
        assert client.get(f"{BASE}/builds").json["results"][0]["bookmarked"] is True
        assert [row["content_object"]["id"] for row in client.get("/api/v1/bookmarks/ana/builds").json["results"]] == [
            1
        ]
        assert client.delete(f"{BASE}/builds/1/unbookmark").status_code == 204
        assert client.get(f"{BASE}/builds/1").json["bookmarked"] is False
        assert client.get("/api/v1/bookmarks/ana/builds").json["results"] == []

    def test_heartbeat_and_code(self, client, make):
        make()
        assert client.post(f"{BASE}/builds/1/_heartbeat").status_code == 200
        assert client.get(f"{BASE}/builds/1/coderef").json["commit"] is None


class TestDelete:
    @pytest.mark.parametrize("verb", ["delete", "archive"])
    def test_needed_build_cannot_be_deleted(self, client, make, verb):
        build = make()
        client.submit()
        with write("test"):
            Job.update(build=build).execute()

        def act():
            path = f"{BASE}/builds/1"
            return client.delete(path) if verb == "delete" else client.post(f"{path}/archive")

        response = act()
        assert (response.status_code, response.headers["Retry-After"]) == (409, "30")
        assert "these jobs wait for it or run on it: 1." in response.json["detail"]
        assert client.get(f"{BASE}/builds/1").status_code == 200
        move_job(1, Status.STOPPED)
        assert act().status_code in (200, 204)
        assert client.get(f"{BASE}/builds/1").status_code == 404

    def test_deleted_build_is_hidden_and_not_reused(self, client, make):
        make()
        assert client.delete(f"{BASE}/builds/1").status_code == 204
        assert client.get(f"{BASE}/builds").json["count"] == 0
        assert pointers(client.post(f"{BASE}/jobs", {"run": {"cmd": "true"}, "build_job": 1})) == ["/build_job"]


class TestUnmanaged:
    BODY = {"is_managed": False, "backend": "other", "ttl": 60, "name": "own", "tags": ["t"]}
    URL = f"{BASE}/builds/1"

    @pytest.fixture(autouse=True)
    def build(self, client):
        response = client.post(f"{BASE}/builds", self.BODY)
        assert response.status_code == 201, response.text
        return response.json

    def report(self, client, *statuses):
        for status in statuses:
            response = client.post(f"{self.URL}/statuses", {"status": status, "message": "m"})
            assert response.status_code == 201, response.text
        return response.json

    def test_unmanaged_build_has_an_optional_config(self, client, build):
        assert build.keys() == DETAIL
        assert build | {"is_managed": False, "last_status": "created", "key": "", "reason": None} == build
        with_config = client.post(f"{BASE}/builds", self.BODY | {"content": json.dumps(BUILD)}).json
        assert with_config | {"is_managed": False, "config": CONFIG, "dockerfile": None} == with_config
        assert client.get(f"{BASE}/builds?query=is_managed:false").json["count"] == 2

    def test_unmanaged_build_changes_to_posted_statuses(self, client):
        response = self.report(client, "scheduled", "running", "succeeded")
        assert (response["status"], response["message"], response["build"]) == ("succeeded", "m", 1)
        assert self.report(client, "running")["status"] == "succeeded"
        build = client.get(self.URL).json
        assert build["last_status"] == "succeeded"
        assert build["started_at"] < build["finished_at"]

    def test_unmanaged_build_is_reconciled(self, client):
        assert client.post(f"{self.URL}/_reconcile", {"status": "failed"}).status_code == 200
        last = client.get(f"{self.URL}/statuses").json["results"][-1]
        assert (last["status"], last["message"]) == ("failed", "Status was reconciled.")

    @pytest.mark.parametrize("path", ["statuses", "_reconcile"])
    def test_unknown_status_is_refused(self, client, path):
        assert pointers(client.post(f"{self.URL}/{path}", {"status": "finished"})) == ["/status"]

    def test_unmanaged_build_accepts_logs_until_done(self, client):
        for line in ("one", "two"):
            assert client.post(f"{self.URL}/logs", line).status_code == 200
        self.report(client, "succeeded")
        assert client.post(f"{self.URL}/logs", "three").status_code == 200
        assert client.get(f"{self.URL}/logs").data == b"one\ntwo\n"

    def test_code_reference_is_a_note(self, client):
        response = client.post(f"{self.URL}/coderef", {"commit": "c0ffee", "branch": "b", "is_dirty": None})
        assert (response.status_code, response.json["commit"]) == (201, "c0ffee")
        assert client.get(self.URL).json["notes"] == [
            {"kind": "code", "text": "The build reported its code: b, c0ffee."}
        ]

    @pytest.mark.parametrize(("method", "path", "shown"), [("POST", "/stop", 200), ("DELETE", "", 404)])
    def test_unmanaged_build_stops_at_once(self, client, method, path, shown):
        self.report(client, "running")
        assert client.call(method, f"{self.URL}{path}").status_code < 300
        assert client.get(self.URL).status_code == shown
        assert (Build.get_by_id(1).status, Build.get_by_id(1).finished_at is None) == (Status.STOPPED, False)

    def test_managed_job_cannot_use_an_unmanaged_build(self, client):
        self.report(client, "succeeded")
        job = {"run": {"cmd": "true"}, "build_job": 1}
        response = client.post(f"{BASE}/jobs", job)
        assert pointers(response) == ["/build_job"]
        assert "polyjob did not make it" in response.json["detail"]
        assert client.post(f"{BASE}/jobs", job | {"is_managed": False}).json["build_job"] == "ana.demo.builds.1"


class TestReports:
    def test_statuses_of_a_managed_build_are_ignored(self, client, make):
        make()
        for path in ("statuses", "_reconcile"):
            response = client.post(f"{BASE}/builds/1/{path}", {"status": "succeeded"})
            assert response.status_code in (200, 201), response.text
        assert client.get(f"{BASE}/builds/1/statuses").json["count"] == 1

    def test_stopped_status_from_a_person_requests_a_stop(self, client, make):
        make()
        assert client.post(f"{BASE}/builds/1/statuses", {"status": "stopped"}).json["status"] == "created"
        assert Build.get_by_id(1).stop_at is not None

    def test_logs_of_a_managed_build_are_dropped(self, client, make):
        make()
        assert client.post(f"{BASE}/builds/1/logs", "mine").status_code == 200
        assert client.get(f"{BASE}/builds/1/logs").data == b""
