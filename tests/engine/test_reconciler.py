"""Passes over the fake runner: what the statuses, slots, stops, timeouts and crashes of a job come to."""

from __future__ import annotations

import dataclasses
import datetime
import json
import os
from pathlib import Path

import pytest

from polyjob.clock import now
from polyjob.db.database import database, write
from polyjob.db.models import Audit, Build, Job, Project, Token
from polyjob.engine import cleanup
from polyjob.engine.call_pools import InlineCalls, run
from polyjob.services import audit, builds, job_queue, jobs, projects
from polyjob.services.notes import note_text
from polyjob.statuses import Status
from runners.base import RunnerUnavailable
from runners.capabilities import CAPABILITIES, Support, SupportLevel

from .conftest import World

WHOLE_WAY = ["created", "scheduled", "running", "succeeded"]


def test_a_job_goes_its_whole_way(world):
    job = world.submit(seconds=3, log="hello\n", outputs=json.dumps({"a.txt": "A"}))
    world.settle()
    assert world.statuses(job) == ["created", "scheduled", "running"]
    world.later(4)
    assert world.statuses(job) == WHOLE_WAY
    row = world.read(job)
    assert (row.exit_code, row.node) == (0, "fake-node")
    assert world.last(job).message == "Completed"
    assert world.store.job_log(job.uuid).read_bytes() == b"hello\n"
    assert [name for name, _ in world.store.outputs(job.uuid).tree("")[0]] == ["a.txt"]
    assert world.calls("start", job) == 1
    assert world.calls("clean", job) == 1


def test_a_job_that_ends_at_once_still_shows_that_it_ran(world):
    job = world.submit()
    world.end(job)
    assert world.statuses(job) == WHOLE_WAY


def test_what_of_the_outputs_could_not_be_kept_is_noted(world):
    job = world.submit(outputs=json.dumps({"a": "A", "b": "B" * 5000}))
    object.__setattr__(world.settings, "outputs_limit", 100)
    world.restart()
    world.end(job)
    assert world.store.outputs(job.uuid).tree("")[0] == [("a", 1)]
    assert [note["kind"] for note in world.read(job).notes] == ["outputs"]


def test_a_failing_job_keeps_its_code_log_and_outputs(world):
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


def test_slots_are_never_overrun_and_the_queue_is_first_come_first_served(world):
    submitted = [world.submit(seconds=2) for _ in range(5)]
    world.settle()
    assert [str(world.read(job).status) for job in submitted] == ["running"] * 2 + ["created"] * 3
    assert [job_queue.queue_position(world.read(job)) for job in submitted] == [None, None, 1, 2, 3]
    world.later(3)
    assert [str(world.read(job).status) for job in submitted] == ["succeeded"] * 2 + ["running"] * 2 + ["created"]
    world.end(*submitted)
    assert all(world.statuses(job) == WHOLE_WAY for job in submitted)


def test_one_free_slot_takes_one_job(world):
    submitted = [world.submit(seconds=seconds) for seconds in (1, 20, 20, 20)]
    world.later(3)
    assert [str(world.read(job).status) for job in submitted] == ["succeeded", "running", "running", "created"]
    world.end(*submitted)


@pytest.mark.parametrize("passes", [2, 3, 4])
def test_an_engine_that_lives_for_a_few_passes_neither_doubles_nor_loses_a_job(world, passes):
    job = world.submit(pending=2, seconds=3, log="0123456789" * 20)
    while not world.read(job).status.is_done:
        world.restart()
        for _ in range(passes):
            world.engine.run_pass()
        world.clock.move(0.25)
        assert world.clock.seconds() < 1100, world.statuses(job)
    assert world.statuses(job) == WHOLE_WAY
    assert world.store.job_log(job.uuid).read_bytes() == b"0123456789" * 20


def test_a_start_whose_answer_was_lost_is_adopted(world):
    job = world.submit(start="unavailable", seconds=1)
    world.end(job)
    assert world.statuses(job) == WHOLE_WAY
    assert world.calls("start", job) == 2


