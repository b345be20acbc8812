"""A pass costs by what has changed, not by the number of running jobs."""

from __future__ import annotations

import dataclasses
import sqlite3

import pytest

from polyjob.db.database import database, write
from polyjob.db.models import Job
from polyjob.engine import job_driver
from polyjob.engine.claimed_jobs import MIN_BATCH_ROWS, ClaimedJobs
from polyjob.services import jobs
from polyjob.services.transitions import update_columns
from runners.fake import FakeRunner

RUNNING = 8


@pytest.fixture
def settings(settings):
    return dataclasses.replace(settings, slots=RUNNING)


@pytest.fixture
def running(world):
    """Running jobs, for which a settled engine has nothing to do."""
    world.runner.is_local = True
    submitted = [world.submit(seconds=1000) for _ in range(RUNNING)]
    world.later(3)
    world.engine.run_pass()  # takes the empty fetches of their logs
    return submitted


@pytest.fixture
def decided(monkeypatch):
    """Return the list of the jobs that were decided on."""
    decided = []
    decide = job_driver.decide

    def record(job, *arguments):
        decided.append(job.id)
        return decide(job, *arguments)

    monkeypatch.setattr(job_driver, "decide", record)
    return decided


def test_pass_without_news_decides_on_no_running_job(world, running, decided):
    for _ in range(3):
        world.engine.backends.poll_soon()
        world.engine.run_pass()
    assert decided == []


def test_pass_decides_on_the_job_whose_row_has_changed(world, running, decided):
    jobs.request_stop(running[3], world.user, world.settings)
    world.engine.run_pass()
    assert decided == [running[3].id]


def test_pass_decides_on_the_job_whose_state_has_changed(world, running, decided, monkeypatch):
    ended = world.read(running[2]).handle
    poll = FakeRunner.poll
    monkeypatch.setattr(FakeRunner, "poll", lambda self, handles: poll(self, handles) | poll_ended(self, ended, poll))
    world.engine.backends.poll_soon()
    world.engine.run_pass()
    assert set(decided) == {running[2].id}


def poll_ended(runner, handle, poll):
    clock = runner.clock
    runner.clock = lambda: clock() + 2000
    try:
        return poll(runner, [handle])
    finally:
        runner.clock = clock


def test_pass_without_news_reads_no_job(world, running, monkeypatch):
    world.engine.run_pass()
    statements = []
    execute = database.execute_sql
    monkeypatch.setattr(database, "execute_sql", lambda sql, *rest: statements.append(sql) or execute(sql, *rest))
    world.engine.run_pass()
    assert len(statements) < RUNNING
    assert not [sql for sql in statements if "config" in sql and "'running'" in sql]


class TestRows:
    @pytest.fixture
    def claimed(self, running):
        claimed = ClaimedJobs()
        claimed.read()
        return claimed

    def test_unchanged_rows_are_kept(self, claimed, running):
        assert claimed.read() is None
        assert list(claimed.rows) == [job.id for job in running]

    def test_changes_of_this_process_are_read(self, claimed, running):
        with write("test"):
            update_columns(running[1], stop_kind="person")
        assert claimed.read() == {running[1].id}
        assert claimed.rows[running[1].id].stop_kind == "person"

    def test_changes_of_another_process_are_read(self, world, claimed, running):
        with sqlite3.connect(world.settings.data_dir / "polyjob.db") as other:
            other.execute("UPDATE job SET node = 'x', version = version + 1 WHERE id = ?", (running[0].id,))
        other.close()
        assert claimed.read() == {running[0].id}
        assert claimed.rows[running[0].id].node == "x"

    def test_ended_jobs_are_dropped(self, claimed, running):
        with write("test"):
            Job.update(status="failed").where(Job.id == running[0].id).execute()
        assert claimed.read() == set()
        assert list(claimed.rows) == [job.id for job in running[1:]]

    def test_forgotten_rows_are_read_again(self, claimed, running):
        claimed.forget([running[4].id])
        assert claimed.read() == {running[4].id}

    def test_rows_of_jobs_that_do_not_run_yet_are_always_read(self, claimed, running):
        with write("test"):
            Job.update(status="scheduled").where(Job.id == running[0].id).execute()
        claimed.forget([running[0].id])
        claimed.read()
        with write("test"):
            update_columns(running[1], node="x")
        assert claimed.read() == {running[0].id, running[1].id}

    @pytest.mark.parametrize("count", [1, MIN_BATCH_ROWS])
    def test_few_and_many_changed_rows_are_read(self, claimed, running, monkeypatch, count):
        monkeypatch.setattr("polyjob.engine.claimed_jobs.MIN_BATCH_ROWS", 2)
        ids = {job.id for job in running[:count]}
        claimed.forget(ids)
        assert claimed.read() == ids
        assert list(claimed.rows) == [job.id for job in running]
