"""Queue positions and waiting reasons, without an engine."""

from __future__ import annotations

from polyjob.services import job_queue

from .helpers import done


def test_waiting_reason_counts_the_jobs_ahead(create):
    first, second = create(), create()
    reasons = [job_queue.waiting_reason(job, job_queue.queue_position(job)) for job in (first, second)]
    assert reasons[0].endswith("0 jobs are ahead.")
    assert reasons[1].endswith("1 job is ahead.")
    assert job_queue.waiting_reason(done(first), None) is None
