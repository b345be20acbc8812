"""Jobs over HTTP: every documented call with its effect."""

from __future__ import annotations

import json
import re
import time

import pytest

from polyjob.db.database import database
from polyjob.db.models import Bookmark, Build, Job, JobStatus, Upload
from polyjob.statuses import Status

from ..beside import soon
from .conftest import BASE, CONFIG, JOBS, bring, now, pointers, write

INSTANT = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}\+00:00")
ROW = {
    "id", "uuid", "name", "unique_name", "pod_id", "user", "description", "created_at", "updated_at", "started_at",
    "finished_at", "last_status", "tags", "project", "build_job", "original", "cloning_strategy", "is_clone",
    "backend", "is_managed", "in_cluster", "bookmarked", "node_scheduled", "exit_code", "ttl",
}  # fmt: skip
DETAIL = ROW | {
    "config", "content", "resources", "readme", "data_refs", "params", "commit", "exit", "notes", "reported",
    "queue_position", "waiting", "urls",
}  # fmt: skip


@pytest.fixture
def queries(monkeypatch):
    """The SQL that was sent."""
    sent = []
    execute = database.execute_sql
    monkeypatch.setattr(database, "execute_sql", lambda sql, *rest: sent.append(sql) or execute(sql, *rest))
    return sent


class TestCreate:
    def test_response_has_all_fields_of_the_job(self, client):
        answer = client.post(JOBS, {"config": CONFIG, "name": "n", "description": "d", "tags": ["t"], "ttl": 10})
        assert answer.status_code == 201
        job = answer.json
        assert job.keys() == DETAIL
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
        nulls = dict.fromkeys(DETAIL | {"definition", "total_run", "content", "in_cluster", "is_managed", "merge"})
        job = client.post(JOBS, nulls | {"config": CONFIG, "last_status": "running", "id": 99, "run_env": {}}).json
        assert (job["id"], job["last_status"], job["is_managed"]) == (1, "created", True)

    def test_json_without_media_type_is_accepted(self, client):
        for kind in ("application/x-www-form-urlencoded", None, "application/vnd.api+json"):
            answer = client.post(JOBS, data=json.dumps({"config": CONFIG}), content_type=kind)
            assert answer.status_code == 201, kind
        assert client.post(JOBS, data={"content": json.dumps(CONFIG), "name": "form"}).json["name"] == "form"

    def test_job_is_in_the_database_before_the_response(self, client):
        assert client.post(JOBS, {"config": CONFIG}).status_code == 201
        assert [row.status for row in JobStatus.select()] == [Status.CREATED]

    @pytest.mark.parametrize(
        ("asked", "shown"),
        [
            ({"pids": {"limits": 50}}, None),
            ({"pids": {"limits": 50}, "cpu": {"limits": 1}}, {"cpu": {"limits": 1}}),
            ({"limits": {"pids": 50, "memory": "1Mi"}}, {"memory": {"limits": 1}}),
        ],
    )
    def test_resources_unknown_to_old_clients_are_hidden(self, client, asked, shown):
        job = client.submit(environment={"resources": asked})
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
        answer = client.post(
            JOBS, data=b'{"run": {"cmd": "\\ud800"}, "name": "\\udfff"}', content_type="application/json"
        )
        assert sorted(pointers(answer)) == ["/name", "/run/cmd"]

    def test_messages_are_grouped_by_field_for_old_clients(self, client):
        body = {"config": {"run": {"cmd": 3}}, "ttl": "foo"}
        answer = client.post(JOBS, body, headers={"Accept": "*/*"}).json
        assert answer["ttl"] == ["ttl must be an integer."]
        assert answer["config"][0].startswith("run.cmd: ")
        assert "ttl must be an integer." in answer["detail"]

    def test_taken_name_is_refused(self, client):
        assert client.post(JOBS, {"config": CONFIG, "name": "n"}).status_code == 201
        answer = client.post(JOBS, {"config": CONFIG, "name": "n"})
        assert pointers(answer) == ["/name"]
        assert "`n`" in answer.json["detail"]

    def test_job_uses_the_latest_upload(self, client, project, user):
        with write("test"):
            code = Upload.create(project=project, user=user, digest="c" * 64, size=1, files={}, created_at=now())
            type(project).update(code=code).execute()
        assert client.submit()["commit"] == "c" * 64