def test_a_refused_start_fails_the_job_and_says_why(world):
    job = world.submit(start="fail")
    world.end(job)
    last = world.last(job)
    assert world.statuses(job) == ["created", "scheduled", "failed"]
    assert last.details["reason"] == "start"
    assert "told to refuse" in last.message


def test_a_job_that_vanished_is_lost_and_never_a_success(world):
    job = world.submit(seconds=2, vanish="yes")
    world.end(job)
    last = world.last(job)
    assert (last.status, last.details["reason"], last.details["exit_code"]) == (Status.FAILED, "lost", None)
    assert world.read(job).exit_code is None


class TestStop:
    def test_of_a_job_in_the_queue_is_done_when_the_verb_returns(self, world):
        job = world.submit()
        jobs.request_stop(job, world.user, world.settings)
        assert world.statuses(job) == ["created", "stopped"]
        world.settle()
        assert world.calls("start", job) == 0

    def test_of_a_running_job_keeps_the_true_exit(self, world):
        job = world.submit(seconds=100)
        world.settle()
        jobs.request_stop(job, world.user, world.settings)
        assert world.read(job).status is Status.RUNNING
        world.later(1)
        last = world.last(job)
        assert (last.status, last.message) == (Status.STOPPED, "Job was stopped")
        assert last.details == {"exit_code": 143, "reason": "signalled", "signal": 15, "by": "ana"}
        assert world.read(job).exit_code == 143

    def test_waits_for_the_grace_and_then_kills(self, world):
        job = world.submit(seconds=100, ignore_term="yes", termination={"grace": 5})
        world.settle()
        jobs.request_stop(job, world.user, world.settings)
        world.later(4)
        assert world.read(job).status is Status.RUNNING
        assert world.calls("stop", job) == 1
        world.later(3)
        assert world.last(job).details["signal"] == 9

    def test_kill_follows_even_when_the_engine_died_in_the_grace(self, world):
        job = world.submit(seconds=100, ignore_term="yes", termination={"grace": 5})
        world.settle()
        jobs.request_stop(job, world.user, world.settings)
        world.later(2)
        world.restart()
        world.later(6)
        assert world.read(job).status is Status.STOPPED

    def test_that_comes_after_the_exit_was_recorded_changes_nothing(self, world):
        job = world.submit(seconds=1)
        world.settle()
        with write("test"):
            Job.update(exit={"reason": "exited", "code": 0}, exit_code=0).where(Job.id == job.id).execute()
        jobs.request_stop(job, world.user, world.settings)
        world.end(job)
        assert world.read(job).status is Status.SUCCEEDED

    def test_whose_term_was_lost_sends_it_again(self, world):
        job = world.submit(seconds=100, termination={"grace": 60})
        world.settle()
        file = world.settings.data_dir / "fake" / "unavailable"
        jobs.request_stop(job, world.user, world.settings)
        file.touch()
        world.settle()
        file.unlink()
        world.later(10)
        assert world.last(job).details["signal"] == 15
        assert world.read(job).notes is None

    def test_of_what_is_done_changes_nothing(self, world):
        job = world.submit()
        world.end(job)
        before = world.read(job).version
        jobs.request_stop(job, world.user, world.settings)
        world.settle()
        assert world.statuses(job) == WHOLE_WAY
        assert world.read(job).version == before

    def test_between_intent_and_start_runs_nothing(self, world):
        job = world.submit(seconds=100)
        (world.settings.data_dir / "fake").mkdir()
        (world.settings.data_dir / "fake" / "unavailable").touch()
        world.settle()
        assert world.read(job).attempt_at is not None
        jobs.request_stop(job, world.user, world.settings)
        (world.settings.data_dir / "fake" / "unavailable").unlink()
        world.restart()
        world.settle()
        assert world.statuses(job) == ["created", "scheduled", "stopped"]
        assert world.calls("start", job) == 0

    def test_finds_a_job_whose_start_nobody_heard_of(self, world):
        job = world.submit(start="unavailable", seconds=100)
        world.settle()
        assert world.read(job).handle is None
        jobs.request_stop(job, world.user, world.settings)
        world.restart()
        world.later(3)
        assert world.statuses(job)[-1] == "stopped"
        assert world.last(job).details["signal"] == 15


