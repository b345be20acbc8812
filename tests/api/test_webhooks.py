"""Webhooks of projects and jobs in the API."""

from __future__ import annotations

import base64
import dataclasses
import json

import pytest

from polyjob.app import configure
from polyjob.db.database import write
from polyjob.db.models import Audit, Delivery, Project, Webhook
from polyjob.services import outbox, webhooks
from polyjob.services.endings import end_job
from polyjob.services.outbox import Attempt
from polyjob.statuses import Status

from .conftest import BASE, CONFIG, JOBS, move_job, now, pointers, publish

HOOKS = f"{BASE}/webhooks"
URL = "https://hooks.example.org/services/T000/B000/s3cr3tpath"
SHOWN = "https://hooks.example.org/…path"


def create(client, **fields):
    response = client.post(HOOKS, {"url": URL} | fields)
    assert response.status_code == 201, response.text
    return response.json


def test_new_webhook_shows_its_secret_once(client):
    created = create(client, events=["failed", "fixed", "started"])
    secret = created.pop("secret")
    assert len(base64.b64decode(secret.removeprefix("whsec_"))) == 32
    assert created | {"url": SHOWN, "events": ["failed", "fixed", "started"], "user": "ana"} == created
    assert create(client)["secret"] != secret
    for shown in (client.get(f"{HOOKS}/1").json, client.get(HOOKS).json["results"][0]):
        assert shown == created


def test_events_are_failures_and_fixes_by_default(client):
    assert create(client)["events"] == ["failed", "fixed"]


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        ({}, "/url"),
        ({"url": None}, "/url"),
        ({"url": 7}, "/url"),
        ({"url": ""}, "/url"),
        ({"url": "ftp://example.org"}, "/url"),
        ({"url": "https://user:pw@example.org/"}, "/url"),
        ({"url": f"https://example.org/{'x' * 2000}"}, "/url"),
        ({"url": "http://127.0.0.1:9000/"}, "/url"),
        ({"url": "http://[::ffff:10.0.0.1]/"}, "/url"),
        ({"url": "http://localhost/"}, "/url"),
        ({"url": URL, "events": "failed"}, "/events"),
        ({"url": URL, "events": []}, "/events"),
        ({"url": URL, "events": ["failed", "broken"]}, "/events/1"),
        ({"url": URL, "events": ["test"]}, "/events/0"),
    ],
)
def test_invalid_webhook_is_refused(client, body, pointer):
    assert pointers(client.post(HOOKS, body)) == [pointer]
    assert Webhook.select().count() == 0


def test_private_address_is_accepted_if_the_server_allows_it(app, client, settings):
    configure(app, dataclasses.replace(settings, notify_private=True))
    create(client, url="http://127.0.0.1:9000/")


def test_number_of_webhooks_is_limited(client, monkeypatch):
    monkeypatch.setattr(webhooks, "MAX_WEBHOOKS", 2)
    create(client), create(client)
    assert client.post(HOOKS, {"url": URL}).status_code == 409


def test_webhook_is_deleted_with_its_deliveries(client):
    create(client)
    client.post(f"{HOOKS}/1/test")
    assert client.delete(f"{HOOKS}/1").status_code == 204
    assert client.delete(f"{HOOKS}/1").status_code == 404
    assert Delivery.select().count() == 0


def test_webhook_of_another_project_is_not_found(client, user):
    create(client)
    moment = now()
    with write("test"):
        Project.create(uuid="e" * 32, user=user, name="b", is_public=False, created_at=moment, updated_at=moment)
    for path in ("1", "1/deliveries", "7"):
        assert client.get(f"/api/v1/ana/b/webhooks/{path}").status_code == 404
    assert client.post("/api/v1/ana/b/webhooks/1/test").status_code == 404
    assert client.delete("/api/v1/ana/b/webhooks/1").status_code == 404


def test_readers_see_no_webhooks(client, other):
    create(client)
    publish()
    for path in (HOOKS, f"{HOOKS}/1", f"{HOOKS}/1/deliveries"):
        assert other.get(path).status_code == 403


