"""Submit sweeps: one job for each combination of values, all in one transaction. A tag makes them a group."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from polyjob.db.database import write
from polyjob.db.models import Job, JobTag, Project, User
from polyjob.errors import Invalid, Problem
from polyjob.services import submission
from polyjob.services.idempotency import IdempotentRequest, check_replay
from polyjob.services.job_inputs import FindJob
from polyjob.settings import Settings

MAX_SWEEP_JOBS = 500
"""Jobs of one sweep. Their insert holds the write lock for less than a second."""

MAX_SWEEP_BYTES = 16 << 20
"""Length of the bodies of all jobs of a sweep together. Each job is parsed and stored by itself."""


@dataclass(frozen=True)
class Sweep:
    """The jobs that one request has submitted."""

    group: str
    """The tag of these jobs."""
    jobs: list[Job]


def create(
    project: Project,
    user: User,
    jobs: Sequence[Mapping[str, Any]],
    group: str,
    settings: Settings,
    once: IdempotentRequest | None = None,
    *,
    may_choose_folder: bool = False,
    find_job: FindJob | None = None,
) -> Sweep:
    """Accept all jobs of a sweep, or none. When this returns, they are on disk.

    `jobs` has the attributes of each job, as `submission.prepare` takes them; `group` is among their tags. Raises
    Invalid if a job of the project has that tag already, what `submission.prepare` and the function that it returns
    raise, and whatever `once` raises.
    """
    inserts = [
        submission.prepare(project, user, attributes, settings, may_choose_folder=may_choose_folder, find_job=find_job)
        for attributes in jobs
    ]
    with write("accept-sweep"):
        store_response = check_replay(once)
        if JobTag.select().where(JobTag.project_id == project.id, JobTag.tag == group).exists():
            detail = f"This project has jobs with the tag `{group}`; choose another group."
            raise Invalid([Problem("/group", detail)])
        sweep = Sweep(group, [insert() for insert in inserts])
        store_response(sweep)
    submission.wake_engine_for(sweep.jobs[0], settings)
    return sweep
