"""Stops and timeouts of jobs."""

from __future__ import annotations

import pytest

from polyjob.db.database import write
from polyjob.db.models import Job
from polyjob.services import jobs
from polyjob.statuses import Status

from .conftest import SUCCESS_PATH


def test_queued_job_is_stopped_by_the_request_itself(world):
    job = world.submit()
    jobs.request_stop(job, world.user, world.settings)
    assert world.statuses(job) == ["created", "stopped"]
    world.settle()
    assert world.calls("start", job) == 0


def test_stopped_job_keeps_its_true_exit(world):
    job = world.submit(seconds=100)
    world.settle()
    jobs.request_stop(job, world.user, world.settings)
    assert world.read(job).status is Status.RUNNING
    world.later(1)
    last = world.last(job)
    assert (last.status, last.message) == (Status.STOPPED, "Job was stopped")
    assert last.details == {"exit_code": 143, "reason": "signalled", "signal": 15, "by": "ana"}
    assert world.read(job).exit_code == 143


def test_kill_follows_the_grace_period(world):
    job = world.submit(seconds=100, ignore_term="yes", termination={"grace": 5})
    world.settle()
    jobs.request_stop(job, world.user, world.settings)
    world.later(4)
    assert world.read(job).status is Status.RUNNING
    assert world.calls("stop", job) == 1
    world.later(3)
    assert world.last(job).details["signal"] == 9


def test_kill_follows_although_the_engine_died_in_between(world):
    job = world.submit(seconds=100, ignore_term="yes", termination={"grace": 5})
    world.settle()
    jobs.request_stop(job, world.user, world.settings)
    world.later(2)
    world.restart()
    world.later(6)
    assert world.read(job).status is Status.STOPPED


def test_stop_after_the_recorded_exit_changes_nothing(world):
    job = world.submit(seconds=1)
    world.settle()
    with write("test"):
        Job.update(exit={"reason": "exited", "code": 0}, exit_code=0).where(Job.id == job.id).execute()
    jobs.request_stop(job, world.user, world.settings)
    world.end(job)
    assert world.read(job).status is Status.SUCCEEDED


def test_failed_term_is_sent_again(world):
    job = world.submit(seconds=100, termination={"grace": 60})
    world.settle()
    jobs.request_stop(job, world.user, world.settings)
    world.set_available(False)
    world.settle()
    world.set_available(True)
    world.later(10)
    assert world.last(job).details["signal"] == 15
    assert world.read(job).notes is None


def test_stop_of_a_done_job_changes_nothing(world):
    job = world.submit()
    world.end(job)
    before = world.read(job).version
    jobs.request_stop(job, world.user, world.settings)
    world.settle()
    assert world.statuses(job) == SUCCESS_PATH
    assert world.read(job).version == before


def test_stop_before_the_start_prevents_it(world):
    job = world.submit(seconds=100)
    world.set_available(False)
    world.settle()
    assert world.read(job).attempt_at is not None
    jobs.request_stop(job, world.user, world.settings)
    world.set_available(True)
    world.restart()
    world.settle()
    assert world.statuses(job) == ["created", "scheduled", "stopped"]
    assert world.calls("start", job) == 0


def test_stop_finds_a_job_whose_start_had_no_answer(world):
    job = world.submit(start="unavailable", seconds=100)
    world.settle()
    assert world.read(job).handle is None
    jobs.request_stop(job, world.user, world.settings)
    world.restart()
    world.later(3)
    assert world.statuses(job)[-1] == "stopped"
    assert world.last(job).details["signal"] == 15


def test_timeout_fails_the_job(world):
    job = world.submit(seconds=100, termination={"timeout": 5})
    world.settle()
    world.later(4)
    assert world.read(job).status is Status.RUNNING
    world.later(4)
    last = world.last(job)
    assert (last.status, last.details["reason"], last.details["exit_code"]) == (Status.FAILED, "timeout", 143)


def test_timeout_counts_from_the_first_attempt(world):
    job = world.submit(pending=3, seconds=100, termination={"timeout": 6})
    world.later(5)
    assert world.read(job).status is Status.RUNNING
    world.restart()
    world.later(3)
    assert (world.read(job).status, world.last(job).details["reason"]) == (Status.FAILED, "timeout")


@pytest.mark.parametrize("env", [{"pending": 1000}, {"faults": '{"start": "unavailable"}'}])
def test_timeout_ends_a_job_that_never_starts(world, env):
    job = world.submit(seconds=100, termination={"timeout": 6}, **env)
    world.later(15)
    assert world.statuses(job) == ["created", "scheduled", "failed"]
    assert world.last(job).details["reason"] == "timeout"


def test_job_stopped_before_its_start_has_no_retry_note(world):
    world.set_available(False)
    job = world.submit()
    world.later(5)
    assert {note["kind"] for note in world.read(job).notes} == {"retry"}
    jobs.request_stop(job, world.user, world.settings)
    world.set_available(True)
    world.end(job)
    assert (world.statuses(job)[-1], world.read(job).notes) == ("stopped", None)


def test_wall_clock_does_not_change_a_timeout(world):
    job = world.submit(seconds=100, termination={"timeout": 10})
    world.settle()
    world.clock.step(hours=5)
    world.later(5)
    assert world.read(job).status is Status.RUNNING
    world.clock.step(hours=-10)
    world.later(7)
    assert world.last(job).details["reason"] == "timeout"
