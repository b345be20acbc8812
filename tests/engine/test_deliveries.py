"""Webhooks of jobs: what is sent, to whom and when, and what happens while a receiver fails."""

from __future__ import annotations

import dataclasses

import pytest

from polyjob.db.database import database, write
from polyjob.db.models import Delivery, Job, Project, Webhook
from polyjob.engine.deliveries import MAX_REQUESTS_AT_ONCE, MAX_REQUESTS_PER_HOST, UNRECORDED_PAUSE_SECONDS
from polyjob.services import cloning, jobs, outbox, submission, webhooks
from polyjob.services.dependencies import Condition, Requested
from polyjob.services.outbox import EVENTS
from polyjob.statuses import Status
from tests.simulators.webhook_receiver import Receiver

from .conftest import World


@pytest.fixture
def receiver():
    with Receiver() as receiver:
        yield receiver


@pytest.fixture
def world(settings, project, user):
    return World(dataclasses.replace(settings, notify_private=True), project, user)


def hook(world, receiver, *events):
    return webhooks.create(world.project, world.user, receiver.url, list(events or EVENTS), world.settings)


def statements_of(act, monkeypatch):
    """Return the SQL statements that `act` executes."""
    statements = []
    original = database.execute_sql
    with monkeypatch.context() as patch:
        patch.setattr(database, "execute_sql", lambda sql, *call: statements.append(sql) or original(sql, *call))
        act()
    return statements


def rows():
    return list(Delivery.select().order_by(Delivery.id))


# Events.


@pytest.mark.parametrize(
    ("env", "expected"),
    [({}, ["started", "succeeded"]), ({"code": 3}, ["started", "failed"]), ({"start": "fail"}, ["failed"])],
)
def test_webhook_receives_start_and_end(world, receiver, env, expected):
    hook(world, receiver)
    world.end(world.submit(**env))
    world.settle()
    assert receiver.events == expected
    assert [row.delivered_at is not None for row in rows()] == [True] * len(expected)


def test_stop_of_queued_job_is_sent(world, receiver):
    hook(world, receiver, "stopped")
    jobs.request_stop(world.submit(), world.user, world.settings)
    world.settle()
    assert receiver.events == ["stopped"]


def test_reported_statuses_are_sent(world, receiver):
    hook(world, receiver)
    job = submission.create(world.project, world.user, {"is_managed": False}, world.settings)
    for status in (Status.RUNNING, Status.FAILED):
        jobs.post_status(job, status, None, None, None, world.user, world.settings)
    world.settle()
    assert receiver.events == ["started", "failed"]


@pytest.mark.parametrize(("env", "event"), [({"code": 1}, "failed"), ({"seconds": 100}, "stopped")])
def test_job_that_waits_in_vain_is_sent(world, receiver, env, event):
    hook(world, receiver, "failed", "stopped")
    first = world.submit(**env)
    config = {"version": 1, "kind": "job", "run": {"cmd": "true"}}
    attributes = {"config": config, "dependencies": [Requested(first.id, Condition.SUCCESS)]}
    second = submission.create(world.project, world.user, attributes, world.settings)
    if event == "stopped":
        jobs.request_stop(first, world.user, world.settings)
    world.end(first, second)
    world.settle()
    sent = [(body["event"], body["job"]["id"]) for body in receiver.bodies]
    assert sent == [(event, first.id), (event, second.id)]


def test_webhook_receives_only_its_events(world, receiver):
    hook(world, receiver, "failed")
    world.end(world.submit(), world.submit(code=1))
    world.settle()
    assert receiver.events == ["failed"]


def test_success_after_failure_of_the_same_command_is_fixed(world, receiver):
    hook(world, receiver, "fixed", "succeeded")
    for env in ({}, {"code": 1}, {}, {}):
        world.end(world.submit(**env))
    world.settle()
    assert receiver.events == ["succeeded", "fixed", "succeeded"]


def test_stop_between_failure_and_success_does_not_hide_the_fix(world, receiver):
    hook(world, receiver, "fixed")
    world.end(world.submit(code=1))
    stopped = world.submit(seconds=100)
    jobs.request_stop(stopped, world.user, world.settings)
    world.end(stopped, world.submit())
    world.settle()
    assert receiver.events == ["fixed"]


def test_success_of_another_command_is_not_fixed(world, receiver):
    hook(world, receiver, "fixed")
    world.end(world.submit(code=1))
    config = {"version": 1, "kind": "job", "run": {"cmd": "other"}}
    world.end(submission.create(world.project, world.user, {"config": config}, world.settings))
    assert rows() == []


def test_deleted_job_is_still_reported(world, receiver):
    hook(world, receiver, "stopped")
    receiver.status = 500
    job = world.submit(seconds=100)
    world.settle()
    jobs.delete(job, world.user, world.settings)
    world.later(3)
    assert Job.get_or_none(Job.id == job.id) is None
    receiver.status = 200
    world.clock.move(30)
    world.settle()
    assert receiver.events == ["stopped", "stopped"]
    assert rows()[0].delivered_at is not None