class TestTimeout:
    def test_fails_the_job_and_says_so(self, world):
        job = world.submit(seconds=100, termination={"timeout": 5})
        world.settle()
        world.later(4)
        assert world.read(job).status is Status.RUNNING
        world.later(4)
        last = world.last(job)
        assert (last.status, last.details["reason"], last.details["exit_code"]) == (Status.FAILED, "timeout", 143)

    def test_counts_from_the_first_attempt_and_survives_the_engine(self, world):
        job = world.submit(pending=3, seconds=100, termination={"timeout": 6})
        world.later(5)
        assert world.read(job).status is Status.RUNNING
        world.restart()
        world.later(3)
        assert (world.read(job).status, world.last(job).details["reason"]) == (Status.FAILED, "timeout")

    @pytest.mark.parametrize("env", [{"pending": 1000}, {"faults": '{"start": "unavailable"}'}])
    def test_ends_a_job_that_never_starts(self, world, env):
        job = world.submit(seconds=100, termination={"timeout": 6}, **env)
        world.later(15)
        assert world.statuses(job) == ["created", "scheduled", "failed"]
        assert world.last(job).details["reason"] == "timeout"


class TestBuild:
    BUILD = {"image": "img", "build_steps": ["make"]}

    def test_comes_before_running_and_is_reused(self, world):
        first, second = world.submit(build=self.BUILD), world.submit(build=self.BUILD)
        world.end(first, second)
        assert world.statuses(first) == ["created", "scheduled", "building", "running", "succeeded"]
        assert world.read(first).build_id == world.read(second).build_id
        third = world.submit(build=self.BUILD)
        world.end(third)
        assert world.statuses(third) == world.statuses(first)
        assert Build.select().count() == 1
        build = Build.get()
        assert jobs.list_statuses(third)[2].message == f"Using build {build.unique_name}"
        assert [str(row.status) for row in build.statuses] == ["created", "scheduled", "running", "succeeded"]
        assert world.store.build_log(build.uuid).read_bytes() == b"step 1: make\n"

    def test_differs_with_its_steps_and_not_with_the_command(self, world):
        submitted = [world.submit(build=self.BUILD), world.submit(build=self.BUILD | {"build_steps": ["other"]})]
        world.end(*submitted)
        assert len({world.read(job).build_id for job in submitted}) == 2

    def test_is_made_anew_with_nocache(self, world):
        submitted = [world.submit(build=self.BUILD | {"nocache": True}) for _ in range(2)]
        world.end(*submitted)
        assert len({world.read(job).build_id for job in submitted}) == 2

    @pytest.mark.parametrize("column", ["invalidated_at", "archived_at"])
    def test_older_one_never_takes_the_place_of_a_withdrawn_one(self, world, column):
        old, new = (world.submit(build=self.BUILD | {"nocache": nocache}) for nocache in (False, True))
        world.end(old, new)
        with write("test"):
            Build.update({column: now()}).where(Build.id == world.read(new).build_id).execute()
        job = world.submit(build=self.BUILD)
        world.end(job)
        assert Build.select().count() == 3
        assert world.read(job).build_id not in (world.read(old).build_id, world.read(new).build_id)

    def test_that_fails_names_step_and_code(self, world):
        job = world.submit(build=self.BUILD | {"env_vars": [["FAKE_BUILD_FAIL", "1:3"]]})
        world.end(job)
        last = world.last(job)
        assert world.statuses(job) == ["created", "scheduled", "building", "failed"]
        assert (last.details["step"], last.details["exit_code"], last.details["reason"]) == (1, 3, "build")
        assert "step 1 ended with exit code 3" in last.message
        assert Build.get().status is Status.FAILED
        assert world.calls("start", job) == 0

    def test_that_failed_is_not_reused(self, world):
        build = self.BUILD | {"env_vars": [["FAKE_BUILD_FAIL", "1:3"]]}
        for _ in range(2):
            world.end(world.submit(build=build))
        assert Build.select().count() == 2

    def test_cut_off_by_a_crash_runs_again_and_says_so(self, world):
        job = world.submit(build=self.BUILD)
        world.engine.run_pass()  # claimed, with a new build
        with write("test"):
            Build.update(status=Status.RUNNING).execute()
        world.restart()
        world.end(job)
        assert world.statuses(job)[-1] == "succeeded"
        assert world.store.build_log(Build.get().uuid).read_bytes().startswith(b"The build starts again")

    def test_nobody_waits_for_any_more_is_stopped(self, world):
        job = world.submit(build=self.BUILD)
        world.engine.run_pass()
        jobs.request_stop(job, world.user, world.settings)
        world.settle()
        assert world.statuses(job) == ["created", "scheduled", "building", "stopped"]
        assert Build.get().status is Status.STOPPED

    def test_being_cancelled_is_joined_by_no_other_job(self, world):
        world.engine.context.calls.__class__ = _Held
        first = world.submit(build=self.BUILD)
        world.settle()
        assert world.statuses(first)[-1] == "building"
        jobs.request_stop(first, world.user, world.settings)
        world.settle()
        second = world.submit(build=self.BUILD)
        world.settle()
        assert world.read(second).build_id != world.read(first).build_id
        world.engine.context.calls.release()
        world.end(second)
        assert world.statuses(second)[-1] == "succeeded"
        assert [str(build.status) for build in Build.select().order_by(Build.id)] == ["stopped", "succeeded"]

    def test_that_nobody_wants_after_a_crash_is_not_made_again(self, world):
        job = world.submit(build=self.BUILD)
        world.engine.run_pass()
        with write("test"):
            Build.update(status=Status.RUNNING).execute()
        world.restart()
        jobs.request_stop(job, world.user, world.settings)
        world.settle()
        assert Build.get().status is Status.STOPPED
        assert not world.store.build_log(Build.get().uuid).exists()


