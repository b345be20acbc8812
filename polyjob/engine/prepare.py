"""From claimed to the intent to start: rows only, inside the pass's transaction."""

from __future__ import annotations

from typing import Any

from polyjob.clock import Clock
from polyjob.db.models import Job, JobStatus
from polyjob.services import build_reuse, builds
from polyjob.services.notes import START_REFUSED_NOTE, note_text, with_note
from polyjob.services.transitions import transition, update_columns
from polyjob.statuses import Status
from runners.base import Exit, Reason
from runners.capabilities import BUILD_RESULTS

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
        end_unstarted(job)
        return
    if job.status is Status.SCHEDULED and (job.config.get("build") or job.build_id):
        _to_build(job, python)
    if job.status is Status.BUILDING and not _is_built(job):
        return
    update_columns(job, attempt_at=clock.wall(), attempt_clock=clock.mark())


def make_build_anew(job: Job, why: str, python: str = "") -> None:
    """Have a job whose reused build does not serve any more use another, and no other job use that one. Must be called
    inside `database.write`."""
    if job.build is not None:
        builds.mark_stale(job.build, why)
    build, _ = build_reuse.find_or_create(job, python)
    update_columns(job, build=build, attempt_at=None, attempt_clock=None)


def asked_for_its_build(job: Job) -> bool:
    """Whether the request that made the job named the build."""
    row = JobStatus.select().where(JobStatus.job == job, JobStatus.status == Status.BUILDING).first()
    return row is not None and (row.details or {}).get("why") == ASKED


def refuse_start(job: Job, why: str, clock: Clock) -> None:
    """Have a job end whose start keeps being refused: as a stop ends it, because a start may have made something."""
    if job.stop_at is None:
        update_columns(
            job, stop_at=clock.wall(), stop_kind="start", notes=with_note(job.notes, START_REFUSED_NOTE, why)
        )


def end_unstarted(job: Job) -> None:
    """End a job of which no back end has anything: `stopped`, unless its time limit or a refused start ends it."""
    if job.stop_kind == "timeout":
        update_columns(job, exit=Exit(Reason.TIMEOUT).to_json())
        return
    if job.stop_kind == "start":
        update_columns(job, exit=Exit(Reason.START, message=note_text(job.notes, START_REFUSED_NOTE)).to_json())
        return
    by = job.stop_by.username if job.stop_by else None
    transition(job, Status.STOPPED, message="Job was stopped", details={"reason": "stopped", "by": by})


def _to_build(job: Job, python: str) -> None:
    build, why = (job.build, ASKED) if job.build else build_reuse.find_or_create(job, python)
    name = build.unique_name
    made = BUILD_RESULTS.get(build.runner, "what the job runs on")
    message = f"Using build {name}" if build.status.is_done else f"Build {name} makes {made}"
    transition(job, Status.BUILDING, message=message, details={"build": name, "why": why}, build=build)


def _is_built(job: Job) -> bool:
    """Whether the build is there; where it never will be, the job is ended."""
    build = job.build
    if build is None:
        _end_by_build(job, "The build was removed")
        return False
    if build.status is Status.STOPPED:
        _end_by_build(job, f"Build {build.unique_name} was stopped", build=build.unique_name)
    elif build.status.is_done and build.status is not Status.SUCCEEDED:
        last = builds.latest_status(build)
        details = (last.details or {}) | {"build": build.unique_name}
        _end_by_build(job, f"Build {build.unique_name} failed: {_clause(last.message)}", **details)
    return build.status is Status.SUCCEEDED


def _clause(text: str | None) -> str:
    """A sentence as it stands behind a colon."""
    text = text or ""
    return text[:1].lower() + text[1:] if text[1:2].islower() else text


def _end_by_build(job: Job, message: str, **details: Any) -> None:
    end = Exit(Reason.BUILD, message=message)
    details |= {"reason": str(Reason.BUILD)}
    transition(job, Status.FAILED, message=message, details=details, exit=end.to_json())
