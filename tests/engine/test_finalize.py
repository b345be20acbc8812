"""What comes between a pass's decision and its commit, and what an end leaves behind of what was said before."""

from __future__ import annotations

import contextlib
import os

import pytest

from polyjob.db.models import Build
from polyjob.engine import finalize, job_driver, reconciler
from polyjob.services import builds, jobs, submission
from polyjob.statuses import Status
from runners.base import ArtifactMissing

BUILD = {"image": "img", "build_steps": ["make"]}
FAILING = BUILD | {"env_vars": [["FAKE_BUILD_FAIL", "1:3"]]}


@pytest.fixture
def meanwhile(monkeypatch):
    """Have something happen when the next pass that commits has decided, and has not committed yet."""
    write = reconciler.write
    waiting = []

    @contextlib.contextmanager
    def interrupted(name):
        while waiting:
            waiting.pop()()
        with write(name):
            yield

    monkeypatch.setattr(reconciler, "write", interrupted)
    return waiting.append


def pass_until(world, is_so):
    for _ in range(10):
        if is_so():
            return
        world.engine.run_pass()
    raise AssertionError("it never came to that")


def test_a_stop_that_comes_before_the_failure_of_the_build_is_recorded_wins(world, meanwhile):
    job = world.submit(build=FAILING)
    pass_until(world, lambda: Build.select().where(Build.status == Status.FAILED).exists())
    assert world.read(job).status is Status.BUILDING
    meanwhile(lambda: jobs.request_stop(job, world.user, world.settings))
    world.settle()
    assert world.statuses(job)[-1] == "stopped"
    assert world.last(job).details["by"] == "ana"


def test_what_is_reported_while_the_end_is_recorded_is_kept(world, meanwhile):
    job = world.submit(start="unavailable")
    pass_until(world, lambda: world.read(job).notes)
    world.clock.move(2)
    pass_until(world, lambda: world.read(job).exit)
    meanwhile(lambda: jobs.post_status(world.read(job), Status.FAILED, "so", None, None, None, world.settings))
    world.settle()
    assert world.read(job).status is Status.SUCCEEDED
    assert [note["kind"] for note in world.read(job).notes] == ["reported"]


@pytest.mark.parametrize("names", ["sleep", "bash tar"])
def test_processes_that_a_command_left_behind_are_noted(world, names):
    job = world.submit(stragglers=names)
    world.settle()
    (note,) = world.read(job).notes
    assert note["kind"] == "stragglers"
    assert all(f"`{name}`" in note["text"] for name in names.split())
    assert world.statuses(job)[-1] == "succeeded"


def test_a_job_that_named_an_outdated_build_gets_a_new_one_like_it(world, monkeypatch):
    world.submit(build=BUILD)
    world.settle()
    old = Build.get()
    body = {"config": {"version": 1, "kind": "job", "run": {"cmd": "true"}}, "build_job": old.id}
    job = submission.create(world.project, world.user, body, world.settings)
    start, refused = world.runner.start, []

    def refuse_once(spec, artifact):
        if not refused:
            refused.append(spec.uuid)
            raise ArtifactMissing("its Python is missing")
        return start(spec, artifact)

    monkeypatch.setattr(world.runner, "start", refuse_once)
    world.settle()
    assert world.statuses(job)[-1] == "succeeded"
    new = world.read(job).build
    assert new != old
    assert (new.config, new.key) == (old.config, old.key)


def test_a_job_that_is_stopped_before_its_start_waits_for_nothing_any_more(world):
    (world.settings.data_dir / "fake").mkdir()
    (world.settings.data_dir / "fake" / "unavailable").touch()
    job = world.submit()
    world.later(5)
    assert {note["kind"] for note in world.read(job).notes} == {"retry"}
    jobs.request_stop(job, world.user, world.settings)
    (world.settings.data_dir / "fake" / "unavailable").unlink()
    world.end(job)
    assert (world.statuses(job)[-1], world.read(job).notes) == ("stopped", None)


def test_a_build_goes_on_for_a_job_in_the_queue_that_asked_for_it(world):
    build = builds.create(
        world.project, world.user, {"config": {"version": 1, "kind": "build", "build": BUILD}}, world.settings
    )
    (world.settings.data_dir / "fake").mkdir()
    (world.settings.data_dir / "fake" / "unavailable").touch()
    Build.update(is_asked=False).execute()
    busy = [world.submit(seconds=30) for _ in range(world.settings.slots)]
    config = {"config": {"version": 1, "kind": "job", "run": {"cmd": "true"}}}
    job = submission.create(world.project, world.user, config | {"build_job": build.id}, world.settings)
    world.later(3)
    assert Build.get_by_id(build.id).status is Status.RUNNING
    (world.settings.data_dir / "fake" / "unavailable").unlink()
    world.end(job, *busy)
    assert world.statuses(job)[2:] == ["building", "running", "succeeded"]


def test_all_that_is_kept_is_synced_before_the_back_end_lets_go_of_it(world, monkeypatch):
    job = world.submit(log="hello\n", outputs='{"file": "kept"}')
    folder, synced, at_clean = world.store.job_folder(job.uuid), [], []
    monkeypatch.setattr(os, "fsync", lambda file: synced.append(os.readlink(f"/proc/self/fd/{file}")))
    clean = world.runner.clean

    def cleaned(handle):
        at_clean.append((set(synced), world.read(job).status))
        clean(handle)

    monkeypatch.setattr(world.runner, "clean", cleaned)
    world.end(job)
    ((before, status),) = at_clean
    assert before >= {str(folder / "log"), str(folder / "outputs.tar.gz.part"), str(folder), str(folder.parent)}
    assert status is Status.RUNNING


def test_what_was_not_fetched_when_a_job_ended_is_fetched_before_its_end_is_said(world, monkeypatch):
    for module in (finalize, job_driver):
        monkeypatch.setattr(module, "PIECE", 10)
    job = world.submit(log="0123456789" * 200)
    world.end(job)
    assert world.store.job_log(job.uuid).read_bytes() == b"0123456789" * 200


def test_a_timeout_is_no_matter_of_the_wall_clock(world):
    job = world.submit(seconds=100, termination={"timeout": 10})
    world.settle()
    world.clock.step(hours=5)
    world.later(5)
    assert world.read(job).status is Status.RUNNING
    world.clock.step(hours=-10)
    world.later(7)
    assert world.last(job).details["reason"] == "timeout"