class _Held(InlineCalls):
    """Calls of builds begin and end only when they are released."""

    def submit(self, pool, key, verb, call):
        if pool != "build" or getattr(self, "released", False):
            super().submit(pool, key, verb, call)
            return
        self._begin(key, verb)
        self.__dict__.setdefault("held", []).append((key, verb, call))

    def release(self):
        self.released = True
        for key, verb, call in self.held:
            self._end(run(key, verb, call))


class TestUnreachable:
    def away(self, world) -> Path:
        file = world.settings.data_dir / "fake" / "unavailable"
        file.parent.mkdir(exist_ok=True)
        file.touch()
        return file

    def test_back_end_fails_nothing_and_is_said(self, world):
        job = world.submit(seconds=5, log="x" * 10)
        world.settle()
        file = self.away(world)
        world.later(60)
        row = world.read(job)
        assert row.status is Status.RUNNING
        assert {note["kind"] for note in row.notes} == {"retry", "unreachable"}
        file.unlink()
        world.later(35)
        assert world.statuses(job) == WHOLE_WAY
        assert "unreachable" not in [note["kind"] for note in world.read(job).notes or []]

    def test_back_end_delays_a_stop_and_forgets_none(self, world):
        job = world.submit(seconds=500)
        world.settle()
        file = self.away(world)
        jobs.request_stop(job, world.user, world.settings)
        world.later(20)
        assert world.read(job).status is Status.RUNNING
        file.unlink()
        world.later(60)
        assert world.read(job).status is Status.STOPPED

    def test_back_end_that_is_there_again_obeys_a_stop_at_once(self, world):
        file = self.away(world)
        job = world.submit(seconds=500)
        world.later(60)
        assert "start is tried again" in str(world.read(job).notes)
        file.unlink()
        jobs.request_stop(job, world.user, world.settings)
        world.settle()
        assert world.read(job).status is Status.STOPPED