class TestList:
    def test_jobs_are_listed_last_changed_first(self, client):
        for _ in range(3):
            client.submit()
        bring(1, Status.SCHEDULED)
        answer = client.get(JOBS).json
        assert (answer["count"], answer["next"], answer["previous"]) == (3, None, None)
        assert [job["id"] for job in answer["results"]] == [1, 3, 2]
        assert all(job.keys() == ROW for job in answer["results"])
        assert answer["results"][0]["started_at"] == client.get(f"{JOBS}/1").json["started_at"]

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
        answer = client.get(f"{JOBS}?{query}").json
        assert (len(answer["results"]), answer["count"]) == (20, 21)

    def test_page_after_the_end_is_empty(self, client):
        client.submit()
        answer = client.get(f"{JOBS}?offset=999999999999999").json
        assert (answer["results"], answer["count"], answer["next"]) == ([], 1, None)

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


class TestDetail:
    def test_exit_is_shown(self, client):
        client.submit()
        end = {"reason": "signalled", "code": 137, "signal": 9, "max_rss": 4096, "cpu_seconds": 0.5}
        notes = [{"kind": "build.image", "text": "It was not used."}]
        bring(1, Status.SCHEDULED, Status.RUNNING, Status.FAILED, exit=end, exit_code=137, node="host-a", notes=notes)
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
        bring(1, Status.SCHEDULED, Status.BUILDING, build=build)
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
        bring(1, Status.STOPPED)
        begin = time.monotonic()
        assert client.get(f"{JOBS}/1?wait=30").json["last_status"] == "stopped"
        assert time.monotonic() - begin < 5

    def test_wait_returns_when_the_job_is_done(self, client, watcher):
        client.submit()
        begin = time.monotonic()
        with soon(lambda: bring(1, Status.STOPPED)):
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
        answer = client.call(method, f"{JOBS}/1", changes | {"last_status": "succeeded", "id": 5, "user": "x"})
        assert answer.status_code == 200
        assert answer.json | changes == answer.json == client.get(f"{JOBS}/1").json
        assert (answer.json["last_status"], answer.json["id"], answer.json["user"]) == ("created", 1, "ana")

    def test_missing_fields_are_not_changed(self, client):
        client.post(JOBS, {"config": CONFIG, "description": "d", "tags": ["t"]})
        assert client.patch(f"{JOBS}/1", {"name": "n"}).json["description"] == "d"
        assert client.patch(f"{JOBS}/1", {"description": None}).json["description"] is None

    def test_merges_tags(self, client):
        client.post(JOBS, {"config": CONFIG, "tags": ["a", "b"]})
        assert client.patch(f"{JOBS}/1", {"tags": ["b", "c"], "merge": True}).json["tags"] == ["a", "b", "c"]
        assert client.patch(f"{JOBS}/1", {"tags": ["z"]}).json["tags"] == ["z"]

    @pytest.mark.parametrize("field", ["data_refs", "params"])
    def test_merges_objects_by_their_keys(self, client, field):
        client.submit()
        assert client.patch(f"{JOBS}/1", {field: {"a": "1", "b": "2"}}).json[field] == {"a": "1", "b": "2"}
        merged = client.patch(f"{JOBS}/1", {field: {"b": "3", "c": "4"}, "merge": True}).json
        assert merged[field] == {"a": "1", "b": "3", "c": "4"}
        assert client.patch(f"{JOBS}/1", {field: {"z": None}}).json[field] == {"z": None}
        assert client.patch(f"{JOBS}/1", {field: None}).json[field] is None

    def test_merges_params_with_those_of_the_config(self, client):
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
            answer = client.patch(f"{JOBS}/1", {field: many, "merge": True})
        assert pointers(answer) == [f"/{field}"]
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
        answer = client.patch(f"{JOBS}/1", unknown | {"description": "new"})
        assert (answer.status_code, answer.json["description"], answer.json["config"]) == (200, "new", CONFIG)

    def test_update_accepts_a_config_by_sections(self, client):
        client.submit()
        sent = {"run": {"cmd": "echo {{ a }}"}, "params": {"a": 1}, "description": "new"}
        job = client.patch(f"{JOBS}/1", sent).json
        assert (job["config"]["run"]["cmd"], job["params"], job["description"]) == ("echo 1", {"a": 1}, "new")

    def test_links_an_original(self, client):
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
        bring(1, Status.SCHEDULED)
        assert pointers(client.patch(f"{JOBS}/1", {"content": '{"run": {"cmd": "other"}}', "name": "n"})) == [
            "/content"
        ]
        assert (Job.get().config, Job.get().name) == (CONFIG, None)

    def test_problems_of_an_update_are_listed(self, client):
        client.submit()
        wrong = {"name": "a b", "tags": 3, "config": {"run": {}}}
        assert sorted(pointers(client.patch(f"{JOBS}/1", wrong))) == ["/config/run/cmd", "/name", "/tags"]


