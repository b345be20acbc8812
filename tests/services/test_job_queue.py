"""Queue positions and waiting reasons, without an engine."""

from __future__ import annotations

import pytest

from polyjob.db.database import write
from polyjob.db.models import Job, Queue
from polyjob.services import job_queue, jobs
from polyjob.services.transitions import transition
from polyjob.statuses import Status

from .helpers import done


def test_waiting_reason_counts_the_jobs_ahead(create):
    first, second = create(), create()
    reasons = [job_queue.waiting_reason(job, job_queue.queue_position(job)) for job in (first, second)]
    assert reasons[0].endswith("this job is next.")
    assert reasons[1].endswith("1 job is ahead.")
    assert job_queue.waiting_reason(done(first), None) is None


def lengths():
    counted = {}
    for job in Job.select().where(Job.status == Status.CREATED, Job.is_managed):
        counted[job.runner] = counted.get(job.runner, 0) + 1
    stored = {row.runner: row.length for row in Queue.select()}
    assert {runner: length for runner, length in stored.items() if length} == counted
    return stored


def change(job, **columns):
    with write("test"):
        Job.update(**columns).where(Job.id == job.id).execute()


def test_queue_length_follows_the_rows(create, user, settings):
    first, second, third = (create() for _ in range(3))
    create(config=None, is_managed=False)
    assert lengths() == {"fake": 3}
    with write("test"):
        transition(first, Status.SCHEDULED)
    assert lengths() == {"fake": 2}
    jobs.request_stop(second, user, settings)
    assert lengths() == {"fake": 1}
    change(third, runner="docker")
    assert lengths() == {"fake": 0, "docker": 1}
    change(third, status=Status.CREATED, runner="docker", description="d")
    assert lengths() == {"fake": 0, "docker": 1}
    change(third, is_managed=False)
    assert lengths() == {"fake": 0, "docker": 0}
    change(third, is_managed=True)
    with write("test"):
        Job.delete().where(Job.id == third.id).execute()
    assert lengths() == {"fake": 0, "docker": 0}


@pytest.mark.parametrize("claimed", [(), (0,), (0, 1, 5), (2, 3), (9,), (7, 8)])
def test_position_is_the_same_from_both_ends(create, claimed):
    queued = [create() for _ in range(10)]
    change(queued[4], runner="docker")
    for index in claimed:
        change(queued[index], status=Status.SCHEDULED)
    left = list(Job.select().where(Job.status == Status.CREATED, Job.runner == "fake").order_by(Job.id))
    assert [job_queue.queue_position(job) for job in left] == [*range(1, len(left) + 1)]
    assert job_queue.queue_position(Job.get_by_id(queued[4].id)) == 1
