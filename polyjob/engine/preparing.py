"""From claimed to the intent to start: rows only, inside the pass's transaction."""

from __future__ import annotations

from polyjob import builds
from polyjob.clock import Clock
from polyjob.models import Build, Job, JobStatus
from polyjob.statuses import Status
from polyjob.transitions import change, transition
from runners.base import Exit, Reason

ASKED = "asked for"
"""Why a job uses a build that its request named."""


def waits_for_build(job: Job) -> bool:
    """Whether nothing can be done but to wait."""
    is_building = job.status is Status.BUILDING and job.stop_at is None
    return is_building and job.build is not None and not job.build.status.is_done


def prepare(job: Job, clock: Clock, python: str = "") -> None:
    """Bring a claimed job as far as the rows allow: to its build, past it, or to the committed intent to start it.

    The start itself comes after the commit, from whoever finds the intent. `python` as in `specs.build_key`. Must be
    called inside `database.write`.
    """
    if job.stop_at is not None:
        stop_unstarted(job)
        return
    if job.status is Status.SCHEDULED and (job.config.get("build") or job.build_id):
        _to_build(job, python)
    if job.status is Status.BUILDING and not _is_built(job):
        return
    change(job, attempt_at=clock.wall())


def make_build_anew(job: Job, why: str, python: str = "") -> None:
    """Have a job whose reused build does not serve any more use another, and no other job use that one. Must be called
    inside `database.write`."""
    if job.build is not None:
        builds.outdate(job.build, why)
    build, _ = builds.resolve(job, python)
    change(job, build=build, attempt_at=None)


def asked_for_its_build(job: Job) -> bool:
    """Whether the request that made the job named the build."""
    row = JobStatus.select().where(JobStatus.job == job, JobStatus.status == Status.BUILDING).first()
    return row is not None and (row.details or {}).get("why") == ASKED


def stop_unstarted(job: Job) -> None:
    """`stopped`, for a job that no back end has ever seen."""
    by = job.stop_by.username if job.stop_by else None
    transition(job, Status.STOPPED, message="Job was stopped", details={"reason": "stopped", "by": by})


def _to_build(job: Job, python: str) -> None:
    build, why = (job.build, ASKED) if job.build else builds.resolve(job, python)
    name = build.unique_name
    message = f"Using build {name}" if build.status.is_done else "Building container"
    transition(job, Status.BUILDING, message=message, details={"build": name, "why": why}, build=build)


def _is_built(job: Job) -> bool:
    """Whether the build is there; where it never will be, the job is ended."""
    build = job.build
    if build is None:
        transition(job, Status.UPSTREAM_FAILED, message="The build was removed", details={"reason": str(Reason.BUILD)})
        return False
    if build.status.is_done and build.status is not Status.SUCCEEDED:
        _end_by_build(job, build)
    return build.status is Status.SUCCEEDED


def _end_by_build(job: Job, build: Build) -> None:
    name = build.unique_name
    details = {"reason": str(Reason.BUILD), "build": name}
    if build.status is Status.STOPPED:
        transition(job, Status.STOPPED, message=f"Build {name} was stopped", details=details)
        return
    last = builds.latest_status(build)
    message = f"Build {name} failed: {last.message}"
    end = Exit(Reason.BUILD, message=message)
    details |= last.details or {}
    transition(job, Status.UPSTREAM_FAILED, message=message, details=details, exit=end.to_json())
