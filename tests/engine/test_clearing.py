"""When the backend of an ended job is cleared."""

from __future__ import annotations

import pytest

from polyjob.engine.clearing import Clearing
from runners.base import RunnerUnavailable


@pytest.fixture
def statuses_at_clean(world, monkeypatch):
    """Return the list of the statuses that a job has had whenever it is cleared."""
    statuses = []
    clean = world.runner.clean

    def record(handle):
        statuses.append(world.statuses(world.job)[-1])
        clean(handle)

    monkeypatch.setattr(world.runner, "clean", record)
    return statuses


@pytest.mark.parametrize(("is_local", "status"), [(True, "succeeded"), (False, "running")])
def test_only_local_jobs_are_cleared_after_their_terminal_status(world, statuses_at_clean, is_local, status):
    world.runner.is_local = is_local
    world.job = world.submit(seconds=1, log="text")
    world.end(world.job)
    world.settle()
    assert statuses_at_clean == [status]


def test_lost_local_job_is_cleared_before_its_terminal_status(world, statuses_at_clean):
    world.runner.is_local = True
    world.job = world.submit(vanish=1, seconds=1)
    world.end(world.job)
    world.settle()
    assert world.last(world.job).details["reason"] == "lost"
    assert statuses_at_clean == ["running"]


def test_next_engine_clears_jobs_that_an_earlier_one_has_ended(world, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(Clearing, "submit_calls", lambda self: None)
        world.runner.is_local = True
        ended = world.submit()
        world.end(ended)
        running = world.submit(seconds=100)
        world.settle()
    world.restart()
    world.runner.is_local = True
    assert set(world.runner.inventory()) == {ended.uuid, running.uuid}
    world.settle()
    assert set(world.runner.inventory()) == {running.uuid}


def test_job_that_cannot_be_cleared_delays_no_other(world, monkeypatch):
    clean, stubborn = world.runner.clean, []

    def refuse_first(handle):
        stubborn.append(handle)
        if handle == stubborn[0] and world.clock.seconds() < 1050:
            raise RunnerUnavailable("its folder cannot be removed")
        clean(handle)

    monkeypatch.setattr(world.runner, "clean", refuse_first)
    world.runner.is_local = True
    jobs = [world.submit() for _ in range(4)]
    world.end(*jobs)
    world.later(2)
    assert list(world.runner.inventory().values()) == stubborn[:1]
    world.later(120)
    assert world.runner.inventory() == {}