class TestEnds:
    def test_stop_ends_a_queued_job(self, client):
        client.submit()
        answer = client.post(f"{JOBS}/1/stop")
        assert (answer.status_code, answer.data) == (200, b"")
        assert client.get(f"{JOBS}/1").json["last_status"] == "stopped"

    def test_stop_can_wait_for_the_end(self, client):
        client.submit()
        bring(1, Status.SCHEDULED, Status.RUNNING)
        with soon(lambda: bring(1, Status.STOPPED)):
            answer = client.post(f"{JOBS}/1/stop?wait=30")
        assert (answer.status_code, answer.data) == (200, b"")
        assert client.get(f"{JOBS}/1").json["last_status"] == "stopped"
        assert pointers(client.post(f"{JOBS}/1/stop?wait=soon")) == ["wait"]

    def test_stop_of_a_running_job_is_requested(self, client, user):
        client.submit()
        bring(1, Status.SCHEDULED, Status.RUNNING)
        assert client.post(f"{JOBS}/1/stop").status_code == 200
        assert (Job.get().stop_kind, Job.get().stop_by) == ("person", user)

    def test_stop_of_a_done_job_has_no_effect(self, client):
        client.submit()
        version = bring(1, Status.SCHEDULED, Status.RUNNING, Status.SUCCEEDED).version
        for _ in range(2):
            assert client.post(f"{JOBS}/1/stop").status_code == 200
        assert (Job.get().status, Job.get().version) == (Status.SUCCEEDED, version)

    def test_deleted_job_is_hidden_at_once(self, client):
        client.submit()
        client.submit()
        answer = client.delete(f"{JOBS}/1")
        assert (answer.status_code, answer.data) == (204, b"")
        for path in ("", "/statuses", "/logs", "/outputs"):
            assert client.get(f"{JOBS}/1{path}").status_code == 404
        assert client.delete(f"{JOBS}/1").status_code == 404
        assert client.get(JOBS).json["count"] == 1
        assert Job.get_by_id(1).deleted_at is not None


class TestClones:
    @pytest.fixture
    def done(self, client):
        client.post(JOBS, {"config": CONFIG, "description": "d", "tags": ["t"]})
        bring(1, Status.SCHEDULED, Status.RUNNING, Status.SUCCEEDED)

    @pytest.mark.parametrize("verb", ["restart", "resume", "copy"])
    def test_clone_has_the_same_config(self, client, done, verb):
        answer = client.post(f"{JOBS}/1/{verb}/")
        assert answer.status_code == 201
        job = answer.json
        assert job.keys() == DETAIL
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
        bring(1, Status.SCHEDULED, Status.RUNNING, Status.SUCCEEDED)
        answer = client.post(f"{JOBS}/1/{verb}", body)
        assert (answer.status_code, answer.json["config"]) == (201, CONFIG)

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
        answer = client.post(f"{JOBS}/1/restart", {"update_code": "maybe"})
        assert answer.json["detail"] == "/update_code: update_code should be a boolean"

    @pytest.mark.parametrize(("verb", "status"), [("restart", 201), ("resume", 400), ("copy", 400)])
    def test_clone_of_a_job_that_is_not_done(self, client, verb, status):
        client.submit()
        answer = client.post(f"{JOBS}/1/{verb}", {})
        assert answer.status_code == status
        if status == 400:
            assert "done" in answer.json["errors"][0]["detail"]

    def test_update_code_uses_the_latest_upload(self, client, done, project, user):
        with write("test"):
            code = Upload.create(project=project, user=user, digest="c" * 64, size=1, files={}, created_at=now())
            type(project).update(code=code).execute()
        assert client.post(f"{JOBS}/1/restart", {"update_code": "true"}).json["commit"] == "c" * 64
        assert client.post(f"{JOBS}/1/restart", {"update_code": False}).json["commit"] is None