class TestDelete:
    def test_of_a_running_job_stops_it_and_then_leaves_nothing(self, world):
        job = world.submit(seconds=100, log="x")
        world.settle()
        jobs.delete(job, world.user, world.settings)
        world.later(2)
        assert Job.get_or_none(Job.id == job.id) is None
        assert not world.store.job_folder(job.uuid).exists()
        assert world.runner.inventory() == {}

    def test_of_a_waiting_job(self, world):
        job = world.submit()
        jobs.delete(job, world.user, world.settings)
        world.settle()
        assert Job.get_or_none(Job.id == job.id) is None
        assert world.calls("start", job) == 0

    def test_never_gives_a_number_away_again(self, world):
        job = world.submit()
        jobs.delete(job, world.user, world.settings)
        world.settle()
        assert world.submit().id > job.id


class TestAskedBuild:
    CONFIG = {"config": {"version": 1, "kind": "build", "build": {"image": "a", "build_steps": ["true"]}}}

    def make(self, world):
        return builds.create(world.project, world.user, self.CONFIG, world.settings)

    def test_is_made_although_no_job_waits_and_jobs_reuse_it(self, world):
        build = self.make(world)
        world.settle()
        assert Build.get_by_id(build.id).status is Status.SUCCEEDED
        job = world.submit(build={"image": "a", "build_steps": ["true"]})
        world.end(job)
        assert world.read(job).build_id == build.id
        building = next(row for row in jobs.list_statuses(job) if row.status is Status.BUILDING)
        assert building.details == {"build": build.unique_name, "why": "reused, as the same build is done"}

    def test_ends_by_a_stop_before_it_began(self, world):
        build = self.make(world)
        builds.request_stop(build, world.settings)
        world.settle()
        row = Build.get_by_id(build.id)
        assert (row.status, builds.latest_status(row).message) == (Status.STOPPED, "BuildJob was stopped")

    @pytest.mark.parametrize("first", ["stop", "settle"])
    def test_is_deleted_with_its_folder(self, world, first):
        build = self.make(world)
        if first == "settle":
            world.settle()
            assert world.store.build_folder(build.uuid).exists()
        builds.delete(build, world.settings)
        world.settle()
        assert Build.select().count() == 0
        assert not world.store.build_folder(build.uuid).exists()

    def test_that_cannot_be_removed_is_tried_again(self, world, monkeypatch, caplog):
        build = self.make(world)
        builds.delete(build, world.settings)
        faults = iter([OSError("no")])
        original = world.store.remove_build_in_steps
        monkeypatch.setattr(
            type(world.store), "remove_build_in_steps", lambda self, uuid: _raise(next(faults, None)) or original(uuid)
        )
        world.settle()
        world.later(2)
        assert Build.select().count() == 0
        assert "could not be removed" in caplog.text


def _raise(error):
    if error is not None:
        raise error


class TestUnmanagedBuild:
    @pytest.fixture
    def build(self, world):
        attributes = TestAskedBuild.CONFIG | {"is_managed": False}
        return builds.create(world.project, world.user, attributes, world.settings)

    def test_is_never_made(self, world, build):
        world.later(60)
        assert Build.get_by_id(build.id).status is Status.CREATED
        assert ("build", build.uuid) not in world.runner.calls

    def test_is_reused_by_no_job(self, world, build):
        builds.post_status(build, Status.SUCCEEDED, None, None, None, world.user, world.settings)
        job = world.submit(build=TestAskedBuild.CONFIG["config"]["build"])
        world.end(job)
        assert world.read(job).build_id != build.id
        assert world.read(job).build.reason["kind"] == "first"

    @pytest.mark.parametrize("what", ["build", "project"])
    def test_is_deleted_with_its_log(self, world, build, what):
        world.store.make_build_folder(build.uuid)
        if what == "build":
            builds.delete(build, world.settings)
        else:
            projects.delete(world.project, world.user, world.settings)
        world.settle()
        assert (Build.select().count(), Project.select().count()) == (0, 1 if what == "build" else 0)
        assert not world.store.build_folder(build.uuid).exists()


