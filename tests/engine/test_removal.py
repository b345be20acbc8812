"""Removal of deleted builds: their artifacts are dropped in turns, and each is asked of its backend once."""

from __future__ import annotations

import itertools

import pytest

from polyjob.db.models import Build, Job, Project
from polyjob.engine.removal import CONCURRENT_REMOVALS
from polyjob.services import builds, jobs, projects
from polyjob.storage.store import Store
from runners.base import RunnerUnavailable
from tests.engine.conftest import World

from .conftest import raise_

SECONDS = 0.1


def end_builds(world: World, count: int) -> list[Build]:
    for number in range(count):
        world.end(world.submit(build={"image": "a", "build_steps": [f"x{number}"]}))
    return list(Build.select().order_by(Build.id))


@pytest.fixture
def holding(world, monkeypatch):
    """Each artifact of a build is held under its own text."""
    monkeypatch.setattr(world.runner, "artifact_name", lambda artifact: artifact)


@pytest.mark.parametrize("count", [1, 2 * CONCURRENT_REMOVALS])
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
def test_shared_artifact_is_removed_with_its_last_build(world, monkeypatch, holding, stays):
    first, second = end_builds(world, 2)
    Build.update(artifact=first.artifact).execute()
    if stays == "used":
        monkeypatch.setattr(world.runner, "start", lambda *arguments: raise_(RunnerUnavailable("away")))
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


def test_deleted_running_job_is_stopped_and_removed(world):
    job = world.submit(seconds=100, log="x")
    world.settle()
    jobs.delete(job, world.user, world.settings)
    world.later(2)
    assert Job.get_or_none(Job.id == job.id) is None
    assert not world.store.job_folder(job.uuid).exists()
    assert world.runner.inventory() == {}


def test_deleted_queued_job_is_removed_unstarted(world):
    job = world.submit()
    jobs.delete(job, world.user, world.settings)
    world.settle()
    assert Job.get_or_none(Job.id == job.id) is None
    assert world.calls("start", job) == 0


def test_ids_of_deleted_jobs_are_not_reused(world):
    job = world.submit()
    jobs.delete(job, world.user, world.settings)
    world.settle()
    assert world.submit().id > job.id


@pytest.mark.parametrize("first", ["stop", "settle"])
def test_deleted_build_is_removed_with_its_folder(world, first):
    build = world.request_build()
    if first == "settle":
        world.settle()
        assert world.store.build_folder(build.uuid).exists()
    builds.delete(build, world.settings)
    world.settle()
    assert Build.select().count() == 0
    assert not world.store.build_folder(build.uuid).exists()


def test_failed_removal_of_a_build_is_tried_again(world, monkeypatch, caplog):
    build = world.request_build()
    builds.delete(build, world.settings)
    faults = iter([OSError("no")])
    original = world.store.remove_build_in_steps
    monkeypatch.setattr(
        type(world.store), "remove_build_in_steps", lambda self, uuid: raise_(next(faults, None)) or original(uuid)
    )
    world.settle()
    world.later(2)
    assert Build.select().count() == 0
    assert "could not be removed" in caplog.text


@pytest.mark.parametrize("deleted", ["build", "project"])
def test_unmanaged_build_is_removed_with_its_log(world, deleted):
    build = world.request_build(is_managed=False)
    world.store.make_build_folder(build.uuid)
    if deleted == "build":
        builds.delete(build, world.settings)
    else:
        projects.delete(world.project, world.user, world.settings)
    world.settle()
    assert (Build.select().count(), Project.select().count()) == (0, 1 if deleted == "build" else 0)
    assert not world.store.build_folder(build.uuid).exists()


def test_deleted_project_is_removed_with_its_jobs_and_builds(world):
    done = world.submit(build={"image": "a"})
    world.end(done)
    running, queued = world.submit(seconds=100), world.submit(seconds=100)
    world.request_build()
    world.settle()
    projects.delete(world.project, world.user, world.settings)
    world.later(15)
    assert [table.select().count() for table in (Project, Job, Build)] == [0, 0, 0]
    assert list((world.settings.data_dir / "jobs").iterdir()) == []
    assert list((world.settings.data_dir / "builds").iterdir()) == []
    assert world.runner.inventory() == {}
    assert (running.id, queued.id) == (2, 3)


def test_deleted_project_with_many_jobs_is_removed(world):
    for _ in range(30):
        world.submit()
    jobs.stop_many(world.project, range(1, 31), world.user, world.settings)
    projects.delete(world.project, world.user, world.settings)
    world.settle()
    assert Project.select().count() == 0
