"""Random requests, deaths, outages and clocks on a complete polyjob: its invariants hold after every step.

POLYJOB_TEST_SCALE=20 tries 20 times as many sequences, and new ones each time.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import initialize, invariant, precondition, rule, run_state_machine_as_test

from polyjob.db.database import close_database
from polyjob.db.models import Job
from polyjob.engine import orphans
from polyjob.statuses import Status
from tests.require import is_long_run

from .invariants import Invariants, Script
from .manual_world import DataFolder, World
from .user_requests import ANY, SCRIPTS, UserRequests

SCALE = int(os.environ.get("POLYJOB_TEST_SCALE", "1"))
SEQUENCES = (30 if is_long_run() else 5) * SCALE
STEPS = 50
MAX_CLOCK_ERROR_SECONDS = 10 * 3600.0
"""Seconds that the wall clock is wrong by at most: no Idempotency-Key is a day old then."""


class Machine(UserRequests):
    folder: DataFolder

    @initialize(is_local=st.booleans())
    def begin(self, is_local: bool) -> None:
        self.world = World(self.folder, is_local=is_local)
        self.checker = Invariants(self.world)
        self.idempotent_requests = {}
        self.turn = 0

    # The engine, its backend and its clocks.

    @rule(count=st.integers(1, 4))
    def run_passes(self, count: int) -> None:
        for _ in range(count):
            self.world.run_pass()

    @precondition(lambda self: self.jobs)
    @rule(which=ANY, verb=st.sampled_from(["stop", "archive", "delete", "report", "change", "abandon"]), script=SCRIPTS)
    def interfere_with_a_pass(self, which: int, verb: str, script: Script) -> None:
        """Make a request between the decisions of a pass and its commit."""
        acts: dict[str, Callable[[], None]] = {
            "stop": lambda: self._stop(self._job(which)),
            "archive": lambda: self._archive(self._job(which)),
            "delete": lambda: self._delete(self._job(which)),
            "report": lambda: self.report(which, Status.FAILED),
            "change": lambda: self.change_the_config(which, script),
            "abandon": self.abandon_jobs,
        }
        self.world.run_pass(acts[verb])

    @precondition(lambda self: self.world.calls.held)
    @rule(which=ANY)
    def end_a_call(self, which: int) -> None:
        self.world.calls.end(which % len(self.world.calls.held))

    @rule()
    def settle(self) -> None:
        self.world.settle()

    @rule(ended_calls=st.integers(0, 3))
    def die(self, ended_calls: int) -> None:
        """Let some of the running calls reach the backend, and replace the engine."""
        for _ in range(min(ended_calls, len(self.world.calls.held))):
            self.world.calls.end(0)
        self.world.die()

    @rule(is_away=st.booleans())
    def change_availability(self, is_away: bool) -> None:
        self.world.set_away(is_away)

    @rule(seconds=st.sampled_from([0.1, 1.0, 1.0, 3.0, 5.0, 30.0, 70.0, 400.0, 4000.0]))
    def wait(self, seconds: float) -> None:
        self.world.clock.move(seconds)

    @rule(hours=st.sampled_from([-7, -1, 1, 7]))
    def step_the_wall_clock(self, hours: int) -> None:
        offset = self.world.clock.offset + hours * 3600.0
        if abs(offset) <= MAX_CLOCK_ERROR_SECONDS:
            self.world.clock.offset = offset

    # Invariants.

    @invariant()
    def invariants_hold(self) -> None:
        self.checker.look()
        if self.jobs:
            self.turn += 1
            self.checker.check_page(self.jobs[self.turn % len(self.jobs)])
            if self.turn % 4 == 0:
                self.checker.check_list()

    def teardown(self) -> None:
        if not hasattr(self, "world"):
            return
        try:
            self._end()
        finally:
            self.world.close()

    def _end(self) -> None:
        """Let everything end with an available backend, and check that nothing is left."""
        self.world.set_away(False)
        for job in self.jobs:
            if job.script is None and not job.is_deleted:
                self.ask("POST", f"/jobs/{job.number}/restore")
                job.is_archived = False
                self.ask("POST", f"/jobs/{job.number}/statuses", {"status": "succeeded"})
        for _ in range(400):
            self.world.settle()
            self.checker.look()
            if not Job.select().where((Job.finished_at.is_null()) | (Job.deleted_at.is_null(False))).exists():
                break
            self.world.clock.move(7.0)
        for _ in range(3):
            self.world.clock.move(orphans.LOOK_INTERVAL_SECONDS)
            self.world.settle()
        self.checker.look()
        assert all(job.end is not None or job.is_deleted for job in self.jobs)
        for job in self.jobs:
            self.checker.check_page(job)
        self.checker.check_list()
        self.checker.check_leftovers()


@pytest.fixture
def data_root(tmp_path: Path) -> Iterator[Path]:
    """Yield a folder in memory if possible: thousands of syncs are slow on a disk, and no test cuts the power."""
    memory = Path("/dev/shm")
    if not os.access(memory, os.W_OK):
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(prefix="polyjob-test-", dir=memory) as name:
        yield Path(name)


def test_invariants_hold_after_every_step(data_root: Path) -> None:
    class InPlace(Machine):
        folder = DataFolder(data_root)

    options = settings(
        max_examples=SEQUENCES,
        stateful_step_count=STEPS,
        deadline=None,
        derandomize=SCALE == 1,
        suppress_health_check=list(HealthCheck),
        report_multiple_bugs=False,
        phases=[Phase.generate, Phase.shrink],
    )
    try:
        run_state_machine_as_test(InPlace, settings=options)
    finally:
        close_database()
