"""Schedules: create, list, get, update, pause, resume, delete and run now."""

from __future__ import annotations

import pytest

from polyjob.clock import now
from polyjob.db.database import write
from polyjob.db.models import Audit, Job, Schedule, ScheduleFire, User
from polyjob.services import schedule_fires, schedules

from .conftest import BASE, CONFIG, pointers

SCHEDULES = f"{BASE}/schedules"
BODY = {"cron": "0 3 * * *", "timezone": "Europe/Berlin", "job": {"config": CONFIG, "name": "nightly", "tags": ["a"]}}


@pytest.fixture
def schedule(client):
    response = client.post(SCHEDULES, BODY)
    assert response.status_code == 201, response.text
    return response.json


def test_new_schedule_shows_its_next_time(client, schedule):
    assert schedule | {
        "id": 1, "unique_name": "ana.demo.schedules.1", "user": "ana", "cron": "0 3 * * *", "at": None,
        "timezone": "Europe/Berlin", "missed": "skip", "overlap": "allow", "name": "nightly", "command": "true",
        "is_paused": False, "last_fire": None, "missed_count": 0, "fires": [],
    } == schedule  # fmt: skip
    assert schedule["next_at"] > now().isoformat()
    assert schedule["job"]["config"]["run"] == {"cmd": "true"}
    assert client.get(f"{SCHEDULES}/1").json == schedule
    assert Job.select().count() == 0


def test_list_shows_schedules_without_their_jobs(client, schedule):
    client.post(SCHEDULES, {"at": "2999-01-01T00:00:00Z", "job": {"config": CONFIG}})
    response = client.get(SCHEDULES).json
    assert (response["count"], [row["id"] for row in response["results"]]) == (2, [1, 2])
    assert response["results"][0] == {name: schedule[name] for name in response["results"][0]}
    assert response["results"][1]["next_at"] == "2999-01-01T00:00:00.000000+00:00"
    assert [row["id"] for row in client.get(f"{SCHEDULES}?limit=1&offset=1").json["results"]] == [2]


def test_config_can_be_text_or_sections(client):
    for job in ({"content": "run: {cmd: 'echo a'}"}, {"run": {"cmd": "echo a"}}):
        response = client.post(SCHEDULES, {"cron": "0 3 * * *", "job": job})
        assert response.json["command"] == "echo a"


def test_fires_show_their_jobs_and_reasons(client, schedule):
    row = Schedule.get()
    client.post(f"{SCHEDULES}/1/run")
    with write("test"):
        schedule_fires.record_fire(row, now(), "missed", key="a", count=3, reason="asleep")
    shown = client.get(f"{SCHEDULES}/1").json
    assert [(fire["outcome"], fire["count"], fire["job"], fire["job_status"]) for fire in shown["fires"]] == [
        ("missed", 3, None, None),
        ("submitted", 1, "ana.demo.jobs.1", "created"),
    ]
    assert (shown["last_fire"], shown["missed_count"]) == (shown["fires"][0], 3)
    assert client.get(SCHEDULES).json["results"][0]["last_fire"] == shown["last_fire"]


@pytest.mark.parametrize(
    ("changes", "pointer"),
    [
        ({"cron": None}, "/cron"), ({"cron": "0 3 * *"}, "/cron"), ({"cron": "0 0 31 2 *"}, "/cron"),
        ({"cron": 3}, "/cron"), ({"cron": " "}, "/cron"), ({"at": "2999-01-01"}, "/at"),
        ({"cron": None, "at": "2020-01-01"}, "/at"), ({"cron": None, "at": "soon"}, "/at"),
        ({"timezone": "Mars"}, "/timezone"), ({"timezone": ["UTC"]}, "/timezone"), ({"missed": "maybe"}, "/missed"),
        ({"overlap": True}, "/overlap"), ({"job": None}, "/job"), ({"job": "make"}, "/job"),
        ({"job": {}}, "/job/content"),
        ({"job": {"config": {"run": {"cmd": 1}}}}, "/job/config/run/cmd"),
        ({"job": {"content": "run: {cmd: 1}"}}, "/job/content/run/cmd"), ({"job": {"run": {"cmd": 1}}}, "/job/run/cmd"),
        ({"job": {"config": CONFIG, "name": "a b"}}, "/job/name"),
        ({"job": {"config": CONFIG, "name": "a" * 120}}, "/job/name"),
        ({"job": {"config": CONFIG, "backend": "docker"}}, "/job/backend"),
        ({"job": {"config": CONFIG, "build_job": 7}}, "/job/build_job"),
        ({"job": {"config": CONFIG, "is_managed": False}}, "/job/is_managed"),
    ],
)  # fmt: skip
def test_invalid_field_is_named(client, changes, pointer):
    assert pointers(client.post(SCHEDULES, BODY | changes)) == [pointer]
    assert Schedule.select().count() == Job.select().count() == 0


def test_folder_needs_an_administrator(client, admin):
    body = BODY | {"job": {"config": CONFIG | {"environment": {"workdir": "/srv"}}}}
    assert client.post(SCHEDULES, body).status_code == 403
    assert admin.post(SCHEDULES, body).status_code == 201
    assert client.post(f"{SCHEDULES}/1/run").status_code == 403
    assert admin.post(f"{SCHEDULES}/1/run").status_code == 201


