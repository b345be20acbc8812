"""Jobs: create, list, get, wait, update, stop, delete, bookmark, query."""

from __future__ import annotations

import json
import re
import time

import pytest

from polyjob.db.database import database
from polyjob.db.models import Bookmark, Build, Job, JobStatus, Upload
from polyjob.statuses import Status

from ..background import soon
from .conftest import BASE, CONFIG, JOBS, move_job, now, pointers, write
from .helpers import JOB_FIELDS, JOB_ROW_FIELDS

INSTANT = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}\+00:00")


@pytest.fixture
def queries(monkeypatch):
    """The SQL statements that the application executes."""
    sent = []
    execute = database.execute_sql
    monkeypatch.setattr(database, "execute_sql", lambda sql, *rest: sent.append(sql) or execute(sql, *rest))
    return sent


class TestCreate:
    def test_response_has_all_fields_of_the_job(self, client):
        response = client.post(JOBS, {"config": CONFIG, "name": "n", "description": "d", "tags": ["t"], "ttl": 10})
        assert response.status_code == 201
        job = response.json
        assert job.keys() == JOB_FIELDS
        row = Job.get()
        assert job | {
            "id": row.id, "uuid": row.uuid, "name": "n", "unique_name": f"ana.demo.jobs.{row.id}", "user": "ana",
            "pod_id": f"plx-job-{row.uuid}", "description": "d", "last_status": "created", "tags": ["t"], "ttl": 10,
            "project": "ana.demo", "build_job": None, "original": None, "cloning_strategy": None, "is_clone": False,
            "backend": "fake", "is_managed": True, "in_cluster": True, "bookmarked": False, "node_scheduled": None,
            "started_at": None, "finished_at": None, "config": CONFIG, "resources": None, "readme": None,
            "data_refs": None, "params": None, "commit": None, "exit": None, "exit_code": None, "notes": [],
            "queue_position": 1,
        } == job  # fmt: skip
        assert json.loads(job["content"]) == CONFIG
        assert INSTANT.fullmatch(job["created_at"])
        assert job["waiting"]
        assert (row.config, row.status, row.ttl) == (CONFIG, Status.CREATED, 10)

    def test_submit_takes_few_statements(self, client, queries):
        client.submit()
        queries.clear()
        client.submit()
        writes = [sql.split()[2].strip('"') for sql in queries if sql.startswith("INSERT")]
        assert writes == ["job", "job_status", "audit"]
        assert len(queries) == 7

    def test_urls_work(self, client):
        urls = client.submit()["urls"]
        assert client.get(urls["self"]).json["unique_name"] == "ana.demo.jobs.1"
        for name in ("statuses", "logs", "outputs"):
            assert client.get(urls[name]).status_code == 200
        assert urls["page"] == "http://localhost/ana/demo/jobs/1"

    def test_config_can_be_text(self, client):
        text = json.dumps(CONFIG, indent=1)
        job = client.post(JOBS, {"content": text, "config": None}).json
        assert (job["content"], job["config"]) == (text, CONFIG)

    def test_sections_of_the_config_can_be_members_of_the_body(self, client):
        body = {"build": {"image": "python:3", "build_steps": ["true"]}, "run": {"cmd": "true"}, "name": "n"}
        job = client.post(JOBS, body).json
        assert job["config"] == {"version": 1, "kind": "job", "build": body["build"], "run": body["run"]}
        assert job["name"] == "n"

    def test_unknown_members_of_old_clients_are_ignored(self, client):
        nulls = dict.fromkeys(JOB_FIELDS | {"definition", "total_run", "content", "in_cluster", "is_managed", "merge"})
        job = client.post(JOBS, nulls | {"config": CONFIG, "last_status": "running", "id": 99, "run_env": {}}).json
        assert (job["id"], job["last_status"], job["is_managed"]) == (1, "created", True)

    def test_json_without_media_type_is_accepted(self, client):
        for kind in ("application/x-www-form-urlencoded", None, "application/vnd.api+json"):
            response = client.post(JOBS, data=json.dumps({"config": CONFIG}), content_type=kind)
            assert response.status_code == 201, kind
        assert client.post(JOBS, data={"content": json.dumps(CONFIG), "name": "form"}).json["name"] == "form"

    def test_job_is_in_the_database_before_the_response(self, client):
        assert client.post(JOBS, {"config": CONFIG}).status_code == 201
        assert [row.status for row in JobStatus.select()] == [Status.CREATED]

    @pytest.mark.parametrize(
        ("requested", "shown"),
        [
            ({"pids": {"limits": 50}}, None),
            ({"pids": {"limits": 50}, "cpu": {"limits": 1}}, {"cpu": {"limits": 1}}),
            ({"limits": {"pids": 50, "memory": "1Mi"}}, {"memory": {"limits": 1}}),
        ],
    )
    def test_resources_unknown_to_old_clients_are_hidden(self, client, requested, shown):
        job = client.submit(environment={"resources": requested})
        assert job["resources"] == client.get(f"{JOBS}/1").json["resources"]
        assert {k: {b: n for b, n in v.items() if n is not None} for k, v in (job["resources"] or {}).items()} == (
            shown or {}
        )
        assert job["config"]["environment"]["resources"]["pids"]["limits"] == 50

    def test_resources_are_normalized(self, client):
        job = client.submit(environment={"resources": {"limits": {"cpu": "500m", "memory": "1Gi"}}})
        assert job["resources"] == {
            "cpu": {"limits": 0.5, "requests": None},
            "memory": {"limits": 1024, "requests": None},
        }

    @pytest.mark.parametrize("body", [{}, {"config": None}, {"content": None, "name": None}])
    def test_managed_job_needs_a_config(self, client, body):
        assert pointers(client.post(JOBS, body)) == ["/content"]
        assert Job.select().count() == 0

    def test_unmanaged_job_needs_no_config(self, client):
        job = client.post(JOBS, {"is_managed": False}).json
        assert (job["config"], job["content"], job["queue_position"], job["waiting"]) == (None, None, None, None)
        assert client.post(JOBS, {"in_cluster": False}).json["is_managed"] is False

    @pytest.mark.parametrize(
        ("body", "expected"),
        [
            ({"config": {"run": {"cmd": 3}, "foo": 1}}, ["/config/run/cmd", "/config/foo"]),
            ({"content": '{"run": {"cmd": 3}}'}, ["/content/run/cmd"]),
            ({"content": "bar"}, ["/content"]),
            ({"content": {"run": {"cmd": "a"}}}, ["/content"]),
            ({"config": "bar"}, ["/config"]),
            ({"build": {"image": "a"}, "runn": {"cmd": "a"}}, ["/run", "/runn"]),
            ({"run": {"cmd": ""}}, ["/run/cmd"]),
            ({"config": CONFIG, "ttl": "foo"}, ["/ttl"]),
            ({"config": CONFIG, "ttl": 1 << 70}, ["/ttl"]),
            ({"config": CONFIG, "name": "a b"}, ["/name"]),
            ({"config": CONFIG, "tags": [1]}, ["/tags/0"]),
            ({"config": CONFIG, "tags": ["x" * 65]}, ["/tags/0"]),
            ({"config": CONFIG, "description": {}}, ["/description"]),
            ({"config": CONFIG, "description": "a\0"}, ["/description"]),
            ({"config": CONFIG, "is_managed": "maybe"}, ["/is_managed"]),
            ({"config": CONFIG, "build_job": 7}, ["/build_job"]),
            ({"config": CONFIG, "build_job": []}, ["/build_job"]),
            ({"config": {"run": {}}, "name": "a b", "ttl": "x"}, ["/name", "/ttl", "/config/run/cmd"]),
        ],
    )
    def test_all_problems_are_listed_and_no_job_is_created(self, client, body, expected):
        assert sorted(pointers(client.post(JOBS, body))) == sorted(expected)
        assert Job.select().count() == 0

    def test_lone_surrogate_is_refused(self, client):
        response = client.post(
            JOBS, data=b'{"run": {"cmd": "\\ud800"}, "name": "\\udfff"}', content_type="application/json"
        )
        assert sorted(pointers(response)) == ["/name", "/run/cmd"]

    def test_messages_are_grouped_by_field_for_old_clients(self, client):
        body = {"config": {"run": {"cmd": 3}}, "ttl": "foo"}
        response = client.post(JOBS, body, headers={"Accept": "*/*"}).json
        assert response["ttl"] == ["ttl must be an integer."]
        assert response["config"][0].startswith("run.cmd: ")
        assert "ttl must be an integer." in response["detail"]

    def test_taken_name_is_refused(self, client):
        assert client.post(JOBS, {"config": CONFIG, "name": "n"}).status_code == 201
        response = client.post(JOBS, {"config": CONFIG, "name": "n"})
        assert pointers(response) == ["/name"]
        assert "`n`" in response.json["detail"]

    def test_job_uses_the_latest_upload(self, client, project, user):
        with write("test"):
            code = Upload.create(project=project, user=user, digest="c" * 64, size=1, files={}, created_at=now())
            type(project).update(code=code).execute()
        assert client.submit()["commit"] == "c" * 64


