"""The machine as a cluster, and reconciliation of statuses."""

from __future__ import annotations

import dataclasses
import os

import pytest

from polyjob.app import create_app
from polyjob.auth import users
from polyjob.db.models import Meta
from polyjob.statuses import Status

from .conftest import JOBS, Client, move_job, pointers


def test_cluster_has_one_node(admin):
    cluster = admin.get("/api/v1/cluster/").json
    assert cluster["uuid"] == Meta.get_by_id("installation").value
    assert all(isinstance(value, str) for value in cluster["version_api"].values())
    (node,) = cluster["nodes"]
    assert node["memory"] > 1 << 28
    assert node["cpu"] == len(os.sched_getaffinity(0))
    assert admin.get("/api/v1/cluster/nodes").json["results"] == [node]
    full = admin.get("/api/v1/nodes/1").json
    assert node.items() <= full.items()
    assert full["kernel_version"] == os.uname().release
    assert admin.get("/api/v1/nodes/1/gpus").json["results"] == []
    assert admin.get("/api/v1/nodes/2").status_code == 404


@pytest.mark.parametrize("gpus", [(), (0,), (0, 3)])
def test_usable_gpus_are_listed(settings, user, project, gpus):
    app = create_app(dataclasses.replace(settings, gpus=gpus))
    admin = Client(app, users.create_token(users.create("eva", is_admin=True), "t")[1])
    assert admin.get("/api/v1/cluster").json["nodes"][0]["n_gpus"] == len(gpus)
    node = admin.get("/api/v1/nodes/1").json
    listed = admin.get("/api/v1/nodes/1/gpus").json
    assert (listed["count"], [gpu["index"] for gpu in listed["results"]]) == (len(gpus), list(gpus))
    assert node["gpus"] == listed["results"]
    assert {gpu["cluster_node"] for gpu in node["gpus"]} <= {node["uuid"]}
    assert admin.get("/api/v1/nodes/1/gpus?offset=1&limit=1").json["results"] == listed["results"][1:2]


@pytest.mark.parametrize("path", ["cluster", "cluster/nodes", "nodes/1", "nodes/1/gpus"])
def test_cluster_is_for_administrators(client, anonymous, path):
    assert client.get(f"/api/v1/{path}").status_code == 403
    assert anonymous.get(f"/api/v1/{path}").status_code == 401


class TestReconcile:
    def test_reconcile_sets_the_status_of_an_unmanaged_job(self, client):
        client.post(JOBS, {"is_managed": False})
        response = client.post(f"{JOBS}/1/_reconcile", {"status": "succeeded", "created_at": None})
        assert (response.status_code, response.data) == (200, b"")
        last = client.get(f"{JOBS}/1/statuses").json["results"][-1]
        assert (last["status"], last["message"]) == ("succeeded", "Status was reconciled.")

    def test_reconcile_ignores_managed_and_done_jobs(self, client):
        client.submit()
        client.post(f"{JOBS}/1/_reconcile", {"status": "failed"})
        assert client.get(f"{JOBS}/1").json["last_status"] == "created"
        move_job(1, Status.STOPPED)
        client.post(f"{JOBS}/1/_reconcile", {"status": "failed"})
        assert client.get(f"{JOBS}/1").json["last_status"] == "stopped"

    def test_reconcile_needs_a_status(self, client):
        client.submit()
        assert pointers(client.post(f"{JOBS}/1/_reconcile", {"status": "finished"})) == ["/status"]


class TestCapacity:
    PATH = "/api/v1/cluster/capacity"

    @pytest.fixture
    def admin(self, settings, user, project):
        app = create_app(dataclasses.replace(settings, gpus=(0, 1)))
        return Client(app, users.create_token(users.create("eva", is_admin=True), "t")[1])

    def test_capacity_is_shown_with_defaults_and_use(self, admin):
        slots = {"value": 2, "default": 2, "is_default": True, "used": 0}
        gpus = {"value": [0, 1], "default": [0, 1], "is_default": True, "used": []}
        assert admin.get(self.PATH).json == {"slots": {"fake": slots}, "gpus": gpus}

    def test_changed_capacity_is_marked(self, admin):
        changed = admin.patch(self.PATH, {"slots": {"fake": 0}, "gpus": [1]})
        assert changed.status_code == 200
        assert changed.json == admin.get(self.PATH).json
        assert changed.json["slots"]["fake"] == {"value": 0, "default": 2, "is_default": False, "used": 0}
        assert (changed.json["gpus"]["value"], changed.json["gpus"]["is_default"]) == ([1], False)
        assert [gpu["index"] for gpu in admin.get("/api/v1/nodes/1/gpus").json["results"]] == [1]
        entry = admin.get("/api/v1/audit?kind=server").json["results"][0]
        assert (entry["user"], entry["action"], entry["details"]["slots"]) == ("eva", "update", {"fake": 0})

    def test_null_restores_the_default(self, admin):
        admin.patch(self.PATH, {"slots": {"fake": 7}, "gpus": []})
        assert admin.patch(self.PATH, {"slots": {"fake": None}, "gpus": None}).json["slots"]["fake"]["is_default"]
        admin.patch(self.PATH, {"slots": {"fake": 7}})
        assert admin.patch(self.PATH, {"slots": None}).json["slots"]["fake"]["value"] == 2

    def test_job_without_slots_says_so(self, admin):
        admin.patch(self.PATH, {"slots": {"fake": 0}})
        assert "0 slots" in admin.submit()["waiting"]

    @pytest.mark.parametrize(
        ("body", "pointer"),
        [
            ({"slots": {"docker": 1}}, "/slots/docker"),
            ({"slots": {"fake": -1}}, "/slots/fake"),
            ({"slots": {"fake": "4"}}, "/slots/fake"),
            ({"slots": {"fake": 10_001}}, "/slots/fake"),
            ({"slots": 4}, "/slots"),
            ({"gpus": [0, -1]}, "/gpus/1"),
            ({"gpus": ["a"]}, "/gpus/0"),
            ({"gpus": "0,1"}, "/gpus"),
            ({"gpus": list(range(257))}, "/gpus"),
        ],
    )
    def test_invalid_capacity_is_refused(self, admin, body, pointer):
        assert pointers(admin.patch(self.PATH, body)) == [pointer]
        assert admin.get(self.PATH).json["slots"]["fake"]["is_default"]

    def test_capacity_is_for_administrators(self, client, anonymous):
        for method in ("GET", "PATCH"):
            assert client.call(method, self.PATH).status_code == 403
            assert anonymous.call(method, self.PATH).status_code == 401