class TestBookmarks:
    def test_bookmark_is_set_and_removed(self, client):
        client.submit()
        for _ in range(2):
            answer = client.post(f"{JOBS}/1/bookmark", content_type="application/json")
            assert (answer.status_code, answer.data) == (201, b"")
        assert Bookmark.select().count() == 1
        assert client.get(f"{JOBS}/1").json["bookmarked"] is True
        assert client.get(JOBS).json["results"][0]["bookmarked"] is True
        for _ in range(2):
            answer = client.delete(f"{JOBS}/1/unbookmark", content_type="application/json")
            assert (answer.status_code, answer.data) == (204, b"")
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
        bring(2, Status.STOPPED)

    def names(self, client, **asked):
        answer = client.get(JOBS, query_string=asked)
        assert answer.status_code == 200, answer.text
        assert answer.json["count"] >= len(answer.json["results"])
        return "".join(job["name"] for job in answer.json["results"])

    def test_choose_and_order(self, client, three):
        assert self.names(client, sort="created_at") == "abc"
        assert self.names(client, sort="-created_at") == "cba"
        assert self.names(client, query="status:created", sort="created_at") == "ac"
        assert self.names(client, query="tags:x,status:~stopped") == "a"
        assert self.names(client, query="created_at:<2010-01-01") == ""
        assert self.names(client) == "bca"

    def test_page(self, client, three):
        first = client.get(JOBS, query_string={"query": "tags:x", "sort": "created_at", "limit": 1}).json
        assert (first["count"], first["results"][0]["name"]) == (2, "a")
        second = client.get(first["next"].removeprefix("http://localhost")).json
        assert (second["results"][0]["name"], second["next"]) == ("b", None)

    def test_that_are_none_are_refused(self, client):
        answer = client.get(JOBS, query_string={"query": "created_at<2010-01-01"})
        assert answer.status_code == 400
        assert answer.json["errors"][0]["pointer"] == "/query"


class TestParams:
    YAML = "params: {lr: 0.1}\nrun:\n  cmd: train --lr {{ lr }}  # as sent\n"

    def test_params_are_rendered_and_the_text_is_stored(self, client):
        job = client.post(JOBS, {"content": self.YAML}).json
        assert job["config"]["run"]["cmd"] == "train --lr 0.1"
        assert job["content"] == self.YAML

    def test_params_of_a_clone_change_the_command(self, client):
        client.post(JOBS, {"content": self.YAML})
        client.post(JOBS, {"config": {"params": {"lr": 1}, "run": {"cmd": "x {{ lr }}"}}})
        for number, command in ((1, "train --lr 0.2"), (2, "x 0.2"), (3, "train --lr 0.2"), (4, "x 0.2")):
            made = client.post(f"{JOBS}/{number}/restart", {"config": {"params": {"lr": 0.2}}})
            assert made.status_code == 201, made.text
            assert made.json["config"]["run"]["cmd"] == command
        again = client.post(f"{JOBS}/1/restart").json
        assert (again["content"], again["config"]["run"]["cmd"]) == (self.YAML, "train --lr 0.1")

    def test_missing_params_are_named_with_their_line(self, client):
        answer = client.post(JOBS, {"content": "params: {a: 1}\nrun:\n  cmd: echo {{ b }}\n"})
        assert answer.json["errors"] == [
            {"pointer": "/content/run/cmd", "detail": "Unknown param `b`; use one of: a. (line 3)"}
        ]
        client.submit()
        assert client.patch(f"{JOBS}/1", {"content": self.YAML}).json["config"]["params"] == {"lr": 0.1}

    def test_params_beside_the_config_take_precedence(self, client):
        for body in (
            {"content": self.YAML},
            {"config": {"declarations": {"lr": 3}, "run": {"cmd": "train --lr {{ lr }}"}}},
        ):
            made = client.post(JOBS, body | {"params": {"lr": 0.5}})
            assert made.status_code == 201, made.text
            assert made.json["config"]["run"]["cmd"] == "train --lr 0.5"
            again = client.post(f"{JOBS}/{made.json['id']}/restart", {"params": {"lr": 0.7}}).json
            assert again["config"]["run"]["cmd"] == "train --lr 0.7"
            again = client.post(f"{JOBS}/{again['id']}/restart", {"config": {"declarations": {"lr": 0.8}}}).json
            assert again["config"]["run"]["cmd"] == "train --lr 0.8"

    def test_problems_point_to_params_beside_the_config(self, client):
        answer = client.post(JOBS, {"content": self.YAML, "params": {"a b": 1, "lr": 1}})
        assert [error["pointer"] for error in answer.json["errors"]] == ["/params/a b"]
        answer = client.post(JOBS, {"content": self.YAML, "params": [1]})
        assert answer.json["errors"] == [{"pointer": "/params", "detail": "Not an object."}]

    def test_config_of_another_kind_is_explained(self, client):
        answer = client.post(JOBS, {"content": "kind: build\nbuild: {image: a}\n"})
        assert [error["pointer"] for error in answer.json["errors"]] == ["/content/kind"]
        assert "`builds`" in answer.json["errors"][0]["detail"]
        answer = client.post(JOBS.replace("jobs", "builds"), {"content": "kind: job\nrun: {cmd: a}\n"})
        assert answer.status_code == 400
        assert "`jobs`" in answer.json["errors"][0]["detail"]
