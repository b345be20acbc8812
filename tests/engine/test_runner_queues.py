"""Each runner has slots and a queue of its own. The fake runner stands in for both runners."""

from __future__ import annotations

import dataclasses

import pytest

from polyjob.db.models import Job, Project, User
from polyjob.services import job_queue
from polyjob.setting_values import SlotsByRunner
from polyjob.settings import Settings

from .conftest import World


def make_world(settings: Settings, project: Project, user: User, **changes: object) -> World:
    return World(dataclasses.replace(settings, runners=("fake", "process"), **changes), project, user)


@pytest.fixture
def world(settings: Settings, project: Project, user: User) -> World:
    """An engine with one slot for the fake runner and two for the process runner."""
    return make_world(settings, project, user, slots=SlotsByRunner((("fake", 1), ("process", 2))))


def started(world: World, *submitted: Job) -> list[bool]:
    return [world.read(job).status != "created" for job in submitted]


def test_slots_of_each_runner_are_filled_independently(world: World) -> None:
    fake = [world.submit(seconds=5) for _ in range(3)]
    process = [world.submit(seconds=5, backend="process") for _ in range(3)]
    world.settle()
    assert started(world, *fake) == [True, False, False]
    assert started(world, *process) == [True, True, False]
    assert job_queue.slots_taken() == {"fake": 1, "process": 2}
    world.end(*fake, *process)
    assert job_queue.queued_runners() == []


def test_order_within_a_runner_is_kept(world: World) -> None:
    jobs = [world.submit(seconds=1, backend=backend) for backend in ("fake", "process", "fake", "process", "fake")]
    world.end(*jobs)
    starts = [world.read(job).started_at for job in jobs]
    assert starts[0] < starts[2] < starts[4]


def test_waiting_job_names_the_queue_of_its_runner(world: World) -> None:
    for _ in range(3):
        world.submit(seconds=50)
    process = [world.submit(seconds=50, backend="process") for _ in range(4)]
    world.settle()
    row = world.read(process[3])
    position = job_queue.queue_position(row)
    assert position == 2
    reason = job_queue.waiting_reason(row, position)
    assert reason == "Waiting for a free slot of the process runner; 1 job is ahead."


def test_plain_number_counts_for_each_runner(settings: Settings, project: Project, user: User) -> None:
    world = make_world(settings, project, user, slots=2)
    jobs = [world.submit(seconds=50, backend=backend) for backend in ("fake", "process") for _ in range(3)]
    world.settle()
    assert started(world, *jobs) == [True, True, False] * 2


def test_gpus_are_one_pool(settings: Settings, project: Project, user: User) -> None:
    world = make_world(settings, project, user, slots=3, gpus=(0, 1))
    first = world.submit(seconds=5, gpus=1)
    second = world.submit(seconds=50, gpus=2, backend="process")
    third = world.submit(seconds=50, gpus=1)
    without = world.submit(seconds=50, backend="process")
    world.settle()
    assert started(world, first, second, third, without) == [True, False, False, True]
    world.end(first)
    world.settle()
    assert started(world, second, third) == [True, False]
    assert job_queue.gpus_taken() == {0, 1}


def test_job_without_a_free_slot_holds_no_gpus_up(settings: Settings, project: Project, user: User) -> None:
    world = make_world(settings, project, user, slots=1, gpus=(0,))
    world.submit(seconds=50)
    waiting = world.submit(seconds=50, gpus=1)
    other = world.submit(seconds=50, gpus=1, backend="process")
    world.settle()
    assert started(world, waiting, other) == [False, True]


def test_queued_jobs_of_a_runner_that_is_not_listed_any_more_run(world: World) -> None:
    job = world.submit(backend="process")
    world.settings = dataclasses.replace(world.settings, runners=("fake",))
    world.engine.close()
    loaded = []
    world.restart()
    backends = world.engine.backends
    backends._load_runner = lambda name, wake: loaded.append(name) or world.runner
    world.end(job)
    assert "process" in loaded
    assert world.read(job).status == "succeeded"


def test_failing_runner_is_reported_beside_working_ones(world: World) -> None:
    backends = world.engine.backends
    assert backends.report() == {"name": "fake", "ok": True, "message": None}
    backends._backend("process").check_error = "no machine"
    assert backends.report() == {"name": "process", "ok": False, "message": "no machine"}
    backends._backend("fake").poll_error = "nobody answers"
    assert backends.report()["message"] == "nobody answers; process: no machine"