def test_test_is_a_pending_delivery(client):
    create(client)
    response = client.post(f"{HOOKS}/1/test")
    assert response.status_code == 201
    expected = {"event": "test", "job": None, "url": SHOWN, "state": "pending", "attempts": 0, "next_try_at": None}
    assert response.json | expected == response.json
    assert client.get(f"{HOOKS}/1/deliveries").json["results"] == [response.json]


def test_deliveries_show_the_last_try(client):
    create(client, events=["failed"])
    client.submit()
    end(1, "failed")
    delivery = Delivery.get()
    with write("test"):
        outbox.record_attempt(delivery, Attempt(500, "no", "The receiver responded 500."), now())
    shown = client.get(f"{JOBS}/1/deliveries").json["results"][0]
    expected = {"job": "ana.demo.jobs.1", "state": "pending", "attempts": 1, "status_code": 500, "response": "no"}
    assert shown | expected == shown
    assert shown["next_try_at"] > shown["tried_at"]
    with write("test"):
        outbox.record_attempt(Delivery.get(), Attempt(200, "ok"), now())
    shown = client.get(f"{HOOKS}/1/deliveries").json["results"][0]
    expected = {"state": "delivered", "attempts": 2, "status_code": 200, "next_try_at": None, "error": None}
    assert shown | expected == shown


def end(job_id, status):
    job = move_job(job_id, Status.SCHEDULED, Status.RUNNING)
    with write("test"):
        end_job(job, Status(status))


def test_snapshot_equals_the_job_in_lists(client):
    create(client, events=["failed"])
    client.submit(tags=["a"])
    end(1, "failed")
    listed = client.get(JOBS).json["results"][0]
    assert Delivery.get().job | {"bookmarked": False} == listed


# The webhook of a job.


def submit(client, notify, **headers):
    return client.post(JOBS, {"config": CONFIG, "notify": notify}, headers=headers)


def test_job_with_notify_shows_its_secret_once(client):
    created = submit(client, URL)
    assert created.status_code == 201
    webhook = Webhook.get()
    assert (webhook.job_id, webhook.url, webhook.secret) == (1, URL, created.json["notify_secret"])
    assert webhook.events == ["failed", "succeeded", "stopped"]
    assert "notify_secret" not in client.get(f"{JOBS}/1").json
    assert client.get(HOOKS).json["count"] == 0


def test_repeated_request_creates_one_webhook(client):
    key = {"Idempotency-Key": "k"}
    assert submit(client, URL, **key).json == submit(client, URL, **key).json
    assert Webhook.select().count() == 1


@pytest.mark.parametrize(
    "notify", ["", 7, ["https://example.org"], "example.org", "http://10.0.0.1/", "http://localhost"]
)
def test_invalid_notify_is_refused(client, notify):
    assert pointers(submit(client, notify)) == ["/notify"]
    assert client.get(JOBS).json["count"] == 0


def test_urls_are_not_in_responses_or_the_audit_trail(client, admin):
    create(client)
    submit(client, URL)
    client.post(f"{HOOKS}/1/test")
    client.delete(f"{HOOKS}/1")
    entries = admin.get("/api/v1/audit").json["results"]
    assert [(entry["action"], entry["target"]) for entry in entries if entry["kind"] == "webhook"] == [
        (action, "https://hooks.example.org") for action in ("delete", "test", "create")
    ]
    assert Audit.select().where(Audit.kind == "webhook", Audit.project == Project.get()).count() == 3
    texts = [json.dumps(entries), client.get(f"{JOBS}/1").text, client.get(f"{JOBS}/1/deliveries").text]
    assert not [text for text in texts if "s3cr3t" in text]


# The webhook of the server.


def test_administrators_see_deliveries_to_the_server_webhook(client, admin, settings):
    webhooks.set_server_webhook(dataclasses.replace(settings, notify_url=URL))
    client.submit()
    end(1, "failed")
    rows = admin.get("/api/v1/webhooks/deliveries").json["results"]
    assert [(row["event"], row["job"], row["url"]) for row in rows] == [("failed", "ana.demo.jobs.1", SHOWN)]
    assert client.get("/api/v1/webhooks/deliveries").status_code == 403
    assert client.get(f"{JOBS}/1/deliveries").json["count"] == 0