# The webhooks of jobs and of the server.


def notified(world, receiver, **columns):
    config = {"version": 1, "kind": "job", "run": {"cmd": "true"}}
    attributes = {"config": config, "notify": receiver.url} | columns
    return submission.create(world.project, world.user, attributes, world.settings)


def test_job_with_notify_sends_its_end(world, receiver):
    job = notified(world, receiver)
    world.end(job, world.submit())
    world.settle()
    assert [(body["event"], body["job"]["id"]) for body in receiver.bodies] == [("succeeded", job.id)]


def test_clone_sends_its_end_as_its_source_does(world, receiver):
    source = notified(world, receiver)
    world.end(source)
    clone = cloning.clone(source, world.user, "restart", {}, world.settings)
    world.end(clone)
    world.settle()
    assert [body["job"]["id"] for body in receiver.bodies] == [source.id, clone.id]
    assert Webhook.select(Webhook.secret).distinct().count() == 1


def test_only_the_last_attempt_is_failed(world, receiver):
    hook(world, receiver, "failed", "started")
    job = world.submit(code=1, termination={"max_retries": 2})
    world.later(5)
    assert receiver.events == ["started", "started", "started", "failed"]
    assert receiver.bodies[-1]["job"]["id"] == job.id + 2


def test_retry_sends_its_end_as_its_first_attempt_does(world, receiver):
    config = {"version": 1, "kind": "job", "run": {"cmd": "true"}, "termination": {"max_retries": 1}}
    config["environment"] = {"env_vars": [["FAKE_CODE", "1"]]}
    job = notified(world, receiver, config=config)
    world.later(3)
    assert [(body["event"], body["job"]["id"]) for body in receiver.bodies] == [("failed", job.id + 1)]


def test_success_after_own_failed_attempts_is_not_fixed(world, receiver):
    hook(world, receiver, "fixed", "succeeded")
    first = world.submit(code=1)
    world.end(first)
    second = world.submit()
    with write("test"):
        Job.update(first_attempt=first.id, retry_number=1).where(Job.id == second.id).execute()
    world.end(second)
    world.settle()
    assert receiver.events == ["succeeded"]


def test_server_webhook_receives_failures_at_a_private_address(world, receiver):
    world.settings = dataclasses.replace(world.settings, notify_private=False, notify_url=receiver.url)
    webhooks.set_server_webhook(world.settings)
    world.restart()
    world.end(world.submit(), world.submit(code=1))
    world.settle()
    assert receiver.events == ["failed"]
    assert "webhook-signature" not in receiver.received[0].headers


def test_server_webhook_follows_the_settings(world, settings):
    for url in ("https://a.example/1", "https://b.example/2", "https://b.example/2", ""):
        webhooks.set_server_webhook(dataclasses.replace(settings, notify_url=url))
        assert [row.url for row in Webhook.select()] == [url] * bool(url)


# The body.


def test_payload_has_the_job_as_lists_show_it(world, receiver):
    hook(world, receiver, "failed")
    world.end(world.submit(code=3))
    world.settle()
    body, row = receiver.bodies[0], rows()[0]
    root = f"{world.settings.url}/ana/demo/jobs/1"
    assert body.keys() == {"id", "event", "time", "text", "job", "links"}
    assert body["id"] == row.uuid == receiver.received[0].headers["webhook-id"]
    assert (body["job"]["last_status"], body["job"]["exit_code"]) == ("failed", 3)
    assert body["job"]["finished_at"] is not None
    assert body["links"]["page"] == root
    assert body["text"] == f"Job 1 of ana.demo `true` failed: exit code 3\n{root}"


def test_text_mentions_nobody(world, receiver):
    hook(world, receiver, "succeeded")
    config = {"version": 1, "kind": "job", "run": {"cmd": "echo '<!channel>' ` @all & x"}}
    world.end(submission.create(world.project, world.user, {"config": config}, world.settings))
    world.settle()
    assert "`echo '&lt;!channel&gt;' ' @all &amp; x`" in receiver.bodies[0]["text"]


# Receivers that fail.


def test_failing_receiver_is_tried_again_with_the_same_id(world, receiver):
    hook(world, receiver, "succeeded")
    receiver.status, receiver.response = 500, b"broken \xff" + b"x" * 1000
    world.end(world.submit())
    world.settle()
    row = rows()[0]
    assert (row.attempts, row.status_code, row.delivered_at) == (1, 500, None)
    assert row.error == "The receiver responded 500."
    assert (row.response[:8], len(row.response)) == ("broken \ufffd", 500)
    receiver.status = 200
    world.clock.move(6)
    world.settle()
    assert len(receiver.received) == 1
    world.clock.move(10)
    world.settle()
    assert len({request.headers["webhook-id"] for request in receiver.received}) == 1
    row = rows()[0]
    assert (row.attempts, row.next_try_at, row.error) == (2, None, None)


