"""Passes of the engine: slots, the queue, restarts and failures."""

from __future__ import annotations

from collections import Counter

import pytest

from polyjob.db.database import database, write
from polyjob.services import job_queue
from runners.base import Exit, Exited, Pending, Reason, Runner, RunnerSettings

from .conftest import SUCCESS_PATH


def test_slots_go_to_the_first_jobs_of_the_queue(world):
    submitted = [world.submit(seconds=2) for _ in range(5)]
    world.settle()
    assert [str(world.read(job).status) for job in submitted] == ["running"] * 2 + ["created"] * 3
    assert [job_queue.queue_position(world.read(job)) for job in submitted] == [None, None, 1, 2, 3]
    world.later(3)
    assert [str(world.read(job).status) for job in submitted] == ["succeeded"] * 2 + ["running"] * 2 + ["created"]
    world.end(*submitted)
    assert all(world.statuses(job) == SUCCESS_PATH for job in submitted)


def test_one_free_slot_takes_one_job(world):
    submitted = [world.submit(seconds=seconds) for seconds in (1, 20, 20, 20)]
    world.later(3)
    assert [str(world.read(job).status) for job in submitted] == ["succeeded", "running", "running", "created"]
    world.end(*submitted)


@pytest.mark.parametrize("passes", [2, 3, 4])
def test_restarts_after_few_passes_neither_lose_nor_repeat_jobs(world, passes):
    job = world.submit(pending=2, seconds=3, log="0123456789" * 20)
    while not world.read(job).status.is_done:
        world.restart()
        for _ in range(passes):
            world.engine.run_pass()
        world.clock.move(0.25)
        assert world.clock.seconds() < 1100, world.statuses(job)
    assert world.statuses(job) == SUCCESS_PATH
    assert world.store.job_log(job.uuid).read_bytes() == b"0123456789" * 20


def test_queued_job_starts_in_the_pass_that_claims_it(world):
    job = world.submit(seconds=1)
    world.engine.run_pass()
    assert world.calls("start", job) == 1


def test_freed_slot_is_claimed_in_the_pass_that_records_the_exit(world):
    world.runner.is_local = True
    jobs = [world.submit(seconds=seconds) for seconds in (1, 20, 20)]
    world.settle()
    world.clock.move(2)
    world.engine.run_pass()
    assert [world.read(job).exit is not None for job in jobs] == [True, False, False]
    assert world.calls("start", jobs[2]) == 1


class SilentRunner(Runner):
    """Runs jobs on this machine that write nothing. Each has ended when it is polled for the second time."""

    is_local = True

    def __init__(self, settings, wake):
        super().__init__(settings, wake)
        self.polls = Counter()

    def start(self, spec, artifact):
        return spec.uuid

    def poll(self, handles):
        self.polls.update(handles)
        return {handle: Pending() if self.polls[handle] == 1 else Exited(Exit(Reason.EXITED, 0)) for handle in handles}

    def clean(self, handle):
        del self.polls[handle]

    def inventory(self):
        return {handle: handle for handle in self.polls}

    check = probe = build = stop = prevent_start = None


def test_job_without_files_needs_two_commits(world, monkeypatch):
    world.runner = SilentRunner(RunnerSettings(str(world.settings.data_dir), "0" * 32), lambda: None)
    world.settle()
    commits = []
    monkeypatch.setattr("polyjob.engine.reconciler.write", lambda name: commits.append(name) or write(name))
    job = world.submit()
    world.engine.run_pass()
    world.engine.backends.poll_soon()
    world.settle()
    assert world.statuses(job) == SUCCESS_PATH
    assert commits == ["pass", "pass"]
    assert not world.runner.polls


def test_job_without_files_needs_few_statements(world, monkeypatch):
    world.runner = SilentRunner(RunnerSettings(str(world.settings.data_dir), "0" * 32), lambda: None)
    world.end(world.submit())
    job = world.submit()
    statements = []
    execute = database.execute_sql
    monkeypatch.setattr(database, "execute_sql", lambda sql, *values: statements.append(sql) or execute(sql, *values))
    world.engine.run_pass()
    world.engine.backends.poll_soon()
    world.engine.run_pass()
    count = len(statements)
    assert world.statuses(job) == SUCCESS_PATH
    assert count == 22


def test_job_without_files_needs_three_passes(world):
    world.runner = SilentRunner(RunnerSettings(str(world.settings.data_dir), "0" * 32), lambda: None)
    world.settle()
    world.submit()
    assert not world.engine.run_pass()  # claims and starts it
    world.engine.backends.poll_soon()
    assert world.engine.run_pass()  # records its end
    assert not world.engine.run_pass()
    assert not world.runner.polls  # it is cleared, which needs no further pass


def test_failed_pass_leaves_the_database_usable(world, monkeypatch):
    job = world.submit()
    with monkeypatch.context() as patch:
        patch.setattr(world.engine.jobs.clearing, "submit_calls", lambda: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            world.engine.run_pass()
    assert database.transaction_depth() == 0
    world.end(job)
    assert world.statuses(job) == SUCCESS_PATH
