"""The page of a project's webhooks, and that of the deliveries about a job."""

from __future__ import annotations

import pytest
from flask import Flask

from polyjob.clock import now
from polyjob.db.database import write
from polyjob.db.models import Delivery, Project, User, Webhook
from polyjob.services import outbox, submission, webhooks
from polyjob.services.endings import end_job
from polyjob.services.outbox import Attempt
from polyjob.settings import Settings
from polyjob.statuses import Status

from .conftest import EVIL, Browser, bring, publish

PAGE = "/ana/demo/webhooks"
URL = "https://hooks.example.org/services/T000/B000/s3cr3tpath"


def test_webhook_is_added_and_shows_its_secret_once(ana: Browser) -> None:
    shown = ana.fill(PAGE, 201, at=PAGE, url=URL, events="failed started")
    webhook = Webhook.get()
    assert (webhook.url, webhook.events) == (URL, ["failed", "started"])
    assert webhook.secret in shown.text
    later = ana.get(PAGE)
    assert webhook.secret not in later.text
    assert "https://hooks.example.org/…path" in later.text
    assert "s3cr3t" not in later.text


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        ({"url": ""}, "URL: "),
        ({"url": "ftp://a"}, "URL: Not a URL"),
        ({"url": "http://10.0.0.1/"}, "POLYJOB_NOTIFY_PRIVATE"),
        ({"url": URL, "events": ""}, "Events: "),
        ({"url": URL, "events": "broken"}, "Events: Must be one of"),
        ({"url": EVIL}, "URL: "),
    ],
)
def test_invalid_webhook_shows_the_entries_again(ana: Browser, typed: dict[str, str], message: str) -> None:
    page = ana.fill(PAGE, 400, at=PAGE, **typed)
    assert message in page.text
    assert "script" not in page.tags
    assert next(form for form in page.forms if "url" in form.fields).fields["url"] == typed["url"]
    assert Webhook.select().count() == 0


def test_webhook_is_tested_and_removed(ana: Browser) -> None:
    ana.fill(PAGE, 201, at=PAGE, url=URL)
    ana.press(PAGE, "Send a test")
    assert Delivery.get().event == "test"
    assert "pending" in ana.get(PAGE).text
    ana.press(f"{PAGE}/1/remove", "Remove webhook")
    assert Webhook.select().count() == 0


def test_responses_of_receivers_are_escaped(ana: Browser, project: Project, user: User, settings: Settings) -> None:
    webhooks.create(project, user, URL, ["failed"], settings)
    job = submission.create(project, user, {"config": {"run": {"cmd": "x"}}}, settings)
    job = bring(job.id, Status.SCHEDULED, Status.RUNNING)
    with write("test"):
        end_job(job, Status.FAILED)
        outbox.record_attempt(Delivery.get(), Attempt(500, EVIL, "The receiver responded 500."), now())
    assert "/ana/demo/jobs/1/deliveries" in ana.get("/ana/demo/jobs/1").links
    for path in (PAGE, "/ana/demo/jobs/1/deliveries"):
        page = ana.get(path)
        assert EVIL in page.text
        assert "The receiver responded 500." in page.text
        assert "script" not in page.tags


def test_only_managers_see_webhooks(app: Flask, ana: Browser, bob: Browser, project: Project) -> None:
    ana.fill(PAGE, 201, at=PAGE, url=URL)
    publish()
    assert PAGE in ana.get("/ana/demo").links
    assert PAGE not in bob.get("/ana/demo").links
    bob.get(PAGE, 403)
    bob.get("/ana/demo/jobs/1/deliveries", 403)
