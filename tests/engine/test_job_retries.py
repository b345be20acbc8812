"""Failed jobs are tried again by a chain of clones, each inserted with the end of the attempt before it."""

from __future__ import annotations

import json
from typing import Any

import pytest

from polyjob.db.database import database, write
from polyjob.db.models import Job, Queue
from polyjob.engine import delays
from polyjob.services import job_queue, job_retries, jobs
from polyjob.services.endings import end_job
from polyjob.statuses import Status
from tests.engine.conftest import BUILD, World


def chain(world: World) -> list[Job]:
    return list(Job.select().order_by(Job.id))


def submit(world: World, *rules: dict[str, Any], **fake: Any) -> Job:
    return world.submit(termination={"retry": list(rules)}, **fake)


def test_failed_job_is_retried_until_its_limit(world: World) -> None:
    first = world.submit(termination={"max_retries": 2}, code=3)
    world.end(first)
    world.end(*chain(world))
    world.end(*chain(world))
    rows = chain(world)
    assert [(job.status, job.retry_number, job.original_id, job.first_attempt_id) for job in rows] == [
        ("failed", 0, None, None),
        ("failed", 1, rows[0].id, rows[0].id),
        ("failed", 2, rows[1].id, rows[0].id),
    ]
    assert [job_retries.describe_retry(job) for job in rows] == [
        None,
        f"1 of 2 of #{first.id}",
        f"2 of 2 of #{first.id}",
    ]
    assert [job_retries.retry_state(job)["left"] for job in rows] == [2, 1, 0]
    assert [job_retries.retry_state(job)["next_job"] for job in rows] == [rows[1].id, rows[2].id, None]


def test_succeeded_and_stopped_jobs_are_not_retried(world: World) -> None:
    good = world.submit(termination={"max_retries": 2})
    stopped = world.submit(termination={"max_retries": 2}, seconds=50)
    world.settle()
    jobs.request_stop(world.read(stopped), world.user, world.settings)
    world.end(good, stopped)
    assert len(chain(world)) == 2


def test_job_that_is_deleted_or_archived_is_not_retried(world: World) -> None:
    submitted = [world.submit(termination={"max_retries": 1}, seconds=2, code=1) for _ in range(2)]
    world.settle()
    with write("test"):  # as if the delete came after the exit
        Job.update(deleted_at=world.clock.wall()).where(Job.id == submitted[0].id).execute()
        Job.update(archived_at=world.clock.wall()).where(Job.id == submitted[1].id).execute()
    world.later(5)
    assert Job.select().where(Job.retry_number > 0).count() == 0


def test_timeout_is_a_reason_of_its_own(world: World) -> None:
    termination = {"timeout": 1, "grace": 1, "retry": [{"on": [{"reason": "timeout"}], "times": 1}]}
    job = world.submit(termination=termination, seconds=50)
    world.end(job)
    assert len(chain(world)) == 2


def test_delayed_retry_waits_outside_the_queue(world: World) -> None:
    first = submit(world, {"times": 1, "delay": 30}, code=1)
    world.end(first)
    retry = chain(world)[-1]
    assert (retry.status, retry.is_held) == (Status.CREATED, True)
    assert job_queue.queue_position(retry) is None
    assert job_queue.queued_runners() == []
    assert Queue.get_by_id("fake").length == 0
    reason = job_queue.waiting_reason(retry, None)
    assert reason == f"Waiting until {retry.wait_until:%Y-%m-%d %H:%M:%S} UTC, to retry #{first.id}."
    world.later(25)
    assert world.statuses(retry) == ["created"]
    version = world.read(retry).version
    world.later(7)
    assert world.read(retry).version > version
    world.end(retry)
    assert world.statuses(retry)[-1] == "failed"
    assert Queue.get_by_id("fake").length == 0


def test_other_jobs_pass_a_delayed_retry(world: World) -> None:
    world.end(submit(world, {"times": 1, "delay": 30}, code=1))
    other = world.submit()
    assert job_queue.queue_position(world.read(other)) == 1
    world.end(other)


