"""Builds: their phases as a table, their slots, reuse, failures and cancellation."""

from __future__ import annotations

import pytest

from polyjob.clock import now
from polyjob.db.database import write
from polyjob.db.models import Build
from polyjob.engine import build_driver, reconciler
from polyjob.engine.build_driver import BuildMemory, BuildPhase, phase_of
from polyjob.engine.call_pools import InlineCalls, execute
from polyjob.services import builds, job_queue, jobs
from polyjob.services.notes import note_text
from polyjob.statuses import Status
from runners import registry
from runners.base import RunnerUnavailable
from runners.capabilities import CAPABILITIES, Support, SupportLevel

from .conftest import BUILD

IDLE = BuildMemory()
BUSY = BuildMemory(call="a call")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("status", "is_stopped", "is_wanted", "memory", "phase"),
    [
        (Status.CREATED, False, True, IDLE, BuildPhase.QUEUED),
        (Status.RUNNING, False, True, IDLE, BuildPhase.INTERRUPTED),
        (Status.CREATED, False, False, IDLE, BuildPhase.ENDING),
        (Status.RUNNING, True, False, IDLE, BuildPhase.ENDING),
        (Status.RUNNING, False, True, BUSY, BuildPhase.BUILDING),
        (Status.RUNNING, False, False, BUSY, BuildPhase.UNWANTED),
        (Status.RUNNING, True, False, BUSY, BuildPhase.CANCELLING),
    ],
)
def test_phase_follows_from_row_and_memory(status, is_stopped, is_wanted, memory, phase):
    build = Build(status=status, stop_at=now() if is_stopped else None)
    assert phase_of(build, memory, is_wanted=is_wanted) is phase


def test_builds_wait_for_a_slot(world):
    object.__setattr__(world.settings, "build_slots", 1)
    for number in range(2):
        world.submit(build={"image": "a", "build_steps": [f"x{number}"]})
    world.engine.run_pass()
    world.engine.run_pass()
    assert [str(row.status) for row in Build.select().order_by(Build.id)] == ["running", "created"]
    world.settle()
    assert [str(row.status) for row in Build.select()] == ["succeeded", "succeeded"]


def test_build_whose_beginning_cannot_be_committed_holds_no_slot(world, monkeypatch):
    world.submit(build={"image": "a", "build_steps": ["x"]})
    world.engine.run_pass()
    with monkeypatch.context() as patch:
        patch.setattr(build_driver, "_record_begin", lambda build: 1 / 0)
        world.engine.run_pass()
    assert Build.get().status is Status.CREATED
    assert ("build", Build.get().uuid) not in world.runner.calls
    world.settle()
    assert Build.get().status is Status.SUCCEEDED
    assert world.runner.calls.count(("build", Build.get().uuid)) == 1


def test_call_is_submitted_although_its_notes_cannot_be_committed(world, monkeypatch):
    """Only a build's beginning has to be committed before its call."""
    job = world.submit(seconds=100)
    world.settle()
    calls = world.calls("logs", job)
    monkeypatch.setattr("polyjob.engine.job_writes.set_note", lambda *_: 1 / 0)
    monkeypatch.setattr(reconciler.JobDriver, "_note_progress", lambda self, job, memory, now: _add_reason(memory))
    world.later(2)
    assert world.calls("logs", job) > calls
    assert world.read(job).notes is None


def _add_reason(memory) -> None:
    memory.backoff.reason = "tried again"


def test_build_precedes_running_and_is_reused(world):
    first, second = world.submit(build=BUILD), world.submit(build=BUILD)
    world.end(first, second)
    assert world.statuses(first) == ["created", "scheduled", "building", "running", "succeeded"]
    assert world.read(first).build_id == world.read(second).build_id
    third = world.submit(build=BUILD)
    world.end(third)
    assert world.statuses(third) == world.statuses(first)
    assert Build.select().count() == 1
    build = Build.get()
    assert jobs.list_statuses(third)[2].message == f"Using build {build.unique_name}"
    assert [str(row.status) for row in build.statuses] == ["created", "scheduled", "running", "succeeded"]
    assert world.store.build_log(build.uuid).read_bytes() == b"step 1: make\n"


