"""Calls that fail again and again: each has a note, a growing pause and an end."""

from __future__ import annotations

import json
import logging

import pytest

from polyjob.db.models import Build, Job
from polyjob.engine import removal
from polyjob.engine.job_calls import MAX_REBUILDS
from polyjob.engine.removal import CONCURRENT_REMOVALS, ROWS_PER_PASS
from polyjob.engine.retries import FETCH_PATIENCE, START_PATIENCE, Backoff
from polyjob.services import abandon, builds, job_queue, jobs, submission
from polyjob.services.notes import note_text
from polyjob.statuses import Status
from polyjob.storage.store import Store
from runners.base import ArtifactMissing, RunnerRefused, RunnerUnavailable

from .conftest import World

REFUSALS = ["refused", "defect"]
OUTAGES = ["unavailable", "full"]
FATES = {
    **dict.fromkeys([("start", kind) for kind in REFUSALS], "failed"),
    **dict.fromkeys([("made", kind) for kind in REFUSALS], "failed"),
    **dict.fromkeys([("start", kind) for kind in OUTAGES], "retried"),
    **dict.fromkeys([("build", kind) for kind in REFUSALS], "failed"),
    **dict.fromkeys([("build", kind) for kind in OUTAGES], "retried"),
    **dict.fromkeys([(verb, kind) for verb in ("logs", "outputs") for kind in REFUSALS], "ended"),
    **dict.fromkeys([(verb, kind) for verb in ("logs", "outputs") for kind in OUTAGES], "retried"),
    **dict.fromkeys([("clean", kind) for kind in REFUSALS + OUTAGES], "retried"),
}


def faulty(world: World, verb: str, kind: str, **env: object):
    """A job of which each call of this verb fails in this way."""
    env |= {"seconds": 1000} if verb == "made" else {}
    faults = json.dumps({verb: kind})
    if verb != "build":
        return world.submit(faults=faults, **env)
    return world.submit(build={"image": "a", "env_vars": [["FAKE_FAULTS", faults]]}, **env)


def wait(world: World, seconds: float) -> None:
    """Move on in long strides."""
    for _ in range(int(seconds / 5)):
        world.clock.move(5.0)
        world.settle()


@pytest.mark.parametrize(("verb", "kind"), FATES)
def test_failing_calls_end_the_job_or_are_retried(world, verb, kind):
    job = faulty(world, verb, kind, log="x", outputs='{"a": "A"}', code=3)
    world.settle()
    wait(world, FETCH_PATIENCE + 70)
    row, last = world.read(job), world.last(job)
    match FATES[verb, kind]:
        case "failed":
            assert (row.status, last.details["reason"]) == (Status.FAILED, "build" if verb == "build" else "start")
            assert verb in last.message
            assert row.notes is None
        case "ended":
            assert (row.status, row.exit_code, last.message) == (Status.FAILED, 3, "exit-code(3)")
            note = note_text(row.notes, "log" if verb == "logs" else "missing")
            assert "could not be fetched: " in note
            assert verb in note
        case "retried":
            assert not row.status.is_done
            assert "is tried again" in note_text(row.build.notes if verb == "build" else row.notes, "retry")
    left_on_runner = row.uuid in world.runner.inventory()
    assert left_on_runner == (not row.status.is_done and verb not in ("start", "build"))


@pytest.mark.parametrize("kind", REFUSALS)
@pytest.mark.parametrize("verb", ["start", "made"])
def test_refused_start_ends_within_30_seconds(world, verb, kind):
    job = faulty(world, verb, kind)
    world.later(START_PATIENCE - 2)
    assert not world.read(job).status.is_done
    assert 4 <= world.calls("start", job) <= 6
    world.later(8)
    assert world.statuses(job) == ["created", "scheduled", "failed"] or verb == "made"
    assert world.read(job).status is Status.FAILED
    assert world.last(job).details["reason"] == "start"


def test_refused_start_ends_although_its_prevention_is_refused(world, monkeypatch):
    def refuse(uuid):
        raise RunnerRefused("no fence either")

    monkeypatch.setattr(world.runner, "prevent_start", refuse)
    jobs_of_both = [faulty(world, verb, "refused") for verb in ("start", "made")]
    world.later(30)
    assert [world.last(job).details["reason"] for job in jobs_of_both] == ["start", "start"]
    assert world.runner.inventory() == {}


