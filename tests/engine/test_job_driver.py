"""The life of a job on the fake runner: statuses, exit, log, outputs and notes."""

from __future__ import annotations

import dataclasses
import json

import pytest

from polyjob.engine.call_pools import Result
from polyjob.engine.finalize import LogPosition
from polyjob.services import jobs
from polyjob.services.notes import note_text
from polyjob.statuses import Status
from runners.base import RunnerUnavailable

from .conftest import SUCCESS_PATH, World


@pytest.fixture
def fetches(world, monkeypatch):
    """The fetches of logs that have begun. They do not end."""
    calls, begun = world.engine.context.calls, []
    submit = calls.submit
    monkeypatch.setattr(calls, "submit", lambda call: begun.append(call) if call.verb == "logs" else submit(call))
    return begun


def test_job_runs_from_submission_to_success(world):
    job = world.submit(seconds=3, log="hello\n", outputs=json.dumps({"a.txt": "A"}))
    world.settle()
    assert world.statuses(job) == ["created", "scheduled", "running"]
    world.later(4)
    assert world.statuses(job) == SUCCESS_PATH
    row = world.read(job)
    assert (row.exit_code, row.node) == (0, "fake-node")
    assert world.last(job).message == "Completed"
    assert world.store.job_log(job.uuid).read_bytes() == b"hello\n"
    assert [name for name, _ in world.store.outputs(job.uuid).tree("")[0]] == ["a.txt"]
    assert world.calls("start", job) == 1
    assert world.calls("clean", job) == 1


def test_job_that_ends_at_once_still_shows_running(world):
    job = world.submit()
    world.end(job)
    assert world.statuses(job) == SUCCESS_PATH


def test_dropped_outputs_are_noted(world):
    job = world.submit(outputs=json.dumps({"a": "A", "b": "B" * 5000}))
    object.__setattr__(world.settings, "outputs_limit", 100)
    world.restart()
    world.end(job)
    assert world.store.outputs(job.uuid).tree("")[0] == [("a", 1)]
    assert [note["kind"] for note in world.read(job).notes] == ["outputs"]


def test_failed_job_has_exit_code_log_and_outputs(world):
    job = world.submit(code=7, log="no\n", outputs=json.dumps({"a": "A"}))
    world.end(job)
    last = world.last(job)
    assert (last.status, last.message) == (Status.FAILED, "exit-code(7)")
    assert last.details["exit_code"] == 7
    assert last.details["reason"] == "exited"
    assert world.read(job).exit_code == 7
    assert world.store.job_log(job.uuid).read_bytes() == b"no\n"
    assert world.store.outputs(job.uuid).tree("")[0] == [("a", 1)]


def test_times_follow_the_statuses(world):
    job = world.submit(seconds=1)
    world.end(job)
    row, rows = world.read(job), list(jobs.list_statuses(job))
    assert row.started_at == rows[1].created_at
    assert row.finished_at == rows[-1].created_at
    moments = [status.created_at for status in rows]
    assert moments == sorted(set(moments))


def test_start_with_lost_answer_is_adopted(world):
    job = world.submit(start="unavailable", seconds=1)
    world.end(job)
    assert world.statuses(job) == SUCCESS_PATH
    assert world.calls("start", job) == 2


def test_failed_start_fails_the_job_with_its_reason(world):
    job = world.submit(start="fail")
    world.end(job)
    last = world.last(job)
    assert world.statuses(job) == ["created", "scheduled", "failed"]
    assert last.details["reason"] == "start"
    assert "refuses this job" in last.message


def test_vanished_job_is_lost(world):
    job = world.submit(seconds=2, vanish="yes")
    world.end(job)
    last = world.last(job)
    assert (last.status, last.details["reason"], last.details["exit_code"]) == (Status.FAILED, "lost", None)
    assert world.read(job).exit_code is None


def test_wall_clock_never_reorders_statuses(world, monkeypatch):
    job = world.submit(seconds=1)
    world.settle()
    import polyjob.services.transitions

    then = polyjob.services.transitions.now()
    monkeypatch.setattr("polyjob.services.transitions.now", lambda: then.replace(year=then.year - 1))
    world.end(job)
    moments = [row.created_at for row in jobs.list_statuses(job)]
    assert moments == sorted(set(moments))


def test_log_over_its_limit_is_cut_with_a_last_line(settings, project, user):
    world = World(dataclasses.replace(settings, log_limit=25), project, user)
    job = world.submit(log="0123456789" * 20, seconds=2)
    world.end(job)
    log = world.store.job_log(world.read(job).uuid).read_bytes()
    assert log == b"0123456789012345678901234\npolyjob dropped the rest of this log here: the limit is 25 bytes\n"


def test_quiet_log_is_fetched_less_often(world):
    world.runner.max_log_pause = 10.0
    job = world.submit(seconds=100, log="once")
    world.later(60)
    assert 6 <= world.calls("logs", job) <= 13
    world.later(50)
    assert world.store.job_log(job.uuid).read_bytes() == b"once"


def test_fetch_that_brings_nothing_is_not_urgent(world, fetches):
    world.submit(seconds=100)
    world.later(2)
    (fetch,) = fetches
    assert not Result(fetch, value=fetch.position).is_urgent
    assert Result(fetch, value=LogPosition("1", 1)).is_urgent
    assert Result(fetch, error=RunnerUnavailable("away")).is_urgent


@pytest.mark.parametrize("is_stopped", [True, False])
def test_fetch_that_delays_an_end_is_urgent(world, fetches, is_stopped):
    job = world.submit(seconds=100 if is_stopped else 5)
    world.later(2)
    if is_stopped:
        jobs.request_stop(world.read(job), world.user, world.settings)
    world.later(5)
    (fetch,) = fetches
    assert Result(fetch, value=fetch.position).is_urgent


def test_quiet_log_is_fetched_every_tick_by_default(world):
    job = world.submit(seconds=100, log="once")
    world.later(60)
    assert world.calls("logs", job) >= 55


def test_backend_note_is_shown_until_the_job_runs(world):
    job = world.submit(pending=3, seconds=2)
    world.later(2)
    assert note_text(world.read(job).notes, "runner") == "pretending to wait"
    world.later(2)
    assert world.read(job).status is Status.RUNNING
    assert note_text(world.read(job).notes, "runner") is None


def test_backend_note_is_removed_when_a_waiting_job_ends(world):
    job = world.submit(pending=1000)
    world.later(2)
    jobs.request_stop(world.read(job), world.user, world.settings)
    world.end(job)
    assert world.read(job).notes is None


@pytest.mark.parametrize("reason", ["image", "start"])
def test_command_that_never_began_is_never_running(world, reason):
    job = world.submit(reason=reason)
    world.end(job)
    assert world.statuses(job) == ["created", "scheduled", "failed"]
    assert world.last(job).details["reason"] == reason


def test_build_step_that_fails_inside_the_job_fails_it(world):
    job = world.submit(build={"image": "a", "build_steps": ["true"]}, reason="build", code=3)
    world.end(job)
    assert world.statuses(job) == ["created", "scheduled", "building", "failed"]
    last = world.last(job)
    assert (last.details["reason"], last.details["exit_code"]) == ("build", 3)


def test_evicted_job_fails(world):
    job = world.submit(reason="evicted", code=137)
    world.end(job)
    assert world.statuses(job)[-2:] == ["running", "failed"]
    last = world.last(job)
    assert (last.message, last.details["reason"]) == ("The job was ended by its cluster", "evicted")
