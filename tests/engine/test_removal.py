"""Removal of deleted builds: their artifacts are dropped in turns, and each is asked of its backend once."""

from __future__ import annotations

import itertools

import pytest

from polyjob.db.models import Build, Job
from polyjob.engine.removal import ERASED_AT_ONCE
from polyjob.services import builds, jobs
from polyjob.storage.store import Store
from runners.base import RunnerUnavailable
from tests.engine.conftest import World

SECONDS = 0.1


def end_builds(world: World, count: int) -> list[Build]:
    for number in range(count):
        world.end(world.submit(build={"image": "a", "build_steps": [f"x{number}"]}))
    return list(Build.select().order_by(Build.id))


@pytest.fixture
def holding(world, monkeypatch):
    """Each artifact of a build is held under its own text."""
    monkeypatch.setattr(world.runner, "artifact_name", lambda artifact: artifact)


@pytest.mark.parametrize("count", [1, 2 * ERASED_AT_ONCE])
def test_small_removals_do_not_wait_for_large_artifacts(world, monkeypatch, holding, count):
    small = world.submit()
    world.end(small)
    remaining = {build.artifact: 50 for build in end_builds(world, count)}

    def remove_artifact_in_steps(name):
        while remaining[name]:
            remaining[name] -= 1
            world.clock.move(SECONDS)
            yield

    monkeypatch.setattr(world.runner, "remove_artifact_in_steps", remove_artifact_in_steps)
    for build in Build.select():
        builds.delete(build, world.settings)
    jobs.delete(world.read(small), world.user, world.settings)
    for _ in range(6):
        world.engine.run_pass()
    assert not Job.select().where(Job.id == small.id).exists()
    assert Build.select().count() == count
    world.later(100)
    assert not Build.select().exists()
    assert not any(remaining.values())


@pytest.mark.parametrize("is_away", [False, True])
@pytest.mark.parametrize("restarted", [False, True])
def test_artifact_is_dropped_once(world, monkeypatch, holding, is_away, restarted):
    (build,) = end_builds(world, 1)
    dropped, steps, real = [], itertools.count(), Store.remove_build_in_steps

    def remove_artifact(name):
        dropped.append(name)
        if is_away:
            raise RunnerUnavailable("away")

    def removing(store, uuid):
        while next(steps) < 100:
            world.clock.move(SECONDS)
            yield
        yield from real(store, uuid)

    monkeypatch.setattr(world.runner, "remove_artifact", remove_artifact)
    monkeypatch.setattr(Store, "remove_build_in_steps", removing)
    builds.delete(build, world.settings)
    for _ in range(4):
        world.engine.run_pass()
    assert Build.select().exists() and next(steps) > 10
    if restarted:
        world.restart()
        monkeypatch.setattr(world.runner, "artifact_name", lambda artifact: artifact)
        monkeypatch.setattr(world.runner, "remove_artifact", remove_artifact)
    world.later(20)
    assert not Build.select().exists()
    assert dropped == [build.artifact] * (1 + restarted)


@pytest.mark.parametrize("stays", [None, "other", "used"])
def test_shared_artifact_is_dropped_with_the_last_build_that_has_it(world, monkeypatch, holding, stays):
    first, second = end_builds(world, 2)
    Build.update(artifact=first.artifact).execute()
    if stays == "used":
        job = world.submit(build={"image": "a", "build_steps": ["x1"]})
        world.engine.run_pass()
        assert world.read(job).build == second
        Build.update(deleted_at=world.clock.wall()).where(Build.id == second.id).execute()
    dropped = []
    monkeypatch.setattr(world.runner, "remove_artifact", dropped.append)
    for build in (first, second) if stays is None else (first,):
        builds.delete(build, world.settings)
    for _ in range(4):
        world.engine.run_pass()
    assert not Build.select().where(Build.id == first.id).exists()
    assert set(dropped) == ({first.artifact} if stays is None else set())