def test_number_of_schedules_is_bounded(client, schedule, monkeypatch):
    monkeypatch.setattr(schedules, "MAX_SCHEDULES", 1)
    assert "at most 1 schedule" in client.post(SCHEDULES, BODY).json["detail"]


def test_repeated_request_creates_one_schedule(client):
    first, second = (client.post(SCHEDULES, BODY, headers={"Idempotency-Key": "k"}) for _ in range(2))
    assert (first.json, second.headers["Idempotent-Replayed"]) == (second.json, "true")
    assert Schedule.select().count() == 1


def test_update_changes_only_the_given_fields(client, schedule):
    changed = client.patch(f"{SCHEDULES}/1", {"overlap": "queue"}).json
    assert changed | {"overlap": "allow", "updated_at": schedule["updated_at"]} == schedule
    changed = client.patch(f"{SCHEDULES}/1", {"cron": "0 4 * * *"}).json
    assert (changed["cron"], changed["timezone"]) == ("0 4 * * *", "Europe/Berlin")
    assert changed["next_at"] != schedule["next_at"]
    changed = client.patch(f"{SCHEDULES}/1", {"at": "2999-01-01T12:00"}).json
    assert (changed["cron"], changed["at"]) == (None, "2999-01-01T11:00:00.000000+00:00")
    assert changed["next_at"] == changed["at"]


def test_invalid_update_changes_nothing(client, schedule):
    assert pointers(client.patch(f"{SCHEDULES}/1", {"overlap": "skip", "cron": "0 0 30 2 *"})) == ["/cron"]
    assert client.get(f"{SCHEDULES}/1").json == schedule


def test_user_who_changes_the_job_becomes_its_owner(client, admin, schedule):
    assert admin.patch(f"{SCHEDULES}/1", {"cron": "0 4 * * *"}).json["user"] == "ana"
    changed = admin.patch(f"{SCHEDULES}/1", {"job": {"run": {"cmd": "false"}}}).json
    assert (changed["user"], changed["command"], changed["name"]) == ("eva", "false", None)


def test_paused_schedule_has_no_next_time(client, schedule):
    paused = client.post(f"{SCHEDULES}/1/pause").json
    assert (paused["is_paused"], paused["next_at"]) == (True, None)
    assert client.patch(f"{SCHEDULES}/1", {"cron": "0 4 * * *"}).json["next_at"] is None
    resumed = client.post(f"{SCHEDULES}/1/resume").json
    assert (resumed["is_paused"], resumed["next_at"] > now().isoformat()) == (False, True)


def test_run_submits_a_job_of_the_caller(client, admin, schedule):
    job = admin.post(f"{SCHEDULES}/1/run")
    assert (job.status_code, job.json["user"], job.json["tags"]) == (201, "eva", ["a"])
    assert job.json["schedule"] == "ana.demo.schedules.1"
    assert job.json["name"].startswith("nightly-2")
    assert client.get(f"{BASE}/jobs/1").json["schedule"] == "ana.demo.schedules.1"
    [fire] = client.get(f"{SCHEDULES}/1").json["fires"]
    assert (fire["is_manual"], fire["job"]) == (True, "ana.demo.jobs.1")
    assert client.get(f"{SCHEDULES}/1").json["next_at"] == schedule["next_at"]


def test_repeated_run_submits_one_job(client, schedule):
    first, second = (client.post(f"{SCHEDULES}/1/run", headers={"Idempotency-Key": "k"}) for _ in range(2))
    assert first.json == second.json
    assert (Job.select().count(), ScheduleFire.select().count()) == (1, 1)


def test_several_runs_within_a_second_have_different_names(client, schedule):
    assert {client.post(f"{SCHEDULES}/1/run").status_code for _ in range(3)} == {201}


def test_deleted_schedule_leaves_its_jobs(client, schedule):
    client.post(f"{SCHEDULES}/1/run")
    assert client.delete(f"{SCHEDULES}/1").status_code == 204
    assert client.get(f"{SCHEDULES}/1").status_code == 404
    assert client.delete(f"{SCHEDULES}/1").status_code == 404
    assert client.get(f"{BASE}/jobs/1").json["schedule"] is None
    assert ScheduleFire.select().count() == 0
    assert client.post(SCHEDULES, BODY).json["id"] == 2


def test_schedule_of_another_project_is_not_found(client, schedule):
    client.post("/api/v1/projects", {"name": "other"})
    assert client.get("/api/v1/ana/other/schedules/1").status_code == 404
    assert client.get("/api/v1/ana/other/schedules").json["count"] == 0


def test_changes_are_in_the_audit_trail(client, schedule):
    client.patch(f"{SCHEDULES}/1", {"overlap": "queue"})
    for action in ("pause", "resume", "run"):
        client.post(f"{SCHEDULES}/1/{action}")
    client.delete(f"{SCHEDULES}/1")
    rows = Audit.select().where(Audit.user == User.get(User.username == "ana")).order_by(Audit.id)
    lines = [(row.action, row.kind) for row in rows]
    changes = [(action, "schedule") for action in ("create", "update", "pause", "resume", "delete")]
    assert [line for line in lines if line[1] == "schedule"] == changes
    assert ("create", "job") in lines


def test_job_of_a_schedule_cannot_wait_for_others(client):
    response = client.post(SCHEDULES, {"cron": "0 3 * * *", "job": {"config": CONFIG, "after": [1]}})
    assert pointers(response) == ["/job/after"]