def test_other_build_steps_make_another_build(world):
    submitted = [world.submit(build=BUILD), world.submit(build=BUILD | {"build_steps": ["other"]})]
    world.end(*submitted)
    assert len({world.read(job).build_id for job in submitted}) == 2


def test_nocache_makes_a_new_build(world):
    submitted = [world.submit(build=BUILD | {"nocache": True}) for _ in range(2)]
    world.end(*submitted)
    assert len({world.read(job).build_id for job in submitted}) == 2


@pytest.mark.parametrize("column", ["invalidated_at", "archived_at"])
def test_older_build_never_replaces_a_withdrawn_one(world, column):
    old, new = (world.submit(build=BUILD | {"nocache": nocache}) for nocache in (False, True))
    world.end(old, new)
    with write("test"):
        Build.update({column: now()}).where(Build.id == world.read(new).build_id).execute()
    job = world.submit(build=BUILD)
    world.end(job)
    assert Build.select().count() == 3
    assert world.read(job).build_id not in (world.read(old).build_id, world.read(new).build_id)


def test_failed_build_names_step_and_exit_code(world):
    job = world.submit(build=BUILD | {"env_vars": [["FAKE_BUILD_FAIL", "1:3"]]})
    world.end(job)
    last = world.last(job)
    assert world.statuses(job) == ["created", "scheduled", "building", "failed"]
    assert (last.details["step"], last.details["exit_code"], last.details["reason"]) == (1, 3, "build")
    assert "step 1 ended with exit code 3" in last.message
    assert world.read(job).exit["step"] == 1
    assert Build.get().status is Status.FAILED
    assert world.calls("start", job) == 0


def test_failed_build_is_not_reused(world):
    build = BUILD | {"env_vars": [["FAKE_BUILD_FAIL", "1:3"]]}
    for _ in range(2):
        world.end(world.submit(build=build))
    assert Build.select().count() == 2


def test_build_interrupted_by_a_crash_runs_again(world):
    job = world.submit(build=BUILD)
    world.engine.run_pass()  # claimed, with a new build
    with write("test"):
        Build.update(status=Status.RUNNING).execute()
    world.restart()
    world.end(job)
    assert world.statuses(job)[-1] == "succeeded"
    assert world.store.build_log(Build.get().uuid).read_bytes().startswith(b"The build starts again")


def test_unwanted_build_is_stopped(world):
    job = world.submit(build=BUILD)
    world.engine.run_pass()
    jobs.request_stop(job, world.user, world.settings)
    world.settle()
    assert world.statuses(job) == ["created", "scheduled", "building", "stopped"]
    assert Build.get().status is Status.STOPPED


class HeldBuildCalls(InlineCalls):
    """Calls whose builds begin and end only when a test releases them."""

    def submit(self, call):
        if call.pool != "build" or getattr(self, "is_released", False):
            super().submit(call)
            return
        self._begin(call)
        self.__dict__.setdefault("held", []).append(call)

    def release(self):
        self.is_released = True
        for call in self.held:
            self._end(execute(call))


def test_job_does_not_join_a_build_that_is_ending(world):
    world.engine.context.calls.__class__ = HeldBuildCalls
    first = world.submit(build=BUILD)
    world.settle()
    assert world.statuses(first)[-1] == "building"
    jobs.request_stop(first, world.user, world.settings)
    world.settle()
    second = world.submit(build=BUILD)
    world.settle()
    assert world.read(second).build_id != world.read(first).build_id
    world.engine.context.calls.release()
    world.end(second)
    assert world.statuses(second)[-1] == "succeeded"
    assert [str(build.status) for build in Build.select().order_by(Build.id)] == ["stopped", "succeeded"]


def test_unwanted_build_does_not_run_again_after_a_crash(world):
    job = world.submit(build=BUILD)
    world.engine.run_pass()
    with write("test"):
        Build.update(status=Status.RUNNING).execute()
    world.restart()
    jobs.request_stop(job, world.user, world.settings)
    world.settle()
    assert Build.get().status is Status.STOPPED
    assert not world.store.build_log(Build.get().uuid).exists()


