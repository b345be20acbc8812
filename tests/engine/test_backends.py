"""What the engine remembers of each backend."""

from __future__ import annotations

import pytest

from runners.base import RunnerUnavailable


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