class TestList:
    def test_jobs_are_listed_last_changed_first(self, client):
        for _ in range(3):
            client.submit()
        move_job(1, Status.SCHEDULED)
        response = client.get(JOBS).json
        assert (response["count"], response["next"], response["previous"]) == (3, None, None)
        assert [job["id"] for job in response["results"]] == [1, 3, 2]
        assert all(job.keys() == JOB_ROW_FIELDS for job in response["results"])
        assert response["results"][0]["started_at"] == client.get(f"{JOBS}/1").json["started_at"]

    def test_links_lead_through_all_pages(self, client):
        for _ in range(5):
            client.submit()
        first = client.get(f"{JOBS}?limit=2&x=%20y").json
        second = client.get(first["next"]).json
        third = client.get(second["next"]).json
        assert [job["id"] for page in (first, second, third) for job in page["results"]] == [5, 4, 3, 2, 1]
        assert (third["next"], first["previous"]) == (None, None)
        assert "x=+y" in first["next"]
        assert client.get(third["previous"]).json == second
        assert "offset" not in second["previous"]
        assert client.get(second["previous"]).json["results"] == first["results"]

    @pytest.mark.parametrize(
        "query", ["limit=0", "limit=-1", "limit=x", "offset=-3", "offset=x", "limit=" + "9" * 5000, "limit=٣"]
    )
    def test_invalid_limit_and_offset_are_ignored(self, client, query):
        for _ in range(21):
            client.submit()
        response = client.get(f"{JOBS}?{query}").json
        assert (len(response["results"]), response["count"]) == (20, 21)

    def test_page_after_the_end_is_empty(self, client):
        client.submit()
        response = client.get(f"{JOBS}?offset=999999999999999").json
        assert (response["results"], response["count"], response["next"]) == ([], 1, None)

    def test_page_size_is_limited(self, client, monkeypatch):
        monkeypatch.setattr("polyjob.api.paging.MAX_PAGE_SIZE", 2)
        for _ in range(3):
            client.submit()
        assert len(client.get(f"{JOBS}?limit=100000").json["results"]) == 2

    def test_list_needs_a_constant_number_of_queries(self, client, queries):
        client.submit()
        client.get(JOBS)
        queries.clear()
        client.get(JOBS)
        for_one = len(queries)
        for _ in range(15):
            client.post(JOBS, {"config": CONFIG, "tags": ["a"]})
        client.post(f"{JOBS}/1/restart")
        queries.clear()
        assert len(client.get(JOBS).json["results"]) == 17
        assert len(queries) == for_one
        assert not any('"config"' in sql or '"content"' in sql for sql in queries)

    def test_only_jobs_of_the_project_are_listed(self, client):
        client.submit()
        client.post("/api/v1/projects", {"name": "second"})
        assert client.get("/api/v1/ana/second/jobs").json["count"] == 0
        assert client.get("/api/v1/ana/second/jobs/1").status_code == 404


