"""Requests that are sent twice with one Idempotency-Key."""

from __future__ import annotations

import concurrent.futures
import datetime
import json

import pytest

from polyjob.db.models import Idempotency, Job
from polyjob.statuses import Status

from .conftest import BASE, CONFIG, JOBS, Client, bring, write

KEY = {"Idempotency-Key": "one"}


def test_make_one_job_and_get_the_first_answer(client):
    first = client.post(JOBS, {"config": CONFIG}, headers=KEY)
    bring(1, Status.SCHEDULED)
    again = client.post(f"{JOBS}/", {"config": CONFIG}, headers=KEY)
    assert (first.status_code, again.status_code) == (201, 201)
    assert again.data == first.data
    assert (first.headers.get("Idempotent-Replayed"), again.headers["Idempotent-Replayed"]) == (None, "true")
    assert Job.select().count() == 1


def test_get_it_also_when_the_job_is_gone_and_the_disk_is_low(client, app, settings, monkeypatch):
    first = client.post(JOBS, {"config": CONFIG}, headers=KEY)
    client.delete(f"{JOBS}/1")
    monkeypatch.setattr("polyjob.storage.store.Store.free_bytes", lambda self: -1)
    assert client.post(JOBS, {"config": CONFIG}).status_code == 503
    assert client.post(JOBS, {"config": CONFIG}, headers=KEY).data == first.data


def test_another_body_or_verb_is_refused(client):
    client.post(JOBS, {"config": CONFIG}, headers=KEY)
    bring(1, Status.STOPPED)
    for path, body in ((JOBS, {"config": CONFIG, "name": "x"}), (f"{JOBS}/1/restart", {"config": CONFIG})):
        answer = client.post(path, body, headers=KEY)
        assert answer.status_code == 422
        assert "`one`" in answer.json["detail"]
    assert Job.select().count() == 1


@pytest.mark.parametrize("verb", ["restart", "resume", "copy"])
def test_clones_are_made_once(client, verb):
    client.submit()
    bring(1, Status.STOPPED)
    answers = [client.post(f"{JOBS}/1/{verb}", headers=KEY) for _ in range(3)]
    assert {answer.data for answer in answers} == {answers[0].data}
    assert answers[0].json["cloning_strategy"] == verb
    assert Job.select().count() == 2


def test_builds_are_made_once(client):
    answers = [client.post(f"{BASE}/builds", {"build": {"image": "a"}}, headers=KEY) for _ in range(2)]
    assert answers[0].status_code == 201, answers[0].text
    assert answers[0].data == answers[1].data


def test_a_request_that_was_refused_leaves_its_key_free(client):
    assert client.post(JOBS, {"config": {"run": {}}}, headers=KEY).status_code == 400
    assert client.post(JOBS, {"config": CONFIG}, headers=KEY).status_code == 201


def test_keys_are_each_users_own(client, admin):
    client.post(JOBS, {"config": CONFIG}, headers=KEY)
    assert admin.post(JOBS, {"config": CONFIG}, headers=KEY).json["id"] == 2


def test_keys_are_each_projects_own(client):
    client.post(JOBS, {"config": CONFIG}, headers=KEY)
    client.delete(BASE)
    client.post("/api/v1/projects", {"name": "demo"})
    answer = client.post(JOBS, {"config": CONFIG, "name": "new"}, headers=KEY)
    assert (answer.status_code, "Idempotent-Replayed" in answer.headers) == (201, False)
    assert client.get(f"{JOBS}/{answer.json['id']}").json["name"] == "new"


def test_a_form_is_the_same_whatever_stands_between_its_fields(client):
    def send(name, boundary):
        body = ""
        for field, value in {"content": json.dumps(CONFIG), "name": name}.items():
            body += f'--{boundary}\r\nContent-Disposition: form-data; name="{field}"\r\n\r\n{value}\r\n'
        kind = f"multipart/form-data; boundary={boundary}"
        return client.post(JOBS, data=f"{body}--{boundary}--\r\n", content_type=kind, headers=KEY)

    first, again, other = send("a", "x"), send("a", "y"), send("b", "y")
    assert [answer.status_code for answer in (first, again, other)] == [201, 201, 422], first.text
    assert first.data == again.data


def test_who_may_not_see_the_project_learns_nothing(client, other):
    client.post(JOBS, {"config": CONFIG}, headers=KEY)
    assert other.post(JOBS, {"config": CONFIG}, headers=KEY).status_code == 404


def test_are_kept_for_a_day(client):
    client.post(JOBS, {"config": CONFIG}, headers=KEY)
    client.post(JOBS, {"config": CONFIG}, headers={"Idempotency-Key": "two"})
    with write("test"):
        earlier = Idempotency.get(Idempotency.key == "1 one").created_at - datetime.timedelta(hours=24)
        Idempotency.update(created_at=earlier).where(Idempotency.key == "1 one").execute()
    assert client.post(JOBS, {"config": CONFIG}, headers=KEY).json["id"] == 3
    assert Idempotency.select().count() == 2


@pytest.mark.parametrize("key", ["", " ", "x" * 256, "ä"])
def test_a_key_that_is_none_is_refused(client, key):
    answer = client.post(JOBS, {"config": CONFIG}, headers={"Idempotency-Key": key.encode().decode("latin-1")})
    assert answer.status_code == 400
    assert answer.json["errors"][0]["parameter"] == "Idempotency-Key"


def test_twins_at_the_same_moment_get_one_answer(client, app):
    def send(_):
        twin = Client(app)
        twin.headers = client.headers
        return twin.post(JOBS, {"config": CONFIG}, headers=KEY).data

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        answers = set(pool.map(send, range(16)))
    assert len(answers) == 1
    assert Job.select().count() == 1