def test_new_engine_releases_a_delayed_retry(world: World) -> None:
    world.end(submit(world, {"times": 1, "delay": 30}, code=1))
    world.restart()
    world.later(32)
    world.end(chain(world)[-1])


def test_stop_of_a_waiting_retry_ends_the_chain(world: World) -> None:
    world.end(submit(world, {"times": 5, "delay": 30}, code=1))
    retry = chain(world)[-1]
    jobs.request_stop(retry, world.user, world.settings)
    assert world.statuses(retry) == ["created", "stopped"]
    world.later(35)
    assert len(chain(world)) == 2


def test_delete_of_a_waiting_retry_ends_the_chain(world: World) -> None:
    first = submit(world, {"times": 5, "delay": 30}, code=1)
    world.end(first)
    jobs.delete(chain(world)[-1], world.user, world.settings)
    world.later(35)
    assert chain(world) == [first]


def test_resuming_retry_begins_with_the_outputs(world: World) -> None:
    rule = {"times": 1, "resume": True}
    world.end(submit(world, rule, code=1, outputs=json.dumps({"part": "1"})))
    retry = chain(world)[-1]
    assert retry.cloning_strategy == "resume"
    world.end(retry)
    assert world.store.job_inputs(retry.uuid).exists()


def test_resuming_retry_says_that_its_inputs_were_removed(world: World) -> None:
    first = submit(world, {"times": 1, "delay": 30, "resume": True}, code=1, outputs=json.dumps({"part": "1"}))
    world.end(first)
    retry = chain(world)[-1]
    jobs.delete(world.read(first), world.user, world.settings)
    world.later(40)
    assert world.read(retry).exit["message"] == (
        "The outputs of the failed attempt, with which this retry begins, were removed"
    )


def test_failed_build_is_retried_only_if_asked(world: World) -> None:
    broken = BUILD | {"env_vars": [["FAKE_BUILD_FAIL", "1:4"]]}
    unretried = world.submit(build=broken, termination={"max_retries": 3})
    world.end(unretried)
    assert len(chain(world)) == 1
    failed = world.submit(build=broken, termination={"retry": [{"on": [{"reason": "build"}], "times": 1}]})
    world.end(failed)
    world.end(*chain(world))
    retry = chain(world)[-1]
    assert (retry.original_id, retry.build_id != world.read(failed).build_id) == (failed.id, True)


def test_retry_keeps_what_the_request_set(world: World) -> None:
    job = world.submit(termination={"max_retries": 1}, code=1)
    changes = {"description": "d", "tags": ["a"], "name": "trial"}
    jobs.update(job, changes, world.settings)
    world.end(job)
    retry = chain(world)[-1]
    assert (retry.description, retry.tags, retry.name, retry.config) == ("d", ["a"], None, job.config)


def test_second_end_adds_no_second_retry(world: World) -> None:
    job = world.submit(termination={"max_retries": 1}, seconds=50)
    world.settle()
    with write("test"):
        row = world.read(job)
        assert end_job(row, Status.FAILED, details={"reason": "lost"})
        assert end_job(row, Status.FAILED, details={"reason": "lost"}) is None
    assert len(chain(world)) == 2


def test_pass_without_delayed_retries_reads_nothing_for_them(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.end(world.submit(code=1))
    statements: list[str] = []
    execute = database.execute_sql
    monkeypatch.setattr(database, "execute_sql", lambda sql, *rest: statements.append(sql) or execute(sql, *rest))
    world.end(world.submit(code=1))
    assert not [sql for sql in statements if "wait_until" in sql and sql.startswith("SELECT MIN")]


def test_many_due_retries_are_released_in_turns(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(delays, "RELEASES_PER_PASS", 1)
    submitted = [submit(world, {"times": 1, "delay": 30}, code=1) for _ in range(3)]
    world.end(*submitted)
    world.later(32)
    world.end(*chain(world))
    assert [job.status for job in chain(world)] == ["failed"] * 6