class TestGet:
    def test_exit_is_shown(self, client):
        client.submit()
        end = {"reason": "signalled", "code": 137, "signal": 9, "max_rss": 4096, "cpu_seconds": 0.5}
        notes = [{"kind": "build.image", "text": "It was not used."}]
        move_job(
            1, Status.SCHEDULED, Status.RUNNING, Status.FAILED, exit=end, exit_code=137, node="host-a", notes=notes
        )
        job = client.get(f"{JOBS}/1").json
        assert job["exit"] == end | {"stragglers": [], "message": None}
        assert (job["exit_code"], job["node_scheduled"], job["notes"]) == (137, "host-a", notes)
        assert job["started_at"] < job["finished_at"] <= job["updated_at"]
        assert all(INSTANT.fullmatch(job[name]) for name in ("started_at", "finished_at", "updated_at"))

    def test_build_and_waiting_reason_are_shown(self, client, project, user):
        client.submit()
        values = {"project": project, "user": user, "created_at": now(), "updated_at": now()}
        with write("test"):
            build = Build.create(uuid="b" * 32, config={}, runner="fake", key="k", key_parts={}, **values)
        move_job(1, Status.SCHEDULED, Status.BUILDING, build=build)
        job = client.get(f"{JOBS}/1").json
        assert job["build_job"] == f"ana.demo.builds.{build.id}"
        assert job["build_job"] in job["waiting"]
        assert client.get(JOBS).json["results"][0]["build_job"] == job["build_job"]

    def test_queue_position_is_shown(self, client):
        client.submit()
        client.submit()
        assert client.get(f"{JOBS}/2").json["queue_position"] == 2
        assert "1 job is ahead" in client.get(f"{JOBS}/2").json["waiting"]


