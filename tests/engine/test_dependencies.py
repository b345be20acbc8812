"""Jobs that wait for the end of others: released, skipped or failed in the transaction of that end."""

from __future__ import annotations

from typing import Any

import pytest

from polyjob.db.database import database, write
from polyjob.db.models import Job, Queue
from polyjob.errors import Invalid
from polyjob.services import job_queue, jobs, submission
from polyjob.services.dependencies import Condition, Requested, dependencies_of
from polyjob.services.endings import end_job
from polyjob.statuses import Status
from tests.engine.conftest import World

CONFIG = {"version": 1, "kind": "job", "run": {"cmd": "true"}}


def after(world: World, *upstreams: Job, on: str = "success", **config: Any) -> Job:
    condition = Condition(on)
    requested = [Requested(job.id, condition, pointer=f"/after/{at}/job") for at, job in enumerate(upstreams)]
    attributes = {"config": CONFIG | config, "dependencies": requested}
    return submission.create(world.project, world.user, attributes, world.settings)


def waiting(world: World, job: Job) -> str | None:
    row = world.read(job)
    return job_queue.waiting_reason(row, job_queue.queue_position(row))


def test_job_starts_after_the_success_of_all_others(world: World) -> None:
    first, second = world.submit(seconds=2), world.submit(seconds=5)
    last = after(world, first, second)
    assert waiting(world, last) == f"Waiting for #{first.id} to succeed and #{second.id} to succeed."
    world.later(3)
    assert waiting(world, last) == f"Waiting for #{second.id} to succeed."
    assert [one["is_met"] for one in dependencies_of(world.read(last))] == [True, False]
    world.end(last)
    assert world.statuses(last) == ["created", "scheduled", "running", "succeeded"]
    assert world.read(last).started_at > world.read(second).finished_at


def test_held_job_is_not_in_the_queue(world: World) -> None:
    first = world.submit(seconds=50)
    waiting = after(world, first)
    world.settle()
    others = [world.submit(seconds=50) for _ in range(2)]
    assert job_queue.queue_position(world.read(waiting)) is None
    assert [job_queue.queue_position(world.read(job)) for job in others] == [1, 2]
    assert Queue.get_by_id("fake").length == 2
    world.settle()
    assert world.statuses(waiting) == ["created"]


@pytest.mark.parametrize(
    ("on", "code", "status", "message"),
    [
        ("success", 0, "succeeded", None),
        ("success", 1, "upstream_failed", "Job #{} failed, and this job waited for it to succeed"),
        ("failure", 1, "succeeded", None),
        ("failure", 0, "skipped", "Job #{} succeeded, and this job waited for it to fail"),
        ("end", 0, "succeeded", None),
        ("end", 1, "succeeded", None),
    ],
)
@pytest.mark.parametrize("is_late", [False, True])
def test_end_of_another_job_decides(
    world: World, on: str, code: int, status: str, message: str | None, is_late: bool
) -> None:
    first = world.submit(code=code)
    if is_late:
        world.end(first)
    job = after(world, first, on=on)
    world.end(first, job)
    assert world.read(job).status == status
    if message:
        assert world.last(job).message == message.format(first.id)
        assert world.statuses(job) == ["created", status]


@pytest.mark.parametrize(("on", "status"), [("success", "skipped"), ("failure", "skipped"), ("end", "succeeded")])
@pytest.mark.parametrize("act", [jobs.request_stop, jobs.delete])
def test_stopped_or_deleted_job_is_no_success_and_no_failure(world: World, on: str, status: str, act: Any) -> None:
    first = world.submit(seconds=50)
    world.settle()
    job = after(world, first, on=on)
    act(world.read(first), world.user, world.settings)
    world.end(job)
    assert world.read(job).status == status
    if status == "skipped":
        assert world.last(job).message.startswith(f"Job #{first.id} was stopped")