def test_requested_build_runs_without_a_job(world):
    build = world.request_build()
    world.settle()
    assert Build.get_by_id(build.id).status is Status.SUCCEEDED
    job = world.submit(build=BUILD)
    world.end(job)
    assert world.read(job).build_id == build.id
    building = next(row for row in jobs.list_statuses(job) if row.status is Status.BUILDING)
    assert building.details == {"build": build.unique_name, "why": "reused, as the same build is done"}


def test_requested_build_can_be_stopped_before_it_begins(world):
    build = world.request_build()
    builds.request_stop(build, world.settings)
    world.settle()
    row = Build.get_by_id(build.id)
    assert (row.status, builds.latest_status(row).message) == (Status.STOPPED, "BuildJob was stopped")


def test_unmanaged_build_never_runs(world):
    build = world.request_build(is_managed=False)
    world.later(60)
    assert Build.get_by_id(build.id).status is Status.CREATED
    assert ("build", build.uuid) not in world.runner.calls


def test_unmanaged_build_is_not_reused(world):
    build = world.request_build(is_managed=False)
    builds.post_status(build, Status.SUCCEEDED, None, None, None, world.user, world.settings)
    job = world.submit(build=BUILD)
    world.end(job)
    assert world.read(job).build_id != build.id
    assert world.read(job).build.reason["kind"] == "first"


def test_each_build_has_the_reason_why_it_was_made(world):
    def reason_of_build(**section):
        job = world.submit(build={"image": "a"} | section)
        world.end(job)
        return (world.read(job).build.reason or {})["kind"], world.read(job).build.reason["text"]

    assert reason_of_build() == ("first", "it is the project's first build")
    assert reason_of_build(build_steps=["true"]) == ("changed", "the build steps changed since build 1")
    assert reason_of_build(image="b", build_steps=["true"], env_vars=[["A", "1"]]) == (
        "changed",
        "the image and the environment variables changed since build 2",
    )
    assert reason_of_build(image="c", build_steps=["false"]) == (
        "changed",
        "the image, the build steps and the environment variables changed since build 3",
    )
    assert reason_of_build(nocache=True)[0] == "nocache"
    builds.invalidate_all(world.project)
    assert reason_of_build() == ("invalidated", "build 5 was invalidated")
    failing = {"image": "z", "env_vars": [["FAKE_BUILD_FAIL", "1:3"]], "build_steps": ["x"]}
    assert reason_of_build(**failing)[0] == "changed"
    assert reason_of_build(**failing) == ("unusable", "build 7 failed")


def test_retried_build_is_noted_on_build_and_job(world, monkeypatch):
    is_away = [True]
    build = world.runner.build

    def refuse(*arguments):
        if is_away[0]:
            raise RunnerUnavailable("nobody answers")
        return build(*arguments)

    monkeypatch.setattr(world.runner, "build", refuse)
    job = world.submit(build={"image": "a"})
    world.settle()
    row = world.read(job)
    assert note_text(row.build.notes, "retry") == "The build is tried again: nobody answers"
    assert job_queue.waiting_reason(row, None).endswith("which is running: The build is tried again: nobody answers")
    is_away[0] = False
    world.end(job)
    assert note_text(world.read(job).build.notes, "retry") is None


def test_ignored_config_is_named_in_status_and_build_log(world, monkeypatch):
    support = dict(CAPABILITIES["fake"]) | {"build.image": Support(SupportLevel.NOTED, "there are no images")}
    monkeypatch.setitem(CAPABILITIES, "fake", support)
    monkeypatch.setattr(registry, "_own_facts", registry._own_facts.__wrapped__)
    job = world.submit(build={"image": "a"})
    world.end(job)
    text = "`build.image` was not used: there are no images."
    assert [row.message for row in jobs.list_statuses(job)][1] == text
    assert world.store.build_log(world.read(job).build.uuid).read_text().startswith(text)