def test_delivery_is_given_up_after_a_day(world, receiver):
    hook(world, receiver, "succeeded")
    receiver.status = 503
    world.end(world.submit())
    pauses = []
    while (row := rows()[0]).next_try_at is not None and len(pauses) < 100:
        pauses.append((row.next_try_at - world.clock.wall()).total_seconds())
        world.clock.move(pauses[-1] + 1)
        world.settle()
    assert 7 <= pauses[0] <= 13
    assert max(pauses) <= outbox.LONGEST_DELAY_SECONDS * 1.25
    assert 25 <= len(receiver.received) <= 50
    assert (row.delivered_at, row.attempts) == (None, len(receiver.received))
    world.clock.move(86_400)
    world.settle()
    assert len(receiver.received) == row.attempts


def test_events_of_a_job_arrive_in_order(world, receiver):
    hook(world, receiver)
    receiver.status = 500
    world.end(world.submit())
    world.settle()
    receiver.status = 200
    for _ in range(3):
        world.clock.move(30)
        world.settle()
    assert receiver.events == ["started", "started", "succeeded"]


def test_failing_job_event_does_not_delay_other_jobs(world, receiver):
    hook(world, receiver, "succeeded")
    receiver.status = 500
    world.end(world.submit())
    world.settle()
    receiver.status = 200
    second = world.submit()
    world.end(second)
    world.settle()
    assert receiver.bodies[-1]["job"]["id"] == second.id


def test_deleted_webhook_receives_nothing_more(world, receiver):
    webhook = hook(world, receiver, "succeeded")
    receiver.status = 500
    world.end(world.submit())
    world.settle()
    webhooks.delete(webhook)
    world.clock.move(100)
    world.settle()
    assert (len(receiver.received), rows()) == (1, [])


def test_restarted_engine_sends_what_was_not_sent(world, receiver, monkeypatch):
    hook(world, receiver, "succeeded")
    with monkeypatch.context() as patch:
        patch.setattr(world.engine.deliveries, "submit_calls", lambda: None)
        world.end(world.submit())
    world.restart()
    world.settle()
    assert receiver.events == ["succeeded"]


def test_try_that_cannot_be_recorded_is_repeated_after_a_pause(world, receiver, monkeypatch):
    hook(world, receiver, "succeeded")

    def fail(*arguments: object) -> None:
        raise OSError("no space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(outbox, "record_attempt", fail)
        world.end(world.submit())
        world.settle()
        world.later(UNRECORDED_PAUSE_SECONDS - 2)
        assert len(receiver.received) == 1
    world.later(3)
    assert len({request.headers["webhook-id"] for request in receiver.received}) == 1
    assert (len(receiver.received), rows()[0].attempts) == (2, 1)


def test_hanging_host_takes_only_its_share(world, receiver, monkeypatch):
    hook(world, receiver)
    submitted = []
    world.engine.run_pass()  # begins the cleanup
    for _ in range(MAX_REQUESTS_AT_ONCE):
        webhooks.send_test(Webhook.get(), world.settings)
    monkeypatch.setattr(world.engine.context.calls, "submit", submitted.append)
    world.engine.run_pass()
    assert len(submitted) == MAX_REQUESTS_PER_HOST
    webhooks.create(world.project, world.user, "http://192.0.2.1/", None, world.settings)
    webhooks.send_test(Webhook.get_by_id(2), world.settings)
    world.engine.run_pass()
    assert len(submitted) == MAX_REQUESTS_PER_HOST + 1


# Costs.


def test_pass_without_due_deliveries_reads_no_outbox(world, receiver, monkeypatch):
    hook(world, receiver)
    receiver.status = 500
    world.end(world.submit())
    world.settle()
    assert not [sql for sql in statements_of(world.engine.run_pass, monkeypatch) if "delivery" in sql]


def test_job_without_webhooks_costs_one_look_up_at_start_and_end(world, monkeypatch):
    world.settle()
    job = world.submit()
    statements = statements_of(lambda: world.end(job), monkeypatch)
    assert len([sql for sql in statements if '"webhook"' in sql]) == 2


def test_earlier_jobs_are_read_once_for_all_webhooks(world, receiver, monkeypatch):
    for _ in range(3):
        hook(world, receiver, "fixed", "succeeded")
    job = world.submit()
    statements = statements_of(lambda: world.end(job), monkeypatch)
    assert len([sql for sql in statements if "ORDER BY finished_at DESC" in sql]) == 1


# Cleanup.


def test_cleanup_removes_old_deliveries_and_webhooks_of_removed_jobs(world, receiver):
    job = notified(world, receiver)
    world.end(job)
    world.settle()
    jobs.delete(job, world.user, world.settings)
    world.later(3)
    world.clock.move(3700)
    world.settle()
    assert (Webhook.select().count(), len(rows())) == (0, 0)
    hook(world, receiver, "succeeded")
    world.end(world.submit())
    world.settle()
    assert len(rows()) == 1
    world.clock.move(webhooks.RETENTION.total_seconds() + 3700)
    world.settle()
    assert (rows(), Project.select().count(), Webhook.select().count()) == ([], 1, 1)