class TestWait:
    def test_wait_for_a_done_job_returns_at_once(self, client):
        client.submit()
        move_job(1, Status.STOPPED)
        begin = time.monotonic()
        assert client.get(f"{JOBS}/1?wait=30").json["last_status"] == "stopped"
        assert time.monotonic() - begin < 5

    def test_wait_returns_when_the_job_is_done(self, client, watcher):
        client.submit()
        begin = time.monotonic()
        with soon(lambda: move_job(1, Status.STOPPED)):
            assert client.get(f"{JOBS}/1?wait=30").json["last_status"] == "stopped"
        assert 0.2 < time.monotonic() - begin < 10
        watcher.close()

    def test_wait_ends_after_its_time(self, client):
        client.submit()
        begin = time.monotonic()
        assert client.get(f"{JOBS}/1?wait=0.2").json["last_status"] == "created"
        assert 0.15 < time.monotonic() - begin < 10

    def test_wait_for_a_deleted_job_returns_404(self, client):
        client.submit()
        headers = dict(client.headers)
        with soon(lambda: client.delete(f"{JOBS}/1", headers=headers)):
            assert client.get(f"{JOBS}/1?wait=30").status_code == 404

    @pytest.mark.parametrize("wait", ["x", "-1", "nan", ""])
    def test_invalid_wait_is_refused(self, client, wait):
        client.submit()
        assert pointers(client.get(f"{JOBS}/1?wait={wait}")) == ["wait"]


