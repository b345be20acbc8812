"""Bring a claimed job to its build and to the committed intent to start it: writes of rows only."""

from __future__ import annotations

from typing import Any

from polyjob.clock import Clock
from polyjob.db.models import Job
from polyjob.services import build_reuse, builds
from polyjob.services.endings import end_job
from polyjob.services.notes import START_REFUSED_NOTE, note_text, with_note
from polyjob.services.transitions import transition, update_columns
from polyjob.statuses import Status
from runners.base import Exit, Reason
from runners.registry import runner_facts


def waits_for_build(job: Job) -> bool:
    """Return whether a job has to wait until its build is done."""
    is_building = job.status is Status.BUILDING and job.stop_at is None
    return is_building and job.build is not None and not job.build.status.is_done


def can_start_at_once(job: Job) -> bool:
    """Return whether a queued job needs no build and is not being stopped, so that its claim includes the intent."""
    is_free = job.stop_at is None and job.build_id is None
    return is_free and isinstance(job.config, dict) and not job.config.get("build")


def intent_columns(clock: Clock) -> dict[str, Any]:
    """Return the columns of the intent to start a job."""
    return {"attempt_at": clock.wall(), "attempt_clock": clock.mark()}


def prepare(job: Job, clock: Clock, python: str = "") -> None:
    """Bring a claimed job as far as the rows allow: to its build, past it, or to the intent to start it.

    A later pass finds the committed intent and starts the job. `python` is explained in `specs.build_key`. Must be
    called inside `database.write`.
    """
    if job.stop_at is not None:
        end_unstarted(job)
        return
    if job.status is Status.SCHEDULED and (job.config.get("build") or job.build_id):
        _to_build(job, python)
    if job.status is Status.BUILDING and not _is_built(job):
        return
    update_columns(job, **intent_columns(clock))


def replace_build(job: Job, reason: str, python: str = "") -> None:
    """Give a job another build, and let no other job use the old one, because its artifact is missing or stale.

    Must be called inside `database.write`.
    """
    if job.build is not None:
        builds.mark_stale(job.build, reason)
    build, _ = build_reuse.find_or_create(job, python)
    update_columns(job, build=build, attempt_at=None, attempt_clock=None)


def refuse_start(job: Job, reason: str, clock: Clock) -> None:
    """End a job whose start keeps being refused. It ends like a stopped job, because a start may have taken effect."""
    if job.stop_at is None:
        update_columns(
            job, stop_at=clock.wall(), stop_kind="start", notes=with_note(job.notes, START_REFUSED_NOTE, reason)
        )


def end_unstarted(job: Job) -> None:
    """End a job that no backend has: as `stopped`, unless its time limit or a refused start ends it."""
    if job.stop_kind == "timeout":
        update_columns(job, exit=Exit(Reason.TIMEOUT).to_json())
        return
    if job.stop_kind == "start":
        update_columns(job, exit=Exit(Reason.START, message=note_text(job.notes, START_REFUSED_NOTE)).to_json())
        return
    by = job.stop_by.username if job.stop_by else None
    end_job(job, Status.STOPPED, message="Job was stopped", details={"reason": "stopped", "by": by})


def _to_build(job: Job, python: str) -> None:
    build, reason = (job.build, build_reuse.BUILD_WAS_NAMED) if job.build else build_reuse.find_or_create(job, python)
    name = build.unique_name
    artifact = runner_facts(build.runner).build_result or "what the job runs on"
    message = f"Using build {name}" if build.status.is_done else f"Build {name} makes {artifact}"
    transition(job, Status.BUILDING, message=message, details={"build": name, "why": reason}, build=build)


def _is_built(job: Job) -> bool:
    """Return whether the build has succeeded. If it never will, end the job."""
    build = job.build
    if build is None:
        _fail_by_build(job, "The build was removed")
        return False
    if build.status is Status.STOPPED:
        _fail_by_build(job, f"Build {build.unique_name} was stopped", build=build.unique_name)
    elif build.status.is_done and build.status is not Status.SUCCEEDED:
        last = builds.latest_status(build)
        details = (last.details or {}) | {"build": build.unique_name}
        _fail_by_build(job, f"Build {build.unique_name} failed: {_clause(last.message)}", **details)
    return build.status is Status.SUCCEEDED


def _clause(text: str | None) -> str:
    """Return a sentence in the form that follows a colon."""
    text = text or ""
    return text[:1].lower() + text[1:] if text[1:2].islower() else text


def _fail_by_build(job: Job, message: str, **details: Any) -> None:
    end = Exit(Reason.BUILD, message=message, step=details.get("step"))
    details |= {"reason": str(Reason.BUILD)}
    end_job(job, Status.FAILED, message=message, details=details, exit=end.to_json())