def test_stop_before_the_claim_ends_those_that_wait_at_once(world: World) -> None:
    first = world.submit()
    second = after(world, first)
    third = after(world, second)
    jobs.request_stop(world.read(first), world.user, world.settings)
    assert [world.read(job).status for job in (second, third)] == ["skipped", "skipped"]


def test_failure_spreads_along_a_long_chain(world: World) -> None:
    first = last = world.submit(code=1)
    for _ in range(1200):  # longer than the stack of Python
        with write("test"):
            last = submission.prepare(
                world.project,
                world.user,
                {"config": CONFIG, "dependencies": [Requested(last.id, Condition.SUCCESS)]},
                world.settings,
                may_choose_folder=False,
            )()
    world.end(first)
    assert world.read(last).status == "upstream_failed"
    assert Job.select().where(Job.finished_at.is_null()).count() == 0


def test_stop_of_a_held_job_ends_it(world: World) -> None:
    first = world.submit(seconds=2)
    job = after(world, first)
    jobs.request_stop(world.read(job), world.user, world.settings)
    world.end(first)
    world.settle()
    assert world.statuses(job) == ["created", "stopped"]


def test_dependency_follows_the_retries(world: World) -> None:
    first = world.submit(code=1, termination={"retry": [{"times": 1, "delay": 30}]})
    on_failure, on_success = after(world, first, on="failure"), after(world, first)
    world.end(first)
    retry = Job.get(Job.retry_number == 1)
    assert dependencies_of(world.read(on_failure)) == [
        {"job": retry.id, "on": "failure", "is_met": False, "reads_outputs": False}
    ]
    assert waiting(world, on_failure) == f"Waiting for #{retry.id} to fail."
    late = after(world, first, on="end")
    assert dependencies_of(world.read(late))[0]["job"] == retry.id
    world.later(32)
    world.end(retry, on_failure, on_success, late)
    assert [world.read(job).status for job in (on_failure, on_success, late)] == [
        "succeeded",
        "upstream_failed",
        "succeeded",
    ]


def test_deleted_job_cannot_be_waited_for(world: World) -> None:
    first = world.submit()
    jobs.delete(world.read(first), world.user, world.settings)
    with pytest.raises(Invalid) as refused:
        after(world, first)
    assert [problem.pointer for problem in refused.value.problems] == ["/after/0/job"]
    assert Job.select().count() == 1


def test_unmanaged_job_can_be_waited_for(world: World) -> None:
    outside = submission.create(world.project, world.user, {"is_managed": False}, world.settings)
    job = after(world, outside)
    world.settle()
    with write("test"):
        end_job(world.read(outside), Status.SUCCEEDED)
    world.end(job)
    assert world.read(job).status == "succeeded"


def test_unmanaged_job_cannot_wait(world: World) -> None:
    attributes = {"is_managed": False, "dependencies": [Requested(world.submit().id, Condition.END)]}
    with pytest.raises(Invalid) as refused:
        submission.create(world.project, world.user, attributes, world.settings)
    assert [problem.pointer for problem in refused.value.problems] == ["/after"]


def test_removed_job_leaves_what_waited_for_it(world: World) -> None:
    first = world.submit()
    job = after(world, first)
    world.end(first, job)
    version = world.read(job).version
    jobs.delete(world.read(first), world.user, world.settings)
    world.later(2)
    assert Job.get_or_none(Job.id == first.id) is None
    assert dependencies_of(world.read(job)) == [{"job": None, "on": "success", "is_met": True, "reads_outputs": False}]
    assert world.read(job).version > version


def test_end_without_dependents_reads_no_dependencies(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    statements: list[str] = []
    execute = database.execute_sql
    monkeypatch.setattr(database, "execute_sql", lambda sql, *rest: statements.append(sql) or execute(sql, *rest))
    world.end(world.submit(code=1), world.submit())
    assert statements
    assert not [sql for sql in statements if "dependency" in sql]
