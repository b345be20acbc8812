"""A short soak test in every test run. `make soak` runs it for as long as you like."""

from __future__ import annotations

import os

import pytest

from tests.crash.soak import run_soak
from tests.crash.soak_plan import JOBS_PER_SECOND, SoakPlan
from tests.require import is_long_run

SECONDS = (20 if is_long_run() else 5) * int(os.environ.get("POLYJOB_TEST_SCALE", "1"))


@pytest.mark.parametrize("runner", sorted(JOBS_PER_SECOND))
def test_random_kills_lose_no_job(request, runner, tmp_path):
    if runner == "docker":
        request.getfixturevalue("images")
    lines: list[str] = []
    losses = run_soak(tmp_path, runner, SECONDS, seed=1, say=lines.append)
    assert not losses, "\n".join(lines)
    assert " 0 kills" not in lines[-1]


def test_seed_determines_the_plan(tmp_path):
    plans = [SoakPlan("process", 10, seed, tmp_path) for seed in (5, 5, 6)]
    assert (plans[0].planned_jobs, plans[0].kills) == (plans[1].planned_jobs, plans[1].kills)
    assert plans[0].planned_jobs != plans[2].planned_jobs