class TestWhyABuild:
    def test_was_made_is_said(self, world):
        def why(**section):
            job = world.submit(build={"image": "a"} | section)
            world.end(job)
            return (world.read(job).build.reason or {})["kind"], world.read(job).build.reason["text"]

        assert why() == ("first", "it is the project's first build")
        assert why(build_steps=["true"]) == ("changed", "the steps changed since build 1")
        assert why(image="b", build_steps=["true"], env_vars=[["A", "1"]]) == (
            "changed",
            "the image and the variables changed since build 2",
        )
        assert why(nocache=True)[0] == "nocache"
        builds.invalidate_all(world.project)
        assert why() == ("invalidated", "build 4 was invalidated")
        failing = {"image": "z", "env_vars": [["FAKE_BUILD_FAIL", "1:3"]], "build_steps": ["x"]}
        assert why(**failing)[0] == "changed"
        assert why(**failing) == ("unusable", "build 6 is failed")


class TestDeletedProject:
    def test_goes_with_all_that_belongs_to_it(self, world):
        done = world.submit(build={"image": "a"})
        world.end(done)
        running, queued = world.submit(seconds=100), world.submit(seconds=100)
        builds.create(world.project, world.user, TestAskedBuild.CONFIG, world.settings)
        world.settle()
        projects.delete(world.project, world.user, world.settings)
        world.later(15)
        assert [table.select().count() for table in (Project, Job, Build)] == [0, 0, 0]
        assert list((world.settings.data_dir / "jobs").iterdir()) == []
        assert list((world.settings.data_dir / "builds").iterdir()) == []
        assert world.runner.inventory() == {}
        assert (running.id, queued.id) == (2, 3)

    def test_with_many_jobs_goes_too(self, world):
        for _ in range(30):
            world.submit()
        jobs.stop_many(world.project, range(1, 31), world.user, world.settings)
        projects.delete(world.project, world.user, world.settings)
        world.settle()
        assert Project.select().count() == 0


def test_the_wall_clock_never_turns_statuses_round(world, monkeypatch):
    job = world.submit(seconds=1)
    world.settle()
    import polyjob.services.transitions

    then = polyjob.services.transitions.now()
    monkeypatch.setattr("polyjob.services.transitions.now", lambda: then.replace(year=then.year - 1))
    world.end(job)
    moments = [row.created_at for row in jobs.list_statuses(job)]
    assert moments == sorted(set(moments))