class TestUpdate:
    @pytest.mark.parametrize("method", ["PATCH", "PUT"])
    def test_fields_can_be_updated(self, client, method):
        client.submit()
        changes = {"description": "new", "name": "n", "readme": "r", "tags": ["a"], "data_refs": {"d": "1"}}
        response = client.call(method, f"{JOBS}/1", changes | {"last_status": "succeeded", "id": 5, "user": "x"})
        assert response.status_code == 200
        assert response.json | changes == response.json == client.get(f"{JOBS}/1").json
        assert (response.json["last_status"], response.json["id"], response.json["user"]) == ("created", 1, "ana")

    def test_missing_fields_are_not_changed(self, client):
        client.post(JOBS, {"config": CONFIG, "description": "d", "tags": ["t"]})
        assert client.patch(f"{JOBS}/1", {"name": "n"}).json["description"] == "d"
        assert client.patch(f"{JOBS}/1", {"description": None}).json["description"] is None

    def test_tags_can_be_merged(self, client):
        client.post(JOBS, {"config": CONFIG, "tags": ["a", "b"]})
        assert client.patch(f"{JOBS}/1", {"tags": ["b", "c"], "merge": True}).json["tags"] == ["a", "b", "c"]
        assert client.patch(f"{JOBS}/1", {"tags": ["z"]}).json["tags"] == ["z"]

    @pytest.mark.parametrize("field", ["data_refs", "params"])
    def test_objects_are_merged_by_key(self, client, field):
        client.submit()
        assert client.patch(f"{JOBS}/1", {field: {"a": "1", "b": "2"}}).json[field] == {"a": "1", "b": "2"}
        merged = client.patch(f"{JOBS}/1", {field: {"b": "3", "c": "4"}, "merge": True}).json
        assert merged[field] == {"a": "1", "b": "3", "c": "4"}
        assert client.patch(f"{JOBS}/1", {field: {"z": None}}).json[field] == {"z": None}
        assert client.patch(f"{JOBS}/1", {field: None}).json[field] is None

    def test_params_are_merged_with_those_of_the_config(self, client):
        client.submit(params={"lr": 1, "steps": 5})
        assert client.get(f"{JOBS}/1").json["params"] == {"lr": 1, "steps": 5}
        assert client.patch(f"{JOBS}/1", {"params": {"lr": 2}, "merge": True}).json["params"] == {"lr": 2, "steps": 5}
        assert client.patch(f"{JOBS}/1", {"params": {"lr": 3}}).json["params"] == {"lr": 3}

    @pytest.mark.parametrize("method", ["POST", "PATCH"])
    def test_data_refs_can_be_a_list_of_names(self, client, method):
        client.submit()
        path = JOBS if method == "POST" else f"{JOBS}/1"
        job = client.call(method, path, {"config": CONFIG, "data_refs": ["a", "b", "a"]}).json
        assert job["data_refs"] == {"a": None, "b": None}

    @pytest.mark.parametrize("wrong", ["x", 3, [3], [["a"]], {"a": ["b"]}, {"a": True}])
    def test_invalid_data_refs_are_refused(self, client, wrong):
        client.submit()
        assert pointers(client.patch(f"{JOBS}/1", {"data_refs": wrong}))[0].startswith("/data_refs")

    @pytest.mark.parametrize("field", ["data_refs", "params"])
    def test_merged_objects_are_limited(self, client, field):
        client.submit()
        for start in (0, 600):
            many = {f"k{number}": 1 for number in range(start, start + 600)}
            response = client.patch(f"{JOBS}/1", {field: many, "merge": True})
        assert pointers(response) == [f"/{field}"]
        assert pointers(client.patch(f"{JOBS}/1", {field: {"a": "x" * 100_000}})) == [f"/{field}"]
        assert pointers(client.post(JOBS, {"is_managed": False, field: {"a": "x" * 100_000}})) == [f"/{field}"]
        assert len(client.get(f"{JOBS}/1").json[field]) == 600

    @pytest.mark.parametrize(
        "unknown",
        [
            {"params": {"a b": 1}},
            {"inputs": [{"name": 3}]},
            {"environment": {"resources": {"cpu": "many"}}},
            {"build": {"image": "other"}},
            {"framework": "torch", "run_env": {"os": "linux"}, "is_managed": False, "ttl": "never"},
        ],
    )
    def test_unknown_keys_are_ignored(self, client, unknown):
        client.submit()
        response = client.patch(f"{JOBS}/1", unknown | {"description": "new"})
        assert (response.status_code, response.json["description"], response.json["config"]) == (200, "new", CONFIG)

    def test_update_accepts_a_config_by_sections(self, client):
        client.submit()
        sent = {"run": {"cmd": "echo {{ a }}"}, "params": {"a": 1}, "description": "new"}
        job = client.patch(f"{JOBS}/1", sent).json
        assert (job["config"]["run"]["cmd"], job["params"], job["description"]) == ("echo 1", {"a": 1}, "new")

    def test_original_can_be_set(self, client):
        client.submit()
        client.submit()
        job = client.patch(f"{JOBS}/2", {"original_job": 1}).json
        assert (job["original"], job["is_clone"]) == ("ana.demo.jobs.1", True)

    def test_config_of_a_queued_job_can_be_updated(self, client):
        client.submit()
        job = client.patch(f"{JOBS}/1", {"content": '{"run": {"cmd": "other"}}'}).json
        assert (job["config"]["run"]["cmd"], Job.get().config["run"]["cmd"]) == ("other", "other")

    def test_config_of_a_scheduled_job_cannot_be_updated(self, client):
        client.submit()
        move_job(1, Status.SCHEDULED)
        assert pointers(client.patch(f"{JOBS}/1", {"content": '{"run": {"cmd": "other"}}', "name": "n"})) == [
            "/content"
        ]
        assert (Job.get().config, Job.get().name) == (CONFIG, None)

    def test_problems_of_an_update_are_listed(self, client):
        client.submit()
        wrong = {"name": "a b", "tags": 3, "config": {"run": {}}}
        assert sorted(pointers(client.patch(f"{JOBS}/1", wrong))) == ["/config/run/cmd", "/name", "/tags"]


