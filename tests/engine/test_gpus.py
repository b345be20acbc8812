"""GPUs: each index to one job at a time, in the order of the queue."""

from __future__ import annotations

import dataclasses

import pytest

from polyjob.db.models import Job
from polyjob.errors import Invalid
from polyjob.services import job_queue, specs, submission
from polyjob.statuses import Status

from .conftest import World


def config(gpus: int = 0, seconds: int = 5):
    environment = {"env_vars": [["FAKE_SECONDS", str(seconds)]]}
    if gpus:
        environment["resources"] = {"gpu": {"limits": gpus}}
    return {"version": 1, "kind": "job", "run": {"cmd": "true"}, "environment": environment}


@pytest.fixture
def world(settings, project, user):
    return World(dataclasses.replace(settings, gpus=(0, 2, 5), slots=4), project, user)


def submit(world, *gpus):
    return [submission.create(world.project, world.user, {"config": config(count)}, world.settings) for count in gpus]


def held(found):
    return [Job.get_by_id(job.id).gpus for job in found]


def running(found):
    return [Job.get_by_id(job.id).status is Status.RUNNING for job in found]


def test_each_job_holds_its_own_gpus_until_it_ends(world):
    found = submit(world, 2, 1, 1)
    world.settle()
    assert held(found) == [[0, 2], [5], None]
    assert running(found) == [True, True, False]
    world.end(*found)
    assert held(found)[2] in ([0], [2], [5])
    assert job_queue.gpus_taken() == set()


def test_job_waiting_for_gpus_lets_jobs_without_gpus_pass(world):
    found = submit(world, 2, 3, 1, 0)
    world.settle()
    assert running(found) == [True, False, False, True]
    reason = job_queue.waiting_reason(Job.get_by_id(found[1].id), 1)
    assert "3 free GPUs" in reason and f"GPU 0 is held by #{found[0].id}" in reason
    world.end(*found)
    assert held(found)[1] == [0, 2, 5]
    ended = [Job.get_by_id(job.id).started_at for job in found]
    assert ended[1] < ended[2]


def test_gpus_stay_held_after_a_restart(world):
    found = submit(world, 3)
    world.settle()
    world.restart()
    later = submit(world, 1)
    world.settle()
    assert (running(found), running(later)) == ([True], [False])


def test_request_for_too_many_gpus_is_refused(world):
    with pytest.raises(Invalid) as refused:
        submit(world, 4)
    (problem,) = refused.value.problems
    assert problem.pointer == "/config/environment/resources/gpu"
    assert "4 GPUs, but the server has 3" in problem.detail


def test_server_without_gpus_ignores_or_refuses_requests(world):
    without = dataclasses.replace(world.settings, gpus=())
    assert [note["kind"] for note in specs.check_runner_support(config(1), "process", without)] == [
        "environment.resources.gpu"
    ]
    with pytest.raises(Invalid):
        specs.check_runner_support(config(1) | {"build": {"image": "a"}}, "docker", without)


def test_job_without_its_gpus_waits_for_a_slot(world, settings, project, user):
    without = World(dataclasses.replace(settings, gpus=(), slots=1, runner="process"), project, user)
    _, waiting = submit(without, 0, 1)
    reason = job_queue.waiting_reason(waiting, 1)
    assert reason == "Waiting for a free slot of the process runner; this job is next."