class TestPoison:
    """One row with which something is wrong holds up no other."""

    def test_a_config_that_makes_no_spec(self, world):
        bad = world.submit()
        with write("test"):
            Job.update(config={"run": {}}).where(Job.id == bad.id).execute()
        good = world.submit()
        world.end(good)
        assert world.statuses(good) == WHOLE_WAY
        row = world.read(bad)
        assert row.status is Status.SCHEDULED
        assert "tries again" in row.notes[0]["text"]
        with write("test"):
            Job.update(config=good.config).where(Job.id == bad.id).execute()
        world.end(bad)
        assert world.statuses(bad) == WHOLE_WAY

    def test_a_config_that_makes_no_build_is_claimed_and_passed_over(self, world):
        bad = world.submit()
        with write("test"):
            Job.update(config={"build": "no mapping", "run": {"cmd": "true"}}).where(Job.id == bad.id).execute()
        good = world.submit()
        world.end(good)
        assert world.statuses(good) == WHOLE_WAY
        assert world.statuses(bad) == ["created", "scheduled"]
        assert "tries again" in world.read(bad).notes[0]["text"]

    def test_a_build_that_makes_no_spec(self, world):
        bad = world.submit(build={"image": "a"})
        world.engine.run_pass()
        with write("test"):
            Build.update(config={}).execute()
        good = world.submit()
        world.settle()
        world.end(good)
        assert world.statuses(good) == WHOLE_WAY
        assert world.statuses(bad)[-1] == "building"

    def test_a_runner_that_is_not_there_any_more(self, world):
        gone = world.submit()
        with write("test"):
            Job.update(runner="gone").where(Job.id == gone.id).execute()
        good = world.submit()
        world.end(good)
        assert world.statuses(good) == WHOLE_WAY
        assert not world.read(gone).status.is_done

    def test_a_step_that_cannot_be_committed(self, world, monkeypatch):
        import polyjob.engine.job_driver as running

        bad, good = world.submit(seconds=1), world.submit(seconds=1)
        record = running.JobDriver._record_running

        def refuse(self, job, node):
            if job.id == bad.id:
                raise ValueError("this row is refused")
            record(self, job, node)

        monkeypatch.setattr(running.JobDriver, "_record_running", refuse)
        for _ in range(6):
            world.later(1)
        assert world.statuses(good) == WHOLE_WAY
        assert world.statuses(bad) == ["created", "scheduled"]
        later = world.submit()
        world.end(later)
        assert world.statuses(later) == WHOLE_WAY


