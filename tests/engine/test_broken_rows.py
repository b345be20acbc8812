"""A row that the engine cannot work with holds up no other."""

from __future__ import annotations

import pytest

from polyjob.db.database import write
from polyjob.db.models import Build, Job
from polyjob.engine import job_writes
from polyjob.services.transitions import transition
from polyjob.statuses import Status

from .conftest import SUCCESS_PATH


def test_job_without_a_spec_holds_up_no_other(world):
    bad = world.submit()
    with write("test"):
        Job.update(config={"run": {}}).where(Job.id == bad.id).execute()
    good = world.submit()
    world.end(good)
    assert world.statuses(good) == SUCCESS_PATH
    row = world.read(bad)
    assert row.status is Status.SCHEDULED
    assert "tries again" in row.notes[0]["text"]
    with write("test"):
        Job.update(config=good.config).where(Job.id == bad.id).execute()
    world.end(bad)
    assert world.statuses(bad) == SUCCESS_PATH


def test_job_with_an_invalid_build_holds_up_no_other(world):
    bad = world.submit()
    with write("test"):
        Job.update(config={"build": "no mapping", "run": {"cmd": "true"}}).where(Job.id == bad.id).execute()
    good = world.submit()
    world.end(good)
    assert world.statuses(good) == SUCCESS_PATH
    assert world.statuses(bad) == ["created", "scheduled"]
    assert "tries again" in world.read(bad).notes[0]["text"]


def test_build_without_a_spec_holds_up_no_other(world):
    bad = world.submit(build={"image": "a"})
    world.engine.run_pass()
    with write("test"):
        Build.update(config={}).execute()
    good = world.submit()
    world.settle()
    world.end(good)
    assert world.statuses(good) == SUCCESS_PATH
    assert world.statuses(bad)[-1] == "building"


def test_job_of_a_missing_runner_holds_up_no_other(world):
    gone = world.submit()
    with write("test"):
        Job.update(runner="gone").where(Job.id == gone.id).execute()
    good = world.submit()
    world.end(good)
    assert world.statuses(good) == SUCCESS_PATH
    assert not world.read(gone).status.is_done


def test_write_that_cannot_be_committed_holds_up_no_other(world, monkeypatch):
    bad, good = world.submit(seconds=1), world.submit(seconds=1)
    record = job_writes.record_running

    def refuse(job, begin):
        if job.id == bad.id:
            raise ValueError("this row is refused")
        record(job, begin)

    monkeypatch.setattr(job_writes, "record_running", refuse)
    for _ in range(6):
        world.later(1)
    assert world.statuses(good) == SUCCESS_PATH
    assert world.statuses(bad) == ["created", "scheduled"]
    later = world.submit()
    world.end(later)
    assert world.statuses(later) == SUCCESS_PATH


def test_status_running_is_written_after_a_rollback(world):
    job = world.submit(seconds=1)
    with write("test"):
        transition(world.read(job), Status.SCHEDULED)
    running = job_writes.running_write(world.read(job), job_writes.Begin("node"))
    with pytest.raises(ValueError, match="other job"), write("test"):
        running.apply()
        raise ValueError("refused write of the other job")
    with write("test"):
        running.apply()
    assert world.statuses(job) == ["created", "scheduled", "running"]