@pytest.mark.parametrize("verb", ["stop", "delete"])
def test_stop_ends_retried_starts_and_builds(world, verb):
    starting, building = faulty(world, "start", "unavailable"), faulty(world, "build", "unavailable")
    world.later(10)
    for job in (starting, building):
        if verb == "stop":
            jobs.request_stop(job, world.user, world.settings)
        else:
            jobs.delete(job, world.user, world.settings)
    world.settle()
    calls = len(world.runner.calls)
    wait(world, 100)
    assert not any(
        verb in ("start", "build", "prevent_start", "logs", "clean") for verb, _ in world.runner.calls[calls:]
    )
    assert Build.get().status is Status.STOPPED
    if verb == "stop":
        assert [str(world.read(job).status) for job in (starting, building)] == ["stopped", "stopped"]


def test_the_pause_between_retries_of_an_outage_grows(world):
    job = faulty(world, "start", "unavailable")
    build = faulty(world, "build", "full")
    world.later(120)
    assert world.calls("start", job) <= 8
    assert world.runner.calls.count(("build", world.read(build).build.uuid)) <= 8


def test_outage_between_refusals_does_not_count():
    retry = Backoff()
    assert not retry.fail("start", RunnerRefused("no"), 0.0, 20.0)
    assert not retry.fail("start", RunnerUnavailable("away"), 1.0, 20.0)
    assert not retry.fail("start", RunnerUnavailable("away"), 500.0, 20.0)
    assert not retry.fail("start", RunnerRefused("no"), 600.0, 20.0)
    assert not retry.fail("start", RunnerRefused("no"), 610.0, 20.0)
    assert retry.fail("start", RunnerRefused("no"), 620.0, 20.0)


def test_refusals_that_alternate_with_outages_end_too():
    retry, now = Backoff(), 0.0
    for number in range(200):
        error = RunnerRefused("no") if number % 2 else RunnerUnavailable("away")
        if retry.fail("start", error, now, 20.0):
            return
        now = retry.retry_at
    pytest.fail("it never ends")


def test_artifact_that_is_always_stale_ends_the_job(world, monkeypatch):
    def refuse(spec, artifact):
        raise ArtifactMissing("its base has changed")

    monkeypatch.setattr(world.runner, "start", refuse)
    job = world.submit(build={"image": "a"})
    world.later(5)
    assert Build.select().count() == MAX_REBUILDS + 1
    assert "its base has changed" in world.last(job).message
    assert world.last(job).details["reason"] == "start"


def test_retry_note_goes_once_the_call_succeeds(world, monkeypatch):
    job = world.submit(seconds=100, log="x")
    world.settle()
    logs = world.runner.logs

    def refuse(*arguments):
        raise RunnerRefused("not now")

    monkeypatch.setattr(world.runner, "logs", refuse)
    world.later(5)
    assert note_text(world.read(job).notes, "retry") == "The fetch of its log is tried again: not now"
    monkeypatch.setattr(world.runner, "logs", logs)
    world.later(31)
    assert world.read(job).notes is None


def test_defect_is_logged_once_per_outage(world, caplog):
    with caplog.at_level(logging.ERROR, "polyjob.engine"):
        faulty(world, "start", "defect")
        faulty(world, "build", "defect")
        world.later(40)
    assert len(caplog.records) == 2


def test_build_log_notes_each_restart_once(world):
    job = faulty(world, "build", "unavailable")
    world.settle()
    wait(world, 240)
    log = world.store.build_log(world.read(job).build.uuid).read_bytes()
    assert log.count(b"starts again") == 1


def test_waiting_jobs_and_readyz_name_the_jobs_that_hold_slots(world):
    stuck = [faulty(world, "start", "unavailable") for _ in range(2)]
    waiting = world.submit()
    world.later(10)
    row = world.read(waiting)
    reason = job_queue.waiting_reason(row, job_queue.queue_position(row))
    numbers = ", ".join(f"#{job.id}" for job in stuck)
    assert f"2 slots are held by jobs whose start is retried: {numbers}." in reason
    assert "is tried again: the fake backend does not answer" in job_queue.waiting_reason(world.read(stuck[0]), None)
    before = jobs.visible_state(world.project, waiting.id)
    jobs.request_stop(stuck[0], world.user, world.settings)
    world.settle()
    assert jobs.visible_state(world.project, waiting.id) != before


def test_config_without_spec_fails_its_job_in_the_end(world):
    submitted = submission.create(
        world.project, world.user, {"config": {"version": 1, "kind": "job", "run": {"cmd": "x"}}}, world.settings
    )
    type(submitted).update(config={"run": {}}).where(type(submitted).id == submitted.id).execute()
    world.later(40)
    assert (world.read(submitted).status, world.last(submitted).details["reason"]) == (Status.FAILED, "start")


def test_end_that_takes_minutes_is_reported(world):
    job = faulty(world, "clean", "unavailable")
    world.settle()
    wait(world, 100)
    assert world.engine.jobs.slow_ends() == []
    wait(world, 60)
    assert world.engine.jobs.slow_ends() == [job.id]


