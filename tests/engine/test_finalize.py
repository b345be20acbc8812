"""The end of a job: the order of its steps, and requests that arrive between a decision and its commit."""

from __future__ import annotations

import contextlib
import os

import pytest

from polyjob.db.models import Build
from polyjob.engine import finalize, reconciler
from polyjob.services import jobs
from polyjob.statuses import Status

BUILD = {"image": "img", "build_steps": ["make"]}
FAILING = BUILD | {"env_vars": [["FAKE_BUILD_FAIL", "1:3"]]}


@pytest.fixture
def meanwhile(monkeypatch):
    """Return a function that registers an act for the moment before the next commit of a pass."""
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


def test_stop_before_the_recorded_build_failure_wins(world, meanwhile):
    job = world.submit(build=FAILING)
    pass_until(world, lambda: Build.select().where(Build.status == Status.FAILED).exists())
    assert world.read(job).status is Status.BUILDING
    meanwhile(lambda: jobs.request_stop(job, world.user, world.settings))
    world.settle()
    assert world.statuses(job)[-1] == "stopped"
    assert world.last(job).details["by"] == "ana"


def test_report_during_the_recording_of_the_end_is_kept(world, meanwhile):
    job = world.submit(start="unavailable")
    pass_until(world, lambda: world.read(job).notes)
    world.clock.move(2)
    pass_until(world, lambda: world.read(job).exit)
    meanwhile(lambda: jobs.post_status(world.read(job), Status.FAILED, "so", None, None, None, world.settings))
    world.settle()
    assert world.read(job).status is Status.SUCCEEDED
    assert [note["kind"] for note in world.read(job).notes] == ["reported"]


@pytest.mark.parametrize("names", ["sleep", "bash tar"])
def test_stragglers_are_noted(world, names):
    job = world.submit(stragglers=names)
    world.settle()
    (note,) = world.read(job).notes
    assert note["kind"] == "stragglers"
    assert all(f"`{name}`" in note["text"] for name in names.split())
    assert world.statuses(job)[-1] == "succeeded"


def test_files_are_synced_before_the_backend_is_cleared(world, monkeypatch):
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


def test_complete_log_is_fetched_before_the_terminal_status(world, monkeypatch):
    monkeypatch.setattr(finalize, "LOG_PIECE_BYTES", 10)
    job = world.submit(log="0123456789" * 200)
    world.end(job)
    assert world.store.job_log(job.uuid).read_bytes() == b"0123456789" * 200
