"""Outputs of earlier jobs that a job reads: when it waits for them, and what happens if they are missing."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import pytest

from polyjob.db.models import Job
from polyjob.errors import Invalid, Unavailable
from polyjob.services import cloning, jobs, submission
from polyjob.services.dependencies import Condition, Requested, dependencies_of
from polyjob.storage.store import Store
from tests.engine.conftest import World

OUTPUTS = json.dumps({"score": "1"})


def config(*references: int | str, **termination: Any) -> dict[str, Any]:
    environment = {"outputs": {"jobs": list(references)}}
    return {"version": 1, "kind": "job", "run": {"cmd": "true"}, "environment": environment} | termination


def find_job(name: int | str) -> int | None:
    """Return the id of any job."""
    return int(name) if Job.select().where(Job.id == int(name)).exists() else None


def reading(world: World, *upstreams: Job, after: Sequence[Requested] = (), **termination: Any) -> Job:
    attributes = {"config": config(*(job.id for job in upstreams), **termination), "dependencies": after}
    return submission.create(world.project, world.user, attributes, world.settings, find_job=find_job)


@pytest.fixture
def specs(world: World, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The specs with which jobs are started."""
    started: list[Any] = []
    start = type(world.runner).start

    def record(runner: Any, spec: Any, artifact: str | None) -> str:
        started.append(spec)
        return start(runner, spec, artifact)

    monkeypatch.setattr(type(world.runner), "start", record)
    return started


def test_job_reads_the_outputs_of_jobs_that_are_done(world: World, specs: list[Any]) -> None:
    first, second = world.submit(outputs=OUTPUTS), world.submit()
    failed = world.submit(outputs=OUTPUTS, code=1)
    world.end(first, second, failed)
    job = reading(world, second, failed, first)
    world.end(job)
    assert world.statuses(job)[-1] == "succeeded"
    assert [outputs.name for outputs in specs[-1].job_outputs] == [str(one.id) for one in (second, failed, first)]
    assert [outputs.path is None for outputs in specs[-1].job_outputs] == [True, False, False]


def test_job_waits_for_the_success_of_the_others(world: World, specs: list[Any]) -> None:
    first = world.submit(outputs=OUTPUTS, seconds=5)
    job = reading(world, first)
    expected = {"job": first.id, "on": "success", "is_met": False, "reads_outputs": True}
    assert dependencies_of(world.read(job)) == [expected]
    world.settle()
    assert world.statuses(job) == ["created"]
    world.end(job)
    assert [outputs.name for outputs in specs[-1].job_outputs] == [str(first.id)]


def test_failure_of_the_other_job_ends_the_job(world: World) -> None:
    first = world.submit(outputs=OUTPUTS, seconds=5, code=1)
    job = reading(world, first)
    world.end(job)
    assert world.statuses(job) == ["created", "upstream_failed"]


def test_condition_of_after_replaces_that_of_the_outputs(world: World, specs: list[Any]) -> None:
    first = world.submit(outputs=OUTPUTS, seconds=5, code=1)
    job = reading(world, first, after=[Requested(first.id, Condition.END)])
    world.end(job)
    assert world.statuses(job)[-1] == "succeeded"
    assert len(specs[-1].job_outputs) == 1


def test_outputs_are_those_of_the_last_retry(world: World, specs: list[Any]) -> None:
    first = world.submit(outputs=OUTPUTS, termination={"max_retries": 1}, code=1, seconds=5)
    job = reading(world, first, after=[Requested(first.id, Condition.END)])
    world.end(job)
    retry = Job.get(Job.original == first.id)
    assert [outputs.name for outputs in specs[-1].job_outputs] == [str(first.id)]
    assert {one["job"] for one in dependencies_of(world.read(job))} == {retry.id}