def test_nothing_is_fetched_of_a_deleted_job_that_has_ended(world):
    job = faulty(world, "outputs", "unavailable", log="x", outputs='{"a": "A"}')
    world.later(5)
    assert world.read(job).exit is not None
    jobs.delete(job, world.user, world.settings)
    calls = len(world.runner.calls)
    world.later(35)
    assert [verb for verb, uuid in world.runner.calls[calls:] if uuid == job.uuid] == ["clean"]
    assert type(job).get_or_none(type(job).id == job.id) is None


@pytest.mark.parametrize(("verb", "kind"), [("stop", "refused"), ("clean", "defect"), ("start", "unavailable")])
def test_job_with_endless_retries_can_be_abandoned(world, verb, kind):
    job = faulty(world, verb, kind, seconds=0 if verb == "clean" else 1000)
    world.later(5)
    if verb == "stop":
        assert abandon.stalled_jobs() == []
        jobs.request_stop(job, world.user, world.settings)
        world.later(5)
    assert [one.id for one in abandon.stalled_jobs()] == [job.id]
    abandon.abandon_jobs([job.id], world.settings)
    world.later(40)
    assert world.read(job).status.is_done


# Removals.


def refuse_removals(monkeypatch, name, stuck):
    """Have the store's method `name` fail for these uuids, and return a list of its calls."""
    real, calls = getattr(Store, name), []

    def remove(store, uuid):
        calls.append(uuid)
        if uuid in stuck:
            raise PermissionError(1, "Operation not permitted")
        return real(store, uuid)

    monkeypatch.setattr(Store, name, remove)
    return calls


@pytest.mark.parametrize("count", [1, CONCURRENT_REMOVALS, 2 * CONCURRENT_REMOVALS])
@pytest.mark.parametrize("looked_at", [3, ROWS_PER_PASS])
def test_job_that_cannot_be_removed_holds_up_no_other(world, monkeypatch, count, looked_at):
    monkeypatch.setattr(removal, "ROWS_PER_PASS", looked_at)
    stuck = [world.submit() for _ in range(count)]
    other = world.submit()
    wait(world, 10)
    refuse_removals(monkeypatch, "remove_job_in_steps", {job.uuid for job in stuck})
    for job in [*stuck, other]:
        jobs.delete(world.read(job), world.user, world.settings)
    wait(world, 20)
    assert {job.id for job in Job.select(Job.id)} == {job.id for job in stuck}


@pytest.mark.parametrize("looked_at", [3, ROWS_PER_PASS])
def test_build_that_cannot_be_removed_holds_up_no_other(world, monkeypatch, looked_at):
    monkeypatch.setattr(removal, "ROWS_PER_PASS", looked_at)
    for number in range(12):
        world.end(world.submit(build={"image": "a", "build_steps": [f"x{number}"]}))
    found = list(Build.select().order_by(Build.id))
    refuse_removals(monkeypatch, "remove_build_in_steps", {build.uuid for build in found[:-1]})
    for build in found:
        builds.delete(build, world.settings)
    wait(world, 20)
    assert [build.id for build in Build.select().order_by(Build.id)] == [build.id for build in found[:-1]]


@pytest.mark.parametrize("count", [1, 2 * CONCURRENT_REMOVALS])
def test_small_removals_do_not_wait_for_large_ones(world, monkeypatch, count):
    large = [world.submit() for _ in range(count)]
    small = world.submit()
    wait(world, 10)
    remaining_steps, real = {job.uuid: 100 for job in large}, Store.remove_job_in_steps

    def removing(store, uuid):
        while remaining_steps.get(uuid, 0):
            remaining_steps[uuid] -= 1
            world.clock.move(0.1)
            yield
        yield from real(store, uuid)

    monkeypatch.setattr(Store, "remove_job_in_steps", removing)
    for job in [*large, small]:
        jobs.delete(world.read(job), world.user, world.settings)
    for _ in range(6):
        world.engine.run_pass()
    assert {job.id for job in Job.select(Job.id)} == {job.id for job in large}
    wait(world, 20)
    assert not Job.select().exists()


def test_build_that_cannot_be_removed_is_tried_again_with_pauses(world, monkeypatch, caplog):
    world.end(world.submit(build={"image": "a", "build_steps": ["x"]}))
    build = Build.select().get()
    stuck = {build.uuid}
    calls = refuse_removals(monkeypatch, "remove_build_in_steps", stuck)
    builds.delete(build, world.settings)
    wait(world, 100)
    assert 4 <= len(calls) <= 8
    assert len([record for record in caplog.records if "could not be removed" in record.message]) == 1
    stuck.clear()
    wait(world, 40)
    assert not Build.select().exists()
