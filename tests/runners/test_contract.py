"""The contract, on every runner."""

from __future__ import annotations

import io
import threading
import time

import pytest

from runners.base import BuildFailed, Exit, Exited, Missing, Reason, Running


def test_check_passes(harness):
    harness.runner.check()


def test_a_job_runs_and_ends(harness):
    spec = harness.spec(**harness.exits(0, b"hello", "data"))
    handle = harness.start(spec)
    state = harness.ended(handle)
    assert (state.exit.reason, state.exit.code, state.exit.succeeded) == (Reason.EXITED, 0, True)
    assert state.node
    assert harness.log(spec, handle) == b"hello"
    assert harness.outputs(spec, handle) == {"out": "data"}


@pytest.mark.parametrize("code", [1, 7, 126, 127, 200, 255])
def test_exit_codes_are_told(harness, code):
    _, state = harness.run(**harness.exits(code))
    assert (state.exit.reason, state.exit.code, state.exit.succeeded) == (Reason.EXITED, code, False)


def test_a_second_start_adopts(harness):
    spec = harness.spec(**harness.sleeps())
    handle = harness.start(spec)
    harness.running(handle)
    assert harness.runner.start(spec, None) == handle
    assert harness.reload().start(spec, None) == handle
    assert list(harness.runner.inventory()) == [spec.uuid]


def test_a_start_after_the_end_does_not_run_it_again(harness):
    spec = harness.spec(**harness.exits(3, b"once"))
    handle = harness.start(spec)
    harness.ended(handle)
    assert harness.reload().start(spec, None) == handle
    assert harness.ended(handle).exit.code == 3
    assert harness.log(spec, handle) == b"once"


def test_racing_starts_run_it_once(harness):
    spec = harness.spec(**harness.exits(0, b"x"))
    runners = [harness.runner, harness.reload(), harness.reload()]
    barrier, handles = threading.Barrier(len(runners)), []

    def race(runner):
        barrier.wait()
        handles.append(runner.start(spec, None))

    threads = [threading.Thread(target=race, args=(runner,)) for runner in runners]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    harness.handles.append(handles[0])
    assert len(handles) == 3
    assert len(set(handles)) == 1
    harness.ended(handles[0])
    assert harness.log(spec, handles[0]) == b"x"


def test_a_handle_outlives_its_runner_object(harness):
    handle = harness.start(harness.spec(**harness.sleeps()))
    harness.running(handle)
    harness.runner.close()
    harness.reload()
    assert isinstance(harness.running(handle), Running)
    harness.runner.stop(handle, True)
    assert harness.ended(handle).exit.signal == 9


def test_the_end_is_said_again(harness):
    handle = harness.start(harness.spec(**harness.exits(5)))
    first = harness.ended(handle)
    assert harness.state(handle) == first
    assert harness.reload().poll([handle])[handle] == first


def test_many_are_polled_at_once(harness):
    handles = [harness.start(harness.spec(**harness.exits(number))) for number in range(1, 9)]
    for handle in handles:
        harness.ended(handle)
    states = harness.runner.poll(handles)
    assert [states[handle].exit.code for handle in handles] == list(range(1, 9))


def test_term_ends_a_job(harness):
    handle = harness.start(harness.spec(**harness.sleeps()))
    harness.running(handle)
    harness.runner.stop(handle, False)
    end = harness.ended(handle).exit
    assert (end.reason, end.code, end.signal) == (Reason.SIGNALLED, 143, 15)


def test_kill_ends_a_job_that_ignores_term(harness):
    handle = harness.start(harness.spec(**harness.sleeps(stubborn=True), grace=60))
    harness.running(handle)
    time.sleep(0.1)  # for its trap
    harness.runner.stop(handle, False)
    time.sleep(0.2)
    assert isinstance(harness.state(handle), Running)
    harness.runner.stop(handle, True)
    assert harness.ended(handle).exit.signal == 9


def test_stop_is_fine_whatever_the_job_is(harness):
    handle = harness.start(harness.spec(**harness.exits(4)))
    harness.ended(handle)
    for force in (False, True, False):
        harness.runner.stop(handle, force)
    assert harness.ended(handle).exit.code == 4
    harness.runner.clean(handle)
    harness.runner.stop(handle, True)


def test_clean_leaves_nothing_and_may_come_twice(harness):
    handle = harness.start(harness.spec(**harness.exits(0)))
    harness.ended(handle)
    for _ in range(2):
        harness.runner.clean(handle)
        assert harness.runner.inventory() == {}
    assert isinstance(harness.state(handle), Missing)


def test_clean_ends_what_still_runs(harness):
    handle = harness.start(harness.spec(**harness.sleeps(stubborn=True)))
    harness.running(handle)
    harness.runner.clean(handle)
    assert isinstance(harness.state(handle), Missing)


def test_a_job_that_never_was_is_missing(harness):
    handle = harness.start(harness.spec(**harness.exits(0)))
    harness.ended(handle)
    other = handle.replace(handle.split('"uuid": "')[1][:32], "f" * 32)
    assert isinstance(harness.state(other), Missing)


def test_inventory_has_what_was_not_cleaned(harness):
    specs = [harness.spec(**harness.exits(0)), harness.spec(**harness.sleeps())]
    handles = [harness.start(spec) for spec in specs]
    harness.ended(handles[0])
    assert harness.runner.inventory() == dict(zip((spec.uuid for spec in specs), handles, strict=True))


def test_an_exit_survives_json():
    end = Exit(Reason.SIGNALLED, 137, 9, 1 << 30, 1.5, ("sleep",), "text")
    assert Exit.from_json(end.to_json()) == end
    assert Exit.from_json(Exit(Reason.LOST).to_json()) == Exit(Reason.LOST)


class TestBuild:
    def test_that_fails_names_the_step(self, harness):
        log = io.BytesIO()
        with pytest.raises(BuildFailed, match="step 2") as failed:
            harness.runner.build(harness.build_spec(**harness.steps(fail=9)), log, lambda: False)
        assert (failed.value.step, failed.value.code) == (2, 9)
        assert b"one" in log.getvalue()

    def test_that_is_cancelled_ends_soon(self, harness):
        started = time.monotonic()
        with pytest.raises(BuildFailed):
            harness.runner.build(
                harness.build_spec(**harness.steps(hang=True)), io.BytesIO(), lambda: time.monotonic() > started + 4
            )
        assert time.monotonic() - started < 15

    def test_may_run_again_and_its_job_uses_it(self, harness):
        spec = harness.build_spec(**harness.steps())
        for _ in range(2):
            artifact = harness.runner.build(spec, io.BytesIO(), lambda: False)
        _, state = harness.run(artifact, **harness.exits(0))
        assert isinstance(state, Exited)
        assert state.exit.succeeded
