"""Helpers for the tests of services."""

from __future__ import annotations

from polyjob.clock import now
from polyjob.db.database import write
from polyjob.db.models import Job
from polyjob.statuses import Status

CONFIG = {"version": 1, "kind": "job", "run": {"cmd": "true"}}


def done(job, status=Status.SUCCEEDED):
    with write("test"):
        Job.update(status=status, finished_at=now()).where(Job.id == job.id).execute()
    return Job.get_by_id(job.id)


def pointers(refused):
    return [problem.pointer for problem in refused.value.problems]
