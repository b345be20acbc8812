"""Volumes of jobs that wait while the server's setting changes."""

from __future__ import annotations

import dataclasses

import pytest

from polyjob.services import submission
from polyjob.setting_values import read_volumes

from .conftest import World

CONFIG = {"run": {"cmd": "true"}, "environment": {"data_refs": ["data"]}}


@pytest.fixture
def world(settings, project, user):
    return World(dataclasses.replace(settings, volumes=read_volumes("data=/srv/data:ro")), project, user)


def submit(world, **sections):
    config = {"version": 1, "kind": "job"} | CONFIG | sections
    return submission.create(world.project, world.user, {"config": config}, world.settings)


def test_job_that_waits_for_a_removed_volume_fails_with_the_reason(world):
    job = submit(world)
    object.__setattr__(world.settings, "volumes", read_volumes("other=/srv/other:ro"))
    world.restart()
    world.end(job)
    assert (world.statuses(job)[-1], world.read(job).exit["reason"]) == ("failed", "start")
    assert "There is no volume `data` for the fake runner; it has: other." in world.last(job).message
    assert world.calls("start", job) == 0


def test_job_that_was_started_before_its_volume_was_removed_is_stopped(world):
    job = submit(world, environment={"data_refs": ["data"], "env_vars": [["FAKE_SECONDS", "100"]]})
    world.runner.start = lambda spec, artifact: _die_after(type(world.runner).start, world.runner, spec, artifact)
    with pytest.raises(KeyboardInterrupt):
        world.settle()
    object.__setattr__(world.settings, "volumes", ())
    world.restart()
    world.end(job)
    assert world.statuses(job)[-1] == "failed"
    assert "There is no volume `data`" in world.last(job).message
    assert world.calls("start", job) == 0  # of this engine
    assert world.runner.inventory() == {}


def _die_after(start, runner, spec, artifact):
    """Start the job, and die before the handle is committed."""
    start(runner, spec, artifact)
    raise KeyboardInterrupt


def test_retry_keeps_the_volumes(world):
    job = submit(
        world,
        environment={"data_refs": ["data"], "env_vars": [["FAKE_CODE", "1"]]},
        termination={"max_retries": 1},
    )
    world.end(job)
    [retry] = [row for row in type(job).select() if row.original_id == job.id]
    assert retry.config["environment"]["data_refs"] == ["data"]
