import datetime
import threading

import pytest

from polyjob.clock import now
from polyjob.db.database import database, write
from polyjob.db.models import Job, JobStatus
from polyjob.services import jobs, transitions
from polyjob.services.transitions import insert_first_status, transition, update_columns
from polyjob.statuses import Status


@pytest.fixture
def job(project, user):
    moment = now()
    with write("test"):
        job = Job.create(uuid="a" * 32, project=project, user=user, runner="fake", created_at=moment, updated_at=moment)
        insert_first_status(job)
    return job


def go(job, *statuses, **columns):
    with write("test"):
        return [transition(job, status, **columns) for status in statuses]


def test_status_dates_the_row_and_raises_its_version(job):
    go(job, Status.SCHEDULED)
    row = Job.get_by_id(job.id)
    last = jobs.latest_status(row)
    assert (row.status, row.version) == (Status.SCHEDULED, 2)
    assert row.started_at == row.updated_at == last.created_at
    assert (job.status, job.version, job.started_at) == (row.status, row.version, row.started_at)


def test_invalid_next_status_is_not_written(job):
    assert go(job, Status.SUCCEEDED) == [None]
    assert [row.status for row in jobs.list_statuses(job)] == [Status.CREATED]
    assert Job.get_by_id(job.id).version == 1


def test_stale_row_does_not_overwrite_another_writer(job):
    stale = Job.get_by_id(job.id)
    go(job, Status.STOPPED)
    assert go(stale, Status.SCHEDULED, attempt_at=now()) == [None]
    row = Job.get_by_id(job.id)
    assert (row.status, row.attempt_at) == (Status.STOPPED, None)
    assert JobStatus.select().where(JobStatus.job == job).count() == 2


def test_one_of_many_concurrent_writers_wins(job):
    won, barrier = [], threading.Barrier(8)

    def race():
        mine = Job.get_by_id(job.id)
        barrier.wait()
        won.extend(row for row in go(mine, Status.STOPPED) if row)
        database.close()

    threads = [threading.Thread(target=race) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert len(won) == 1
    assert [row.status for row in jobs.list_statuses(job)] == [Status.CREATED, Status.STOPPED]


def test_unstarted_job_is_dated_from_its_creation(job):
    go(job, Status.STOPPED)
    row = Job.get_by_id(job.id)
    assert row.started_at == row.created_at
    assert row.finished_at == jobs.latest_status(row).created_at


def test_statuses_stay_in_order_when_the_clock_steps_back(job, monkeypatch):
    past = now() - datetime.timedelta(hours=5)
    monkeypatch.setattr(transitions, "now", lambda: past)
    go(job, Status.SCHEDULED, Status.RUNNING)
    moments = [row.created_at for row in jobs.list_statuses(job)]
    assert moments == sorted(set(moments))
    assert Job.get_by_id(job.id).updated_at == moments[-1]


def test_long_message_is_shortened_and_complete_in_the_traceback(job):
    text = "x" * 1000
    go(job, Status.SCHEDULED, message=text)
    last = jobs.latest_status(job)
    assert len(last.message) == 256
    assert last.message.endswith("…")
    assert last.traceback == text


def test_update_never_decreases_updated_at(job, monkeypatch):
    past = now() - datetime.timedelta(hours=5)
    monkeypatch.setattr(transitions, "now", lambda: past)
    before = job.updated_at
    with write("test"):
        assert update_columns(job, description="new")
    row = Job.get_by_id(job.id)
    assert (row.description, row.version, row.updated_at) == ("new", 2, before)


def test_update_of_a_removed_row_returns_false(job):
    with write("test"):
        Job.delete().execute()
        assert not update_columns(job, description="new")
