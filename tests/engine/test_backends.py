"""Reports on backends, and outages."""

from __future__ import annotations

import pytest

from polyjob.services import jobs
from polyjob.statuses import Status
from runners.base import RunnerUnavailable
from runners.registry import UnusableRunner

from .conftest import SUCCESS_PATH


def test_failed_check_is_reported_until_a_check_succeeds(world, monkeypatch):
    backends = world.engine.backends

    def refuse() -> None:
        raise RunnerUnavailable("The namespace refuses every pod.")

    with monkeypatch.context() as patch:
        patch.setattr(world.runner, "check", refuse)
        backends.check()
        world.settle()
    world.submit()
    world.settle()
    assert backends.report() == {"name": "fake", "ok": False, "message": "The namespace refuses every pod."}
    backends.check()
    world.settle()
    assert backends.report()["ok"]


@pytest.mark.parametrize("verb", ["poll", "check"])
def test_failure_of_either_call_is_reported(world, monkeypatch, verb):
    def refuse(*arguments: object) -> None:
        raise RunnerUnavailable("Away.")

    world.submit(seconds=100)
    world.settle()
    monkeypatch.setattr(world.runner, verb, refuse)
    world.clock.move(10)
    world.engine.backends.check()
    world.settle()
    assert world.engine.backends.report()["message"] == "Away."


def test_outage_fails_no_job_and_is_noted(world):
    job = world.submit(seconds=5, log="x" * 10)
    world.settle()
    world.set_available(False)
    world.later(60)
    row = world.read(job)
    assert row.status is Status.RUNNING
    assert {note["kind"] for note in row.notes} == {"retry", "unreachable"}
    world.set_available(True)
    world.later(35)
    assert world.statuses(job) == SUCCESS_PATH
    assert "unreachable" not in [note["kind"] for note in world.read(job).notes or []]


def test_outage_delays_a_stop(world):
    job = world.submit(seconds=500)
    world.settle()
    world.set_available(False)
    jobs.request_stop(job, world.user, world.settings)
    world.later(20)
    assert world.read(job).status is Status.RUNNING
    world.set_available(True)
    world.later(60)
    assert world.read(job).status is Status.STOPPED


def test_backend_that_returns_obeys_a_stop_at_once(world):
    world.set_available(False)
    job = world.submit(seconds=500)
    world.later(60)
    assert "start is tried again" in str(world.read(job).notes)
    world.set_available(True)
    jobs.request_stop(job, world.user, world.settings)
    world.settle()
    assert world.read(job).status is Status.STOPPED


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (UnusableRunner("there is no runner `abacus`"), "cannot be loaded: there is no runner `abacus`"),
        (ImportError("No module named 'abacus'"), "cannot be loaded: ImportError"),
    ],
)
def test_runner_that_cannot_be_loaded_counts_as_unavailable(world, monkeypatch, error, text):
    def fail(*arguments: object) -> None:
        raise error

    monkeypatch.setattr(world.engine.backends, "_load_runner", fail)
    with pytest.raises(RunnerUnavailable, match=f"the runner `abacus` {text}"):
        world.engine.backends.runner("abacus").check()