def test_retry_reads_the_same_outputs(world: World, specs: list[Any]) -> None:
    first = world.submit(outputs=OUTPUTS)
    world.end(first)
    variables = {"env_vars": [["FAKE_CODE", "1"]], "outputs": {"jobs": [first.id]}}
    attributes = {"config": config(termination={"max_retries": 1}) | {"environment": variables}}
    job = submission.create(world.project, world.user, attributes, world.settings, find_job=find_job)
    world.end(job)
    retry = Job.get(Job.original == job.id)
    world.end(retry)
    assert [len(spec.job_outputs) for spec in specs[-2:]] == [1, 1]
    assert dependencies_of(world.read(retry)) == dependencies_of(world.read(job))


def test_clone_looks_the_jobs_up_again(world: World, specs: list[Any]) -> None:
    first = world.submit(outputs=OUTPUTS)
    job = reading(world, first)
    world.end(job)
    clone = cloning.clone(world.read(job), world.user, "restart", {}, world.settings, find_job=find_job)
    world.end(clone)
    assert [len(spec.job_outputs) for spec in specs[-2:]] == [1, 1]
    with pytest.raises(Invalid, match="job of a schedule"):
        cloning.clone(world.read(job), world.user, "restart", {}, world.settings)


@pytest.mark.parametrize("is_deleted", [True, False])
def test_outputs_that_vanish_while_the_job_waits_end_it(world: World, is_deleted: bool) -> None:
    first, slow = world.submit(outputs=OUTPUTS), world.submit(seconds=5)
    world.end(first)
    job = reading(world, first, after=[Requested(slow.id, Condition.END)])
    if is_deleted:
        jobs.delete(world.read(first), world.user, world.settings)
    else:
        Job.update(cleared_at=world.read(first).finished_at).where(Job.id == first.id).execute()
    world.end(job)
    row = world.read(job)
    assert (row.status, row.exit["reason"]) == ("failed", "start")
    assert row.exit["message"] == f"The outputs of #{first.id}, which this job reads, are missing or were removed"


def test_removed_outputs_are_refused(world: World) -> None:
    first = world.submit(outputs=OUTPUTS)
    world.end(first)
    Job.update(cleared_at=world.read(first).finished_at).where(Job.id == first.id).execute()
    with pytest.raises(Invalid) as caught:
        reading(world, first)
    assert [(one.pointer, one.detail) for one in caught.value.problems] == [
        ("/config/environment/outputs/jobs/0", f"The outputs of job #{first.id} were removed to make room.")
    ]


def test_started_job_is_adopted_although_the_other_was_deleted(world: World) -> None:
    first = world.submit(outputs=OUTPUTS)
    world.end(first)
    job = reading(world, first)
    Job.update(config=world.read(job).config | {"environment": {
        "env_vars": [["FAKE_START", "unavailable"], ["FAKE_SECONDS", "5"]], "outputs": {"jobs": [first.id]}
    }}).where(Job.id == job.id).execute()  # fmt: skip
    world.settle()
    jobs.delete(world.read(first), world.user, world.settings)
    world.restart()
    world.end(job)
    assert world.statuses(job)[-1] == "succeeded"


def test_link_is_tried_again_on_a_full_disk(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    first = world.submit(outputs=OUTPUTS)
    job = reading(world, first)
    link = Store.link_job_outputs
    is_full = [True]

    def refuse(*arguments: Any) -> None:
        if is_full[0]:
            raise Unavailable("The disk is full.", 60)
        link(*arguments)

    monkeypatch.setattr(Store, "link_job_outputs", refuse)
    world.later(10)
    assert world.statuses(job) == ["created", "scheduled"]
    is_full[0] = False
    world.end(job)
    assert world.statuses(job)[-1] == "succeeded"


def test_end_removes_what_the_job_has_read(world: World) -> None:
    first = world.submit(outputs=OUTPUTS)
    job = reading(world, first)
    world.end(job)
    assert not (world.store.job_folder(job.uuid) / "inputs").exists()
    assert world.store.outputs(first.uuid).path.exists()


def test_queued_job_cannot_be_changed_to_read_outputs(world: World) -> None:
    first, job = world.submit(seconds=50), world.submit()
    with pytest.raises(Invalid, match="Clone it instead"):
        jobs.update(job, {"config": config(first.id)}, world.settings)
