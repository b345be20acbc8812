"""Passes of the engine: slots, the queue, restarts and failures."""

from __future__ import annotations

import pytest

from polyjob.db.database import database
from polyjob.services import job_queue

from .conftest import SUCCESS_PATH


def test_slots_go_to_the_first_jobs_of_the_queue(world):
    submitted = [world.submit(seconds=2) for _ in range(5)]
    world.settle()
    assert [str(world.read(job).status) for job in submitted] == ["running"] * 2 + ["created"] * 3
    assert [job_queue.queue_position(world.read(job)) for job in submitted] == [None, None, 1, 2, 3]
    world.later(3)
    assert [str(world.read(job).status) for job in submitted] == ["succeeded"] * 2 + ["running"] * 2 + ["created"]
    world.end(*submitted)
    assert all(world.statuses(job) == SUCCESS_PATH for job in submitted)


def test_one_free_slot_takes_one_job(world):
    submitted = [world.submit(seconds=seconds) for seconds in (1, 20, 20, 20)]
    world.later(3)
    assert [str(world.read(job).status) for job in submitted] == ["succeeded", "running", "running", "created"]
    world.end(*submitted)


@pytest.mark.parametrize("passes", [2, 3, 4])
def test_restarts_after_few_passes_neither_lose_nor_repeat_jobs(world, passes):
    job = world.submit(pending=2, seconds=3, log="0123456789" * 20)
    while not world.read(job).status.is_done:
        world.restart()
        for _ in range(passes):
            world.engine.run_pass()
        world.clock.move(0.25)
        assert world.clock.seconds() < 1100, world.statuses(job)
    assert world.statuses(job) == SUCCESS_PATH
    assert world.store.job_log(job.uuid).read_bytes() == b"0123456789" * 20


def test_failed_pass_leaves_the_database_usable(world, monkeypatch):
    job = world.submit()
    with monkeypatch.context() as patch:
        patch.setattr("polyjob.engine.reconciler.slots_taken", lambda: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            world.engine.run_pass()
    assert database.transaction_depth() == 0
    world.end(job)
    assert world.statuses(job) == SUCCESS_PATH