def test_a_failed_pass_leaves_the_database_usable(world, monkeypatch):
    job = world.submit()
    with monkeypatch.context() as patch:
        patch.setattr("polyjob.engine.reconciler.slots_taken", lambda: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            world.engine.run_pass()
    assert database.transaction_depth() == 0
    world.end(job)
    assert world.statuses(job) == WHOLE_WAY


def test_what_nobody_needs_any_more_is_cleared_hourly(world, monkeypatch):
    monkeypatch.setattr(cleanup, "MOST", 2)
    actor = audit.Actor(world.user)
    old = now() - datetime.timedelta(days=366)

    def make():
        with write("test"):
            for _ in range(5):
                audit.record_as(actor, "create", world.project, {})
            Audit.update(created_at=old).execute()
            audit.record_as(actor, "stop", world.project, {})
            Token.create(user=world.user, name="x", digest=str(old), created_at=old, expires_at=old)

    make()
    world.settle()
    assert [row.action for row in Audit.select()] == ["stop"]
    assert Token.select().count() == 0
    make()
    world.later(60)
    assert Audit.select().count() == 7
    world.clock.move(3600)
    world.settle()
    assert Audit.select().count() == 1


class TestSweep:
    def test_removes_what_no_row_names_once_it_is_old(self, world):
        kept = world.submit()
        world.end(kept)
        data = world.settings.data_dir
        old, new, strange = data / "jobs" / ("a" * 32), data / "builds" / ("b" * 32), data / "jobs" / "mine"
        code = data / "code" / f"{'c' * 64}.tar.gz"
        for folder in (old, new, strange):
            folder.mkdir()
        half = data / "code" / f"{'d' * 16}.part"
        for file in (code, half):
            file.write_bytes(b"x")
        for path in (old, strange, code, half, world.store.job_folder(kept.uuid)):
            os.utime(path, (1, 1))
        world.clock.move(3600)
        world.settle()
        assert [path.exists() for path in (old, new, strange, code, half)] == [False, True, True, False, False]
        assert world.store.job_folder(kept.uuid).exists()

    def test_that_fails_stops_nothing(self, world, monkeypatch, caplog):
        monkeypatch.setattr(cleanup, "_stale", lambda folder: _raise(OSError("no")))
        world.clock.move(3600)
        job = world.submit()
        world.end(job)
        assert "belongs to nobody" in caplog.text


def test_a_build_whose_back_end_is_away_says_so_and_so_does_its_job(world, monkeypatch):
    away = [True]
    build = world.runner.build

    def refuse(*arguments):
        if away[0]:
            raise RunnerUnavailable("nobody answers")
        return build(*arguments)

    monkeypatch.setattr(world.runner, "build", refuse)
    job = world.submit(build={"image": "a"})
    world.settle()
    row = world.read(job)
    assert note_text(row.build.notes, "retry") == "The build is tried again: nobody answers"
    assert job_queue.waiting_reason(row, None).endswith("which is running: The build is tried again: nobody answers")
    away[0] = False
    world.end(job)
    assert note_text(world.read(job).build.notes, "retry") is None


def test_a_log_beyond_its_limit_is_cut_and_says_so(settings, project, user):
    world = World(dataclasses.replace(settings, log_limit=25), project, user)
    job = world.submit(log="0123456789" * 20, seconds=2)
    world.end(job)
    log = world.store.job_log(world.read(job).uuid).read_bytes()
    assert log == b"0123456789012345678901234\npolyjob dropped the rest of this log here: the limit is 25 bytes\n"


class TestAQuietLog:
    def test_is_looked_at_less_often_where_the_runner_wants_that(self, world):
        world.runner.max_log_pause = 10.0
        job = world.submit(seconds=100, log="once")
        world.later(60)
        assert 6 <= world.calls("logs", job) <= 13
        world.later(50)
        assert world.store.job_log(job.uuid).read_bytes() == b"once"

    def test_is_looked_at_each_tick_elsewhere(self, world):
        job = world.submit(seconds=100, log="once")
        world.later(60)
        assert world.calls("logs", job) >= 55


class TestWhatABackEndSays:
    def test_of_a_job_that_waits_is_shown_until_it_runs(self, world):
        job = world.submit(pending=3, seconds=2)
        world.later(2)
        assert note_text(world.read(job).notes, "runner") == "pretending to wait"
        world.later(2)
        assert world.read(job).status is Status.RUNNING
        assert note_text(world.read(job).notes, "runner") is None

    def test_of_a_job_that_ends_as_it_waits_is_not_kept(self, world):
        job = world.submit(pending=1000)
        world.later(2)
        jobs.request_stop(world.read(job), world.user, world.settings)
        world.end(job)
        assert world.read(job).notes is None

    @pytest.mark.parametrize("reason", ["image", "start"])
    def test_of_a_command_that_never_began_makes_it_run_at_no_time(self, world, reason):
        job = world.submit(reason=reason)
        world.end(job)
        assert world.statuses(job) == ["created", "scheduled", "failed"]
        assert world.last(job).details["reason"] == reason

    def test_of_a_step_that_failed_in_the_jobs_own_place(self, world):
        job = world.submit(build={"image": "a", "build_steps": ["true"]}, reason="build", code=3)
        world.end(job)
        assert world.statuses(job) == ["created", "scheduled", "building", "failed"]
        last = world.last(job)
        assert (last.details["reason"], last.details["exit_code"]) == ("build", 3)

    def test_of_a_job_that_its_cluster_ended(self, world):
        job = world.submit(reason="evicted", code=137)
        world.end(job)
        assert world.statuses(job)[-2:] == ["running", "failed"]
        last = world.last(job)
        assert (last.message, last.details["reason"]) == ("The job was ended by its cluster", "evicted")


def test_left_out_parts_are_said_in_a_status_and_in_the_log_of_the_build(world, monkeypatch):
    support = dict(CAPABILITIES["fake"]) | {"build.image": Support(SupportLevel.NOTED, "there are no images")}
    monkeypatch.setitem(CAPABILITIES, "fake", support)
    job = world.submit(build={"image": "a"})
    world.end(job)
    text = "`build.image` was not used: there are no images."
    assert [row.message for row in jobs.list_statuses(job)][1] == text
    assert world.store.build_log(world.read(job).build.uuid).read_text().startswith(text)
