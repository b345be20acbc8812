"""Random kills for a moment in every run of the tests; `make soak` goes on for as long as wanted."""

from __future__ import annotations

import os

import pytest

from tests.crash.kills import RATES, Plan, kill_at_random

SECONDS = 20 * int(os.environ.get("POLYJOB_TEST_SCALE", "1"))


@pytest.mark.parametrize("runner", sorted(RATES))
def test_whatever_is_killed_and_when_nothing_is_lost(request, runner, tmp_path):
    if runner == "docker":
        request.getfixturevalue("images")
    said: list[str] = []
    losses = kill_at_random(tmp_path, runner, SECONDS, seed=1, say=said.append)
    assert not losses, "\n".join(said)
    assert " 0 kills" not in said[-1]


def test_a_seed_stands_for_one_plan(tmp_path):
    plans = [Plan("process", 60, seed, tmp_path) for seed in (5, 5, 6)]
    assert (plans[0].errands, plans[0].kills) == (plans[1].errands, plans[1].kills)
    assert plans[0].errands != plans[2].errands
