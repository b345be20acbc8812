"""Slots and GPUs that change while the engine runs."""

from __future__ import annotations

import dataclasses

import pytest

from polyjob.db.models import Job
from polyjob.errors import Invalid
from polyjob.services import capacity, job_queue, jobs, specs
from polyjob.statuses import Status

from .conftest import World


@pytest.fixture
def world(settings, project, user):
    return World(dataclasses.replace(settings, gpus=(0, 1, 2), slots=2), project, user)


def statuses(*submitted):
    return [str(Job.get_by_id(job.id).status) for job in submitted]


def change_slots(world, number):
    capacity.change(world.settings, {"slots": {"fake": number}})


def waiting(job):
    job = Job.get_by_id(job.id)
    return job_queue.waiting_reason(job, job_queue.queue_position(job))


def test_more_slots_start_waiting_jobs_in_the_next_pass(world):
    submitted = [world.submit(seconds=9) for _ in range(4)]
    world.settle()
    assert statuses(*submitted) == ["running", "running", "created", "created"]
    change_slots(world, 3)
    world.settle()
    assert statuses(*submitted) == ["running", "running", "running", "created"]


def test_fewer_slots_stop_no_running_job(world):
    first, second, third = (world.submit(seconds=seconds) for seconds in (3, 6, 1))
    world.settle()
    change_slots(world, 1)
    world.end(first)
    assert statuses(first, second, third) == ["succeeded", "running", "created"]
    world.end(second, third)
    assert statuses(second, third) == ["succeeded", "succeeded"]


def test_zero_slots_let_jobs_end_and_start_none(world):
    first = world.submit(seconds=2)
    world.settle()
    change_slots(world, 0)
    second = world.submit(seconds=1)
    world.end(first)
    world.later(3)
    assert statuses(first, second) == ["succeeded", "created"]
    assert waiting(second) == "The fake runner has 0 slots, so no job starts until an administrator gives it some."
    change_slots(world, None)
    world.end(second)
    assert statuses(second) == ["succeeded"]


def test_etag_of_a_waiting_job_changes_with_the_slots(world):
    job = world.submit()
    before = jobs.visible_state(world.project, job.id)
    change_slots(world, 0)
    assert jobs.visible_state(world.project, job.id) != before


def test_job_keeps_a_gpu_that_others_may_no_longer_use(world):
    holder = world.submit(gpus=2, seconds=3)
    world.settle()
    capacity.change(world.settings, {"gpus": [1, 2]})
    second, third = world.submit(gpus=1, seconds=9), world.submit(gpus=1, seconds=9)
    world.settle()
    assert Job.get_by_id(holder.id).gpus == [0, 1]
    assert (Job.get_by_id(second.id).gpus, statuses(third)) == ([2], ["created"])
    world.end(holder)
    assert Job.get_by_id(third.id).gpus == [1]


def test_job_waits_while_fewer_gpus_are_usable_than_it_needs(world):
    capacity.change(world.settings, {"gpus": []})
    job, other = world.submit(gpus=2), world.submit()
    world.end(other)
    assert statuses(job) == ["created"]
    assert waiting(job) == "The job asks for 2 GPUs, but an administrator has limited jobs to 0."
    capacity.change(world.settings, {"gpus": None})
    world.end(job)
    assert statuses(job) == ["succeeded"]


def test_added_gpus_can_be_requested(settings, project, user):
    world = World(dataclasses.replace(settings, gpus=(), slots=2), project, user)
    capacity.change(world.settings, {"gpus": [4, 5]})
    job = world.submit(gpus=2, seconds=2)
    with pytest.raises(Invalid):
        world.submit(build={"image": "a"}, backend="fake", gpus=3)
    world.settle()
    assert Job.get_by_id(job.id).gpus == [4, 5]


@pytest.mark.parametrize(("default", "stored", "hides"), [((), None, False), ((0,), [], True), ((), [0], True)])
def test_process_jobs_see_no_gpus_that_they_do_not_ask_for(settings, project, user, default, stored, hides):
    world = World(dataclasses.replace(settings, gpus=default), project, user)
    capacity.change(world.settings, {"gpus": stored})
    job = world.submit()
    spec = specs.job_spec(job, world.store, world.settings, "0" * 32, "t", None)
    assert (spec.hides_gpus, spec.resources.gpus) == (hides, ())


def test_gpu_numbers_of_a_container_are_those_of_nvidia_smi(world):
    job = world.submit(gpus=1, seconds=2)
    assert "CUDA_DEVICE_ORDER" not in specs.job_env(job, world.settings, "t")
    world.settle()
    assert specs.job_env(Job.get_by_id(job.id), world.settings, "t")["CUDA_DEVICE_ORDER"] == "PCI_BUS_ID"
    assert Job.get_by_id(job.id).status is Status.RUNNING
