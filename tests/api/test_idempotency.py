"""Requests that are sent twice with one Idempotency-Key."""

from __future__ import annotations

import concurrent.futures
import datetime
import json

import pytest

from polyjob.db.models import Idempotency, Job
from polyjob.statuses import Status

from .conftest import BASE, CONFIG, JOBS, Client, move_job, write

KEY = {"Idempotency-Key": "one"}


def test_repeated_request_creates_one_job(client):
    first = client.post(JOBS, {"config": CONFIG}, headers=KEY)
    move_job(1, Status.SCHEDULED)
    again = client.post(f"{JOBS}/", {"config": CONFIG}, headers=KEY)
    assert (first.status_code, again.status_code) == (201, 201)
    assert again.data == first.data
    assert (first.headers.get("Idempotent-Replayed"), again.headers["Idempotent-Replayed"]) == (None, "true")
    assert Job.select().count() == 1


def test_response_is_repeated_without_the_job_on_low_disk(client, app, settings, monkeypatch):
    first = client.post(JOBS, {"config": CONFIG}, headers=KEY)
    client.delete(f"{JOBS}/1")
    monkeypatch.setattr("polyjob.storage.store.Store.free_bytes", lambda self: -1)
    assert client.post(JOBS, {"config": CONFIG}).status_code == 503
    assert client.post(JOBS, {"config": CONFIG}, headers=KEY).data == first.data


def test_key_with_another_request_is_refused(client):
    client.post(JOBS, {"config": CONFIG}, headers=KEY)
    move_job(1, Status.STOPPED)
    for path, body in ((JOBS, {"config": CONFIG, "name": "x"}), (f"{JOBS}/1/restart", {"config": CONFIG})):
        response = client.post(path, body, headers=KEY)
        assert response.status_code == 422
        assert "`one`" in response.json["detail"]
    assert Job.select().count() == 1


@pytest.mark.parametrize("verb", ["restart", "resume", "copy"])
def test_repeated_clone_creates_one_job(client, verb):
    client.submit()
    move_job(1, Status.STOPPED)
    answers = [client.post(f"{JOBS}/1/{verb}", headers=KEY) for _ in range(3)]
    assert {response.data for response in answers} == {answers[0].data}
    assert answers[0].json["cloning_strategy"] == verb
    assert Job.select().count() == 2


def test_repeated_request_creates_one_build(client):
    answers = [client.post(f"{BASE}/builds", {"build": {"image": "a"}}, headers=KEY) for _ in range(2)]
    assert answers[0].status_code == 201, answers[0].text
    assert answers[0].data == answers[1].data


def test_refused_request_does_not_use_up_its_key(client):
    assert client.post(JOBS, {"config": {"run": {}}}, headers=KEY).status_code == 400
    assert client.post(JOBS, {"config": CONFIG}, headers=KEY).status_code == 201


def test_keys_of_users_are_separate(client, admin):
    client.post(JOBS, {"config": CONFIG}, headers=KEY)
    assert admin.post(JOBS, {"config": CONFIG}, headers=KEY).json["id"] == 2


def test_keys_of_projects_are_separate(client):
    client.post(JOBS, {"config": CONFIG}, headers=KEY)
    client.delete(BASE)
    client.post("/api/v1/projects", {"name": "demo"})
    response = client.post(JOBS, {"config": CONFIG, "name": "new"}, headers=KEY)
    assert (response.status_code, "Idempotent-Replayed" in response.headers) == (201, False)
    assert client.get(f"{JOBS}/{response.json['id']}").json["name"] == "new"


def test_multipart_boundary_does_not_matter(client):
    def send(name, boundary):
        body = ""
        for field, value in {"content": json.dumps(CONFIG), "name": name}.items():
            body += f'--{boundary}\r\nContent-Disposition: form-data; name="{field}"\r\n\r\n{value}\r\n'
        kind = f"multipart/form-data; boundary={boundary}"
        return client.post(JOBS, data=f"{body}--{boundary}--\r\n", content_type=kind, headers=KEY)

    first, again, other = send("a", "x"), send("a", "y"), send("b", "y")
    assert [response.status_code for response in (first, again, other)] == [201, 201, 422], first.text
    assert first.data == again.data


def test_key_reveals_nothing_of_a_hidden_project(client, other):
    client.post(JOBS, {"config": CONFIG}, headers=KEY)
    assert other.post(JOBS, {"config": CONFIG}, headers=KEY).status_code == 404


def test_keys_are_stored_for_a_day(client):
    client.post(JOBS, {"config": CONFIG}, headers=KEY)
    client.post(JOBS, {"config": CONFIG}, headers={"Idempotency-Key": "two"})
    with write("test"):
        earlier = Idempotency.get(Idempotency.key == "1 one").created_at - datetime.timedelta(hours=24)
        Idempotency.update(created_at=earlier).where(Idempotency.key == "1 one").execute()
    assert client.post(JOBS, {"config": CONFIG}, headers=KEY).json["id"] == 3
    assert Idempotency.select().count() == 2


@pytest.mark.parametrize("key", ["", " ", "x" * 256, "ä"])
def test_invalid_key_is_refused(client, key):
    response = client.post(JOBS, {"config": CONFIG}, headers={"Idempotency-Key": key.encode().decode("latin-1")})
    assert response.status_code == 400
    assert response.json["errors"][0]["parameter"] == "Idempotency-Key"


def test_concurrent_requests_get_the_same_response(client, app):
    def send(_):
        twin = Client(app)
        twin.headers = client.headers
        return twin.post(JOBS, {"config": CONFIG}, headers=KEY).data

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        answers = set(pool.map(send, range(16)))
    assert len(answers) == 1
    assert Job.select().count() == 1