class TestStopAndDelete:
    def test_stop_ends_a_queued_job(self, client):
        client.submit()
        response = client.post(f"{JOBS}/1/stop")
        assert (response.status_code, response.data) == (200, b"")
        assert client.get(f"{JOBS}/1").json["last_status"] == "stopped"

    def test_stop_can_wait_for_the_end(self, client):
        client.submit()
        move_job(1, Status.SCHEDULED, Status.RUNNING)
        with soon(lambda: move_job(1, Status.STOPPED)):
            response = client.post(f"{JOBS}/1/stop?wait=30")
        assert (response.status_code, response.data) == (200, b"")
        assert client.get(f"{JOBS}/1").json["last_status"] == "stopped"
        assert pointers(client.post(f"{JOBS}/1/stop?wait=soon")) == ["wait"]

    def test_stop_of_a_running_job_is_requested(self, client, user):
        client.submit()
        move_job(1, Status.SCHEDULED, Status.RUNNING)
        assert client.post(f"{JOBS}/1/stop").status_code == 200
        assert (Job.get().stop_kind, Job.get().stop_by) == ("person", user)

    def test_stop_of_a_done_job_has_no_effect(self, client):
        client.submit()
        version = move_job(1, Status.SCHEDULED, Status.RUNNING, Status.SUCCEEDED).version
        for _ in range(2):
            assert client.post(f"{JOBS}/1/stop").status_code == 200
        assert (Job.get().status, Job.get().version) == (Status.SUCCEEDED, version)

    def test_deleted_job_is_hidden_at_once(self, client):
        client.submit()
        client.submit()
        response = client.delete(f"{JOBS}/1")
        assert (response.status_code, response.data) == (204, b"")
        for path in ("", "/statuses", "/logs", "/outputs"):
            assert client.get(f"{JOBS}/1{path}").status_code == 404
        assert client.delete(f"{JOBS}/1").status_code == 404
        assert client.get(JOBS).json["count"] == 1
        assert Job.get_by_id(1).deleted_at is not None


class TestBookmarks:
    def test_bookmark_is_set_and_removed(self, client):
        client.submit()
        for _ in range(2):
            response = client.post(f"{JOBS}/1/bookmark", content_type="application/json")
            assert (response.status_code, response.data) == (201, b"")
        assert Bookmark.select().count() == 1
        assert client.get(f"{JOBS}/1").json["bookmarked"] is True
        assert client.get(JOBS).json["results"][0]["bookmarked"] is True
        for _ in range(2):
            response = client.delete(f"{JOBS}/1/unbookmark", content_type="application/json")
            assert (response.status_code, response.data) == (204, b"")
        assert client.get(f"{JOBS}/1").json["bookmarked"] is False

    def test_missing_bookmark_is_not_found(self, client):
        client.submit()
        assert client.delete(f"{JOBS}/1/unbookmark").status_code == 404


def test_project_is_looked_up_before_the_body_is_read(client):
    assert client.post("/api/v1/ana/other/jobs", {"config": 3}).status_code == 404
    assert client.patch(f"{JOBS}/7", {"name": "a b"}).status_code == 404
    assert client.get(f"{BASE}/nothing").status_code == 404


class TestQueries:
    @pytest.fixture
    def three(self, client):
        for name, tags in (("a", ["x"]), ("b", ["x", "y"]), ("c", None)):
            client.submit(name=name, tags=tags)
        move_job(2, Status.STOPPED)

    def names(self, client, **parameters):
        response = client.get(JOBS, query_string=parameters)
        assert response.status_code == 200, response.text
        assert response.json["count"] >= len(response.json["results"])
        return "".join(job["name"] for job in response.json["results"])

    def test_jobs_are_filtered_and_sorted(self, client, three):
        assert self.names(client, sort="created_at") == "abc"
        assert self.names(client, sort="-created_at") == "cba"
        assert self.names(client, query="status:created", sort="created_at") == "ac"
        assert self.names(client, query="tags:x,status:~stopped") == "a"
        assert self.names(client, query="created_at:<2010-01-01") == ""
        assert self.names(client) == "bca"

    def test_filtered_list_has_pages(self, client, three):
        first = client.get(JOBS, query_string={"query": "tags:x", "sort": "created_at", "limit": 1}).json
        assert (first["count"], first["results"][0]["name"]) == (2, "a")
        second = client.get(first["next"].removeprefix("http://localhost")).json
        assert (second["results"][0]["name"], second["next"]) == ("b", None)

    def test_invalid_query_is_refused(self, client):
        response = client.get(JOBS, query_string={"query": "created_at<2010-01-01"})
        assert response.status_code == 400
        assert response.json["errors"][0]["pointer"] == "/query"
