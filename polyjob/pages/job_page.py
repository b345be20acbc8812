"""What the page of one job shows, read from its rows; and the addresses of what pages show."""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from typing import Any

from flask import current_app, url_for

from polyjob.api.log_download import log_length, tail_start
from polyjob.api.paging import root
from polyjob.clock import now
from polyjob.db.models import Build, Job, Project, User
from polyjob.pages import diffs, formatting, logs, outputs, timeline
from polyjob.services import bookmarks, job_queue, jobs
from polyjob.storage.store import Store

LOG_BYTES = 1 << 16
BUILD_LINES = 20
MOST_CLONES = 20
LONGEST_CHAIN = 10


def about(job: Job, user: User) -> dict[str, Any]:
    rows = list(jobs.list_statuses(job))
    last = rows[-1]
    steps = timeline.steps(rows, now())
    waiting = job_queue.waiting_reason(job, job_queue.queue_position(job))
    originals, clones = _originals(job), _clones(job)
    return {
        "job": job,
        "why": formatting.why(job.status, job.exit, last.message, last.details or {}, waiting),
        "stopping": _stopping(job),
        "end": job.exit or {},
        "is_marked": bookmarks.is_bookmarked(job, user),
        "steps": steps,
        "bar": timeline.bar(steps),
        "build_why": next((row.details.get("why") for row in rows if row.details and "why" in row.details), None),
        "resources": formatting.resources((job.config or {}).get("environment"), job.gpus, job.exit),
        "log_view": logs.view_of(job),
        "outputs": outputs.overview(job),
        "outputs_url": f"/api/v1{job_url(job)}/outputs",
        "build": job.build,
        "build_log": _failed_build_log(job),
        "originals": originals,
        "clones": clones[:MOST_CLONES],
        "has_more_clones": len(clones) > MOST_CLONES,
        "changed": _changed(job, originals),
        "config": diffs.pretty(job.config) if job.config else None,
        "api_url": f"{root()}/api/v1{job_url(job)}",
    }


def project_url(project: Project) -> str:
    return url_for("pages.project_jobs", username=project.user.username, project_name=project.name)


def job_url(job: Job) -> str:
    return f"{project_url(job.project)}/jobs/{job.id}"


def build_url(build: Build) -> str:
    return f"{project_url(build.project)}/builds/{build.id}"


def duration(run: Job | Build) -> datetime.timedelta | None:
    """How long it took or has taken so far; None for one that has not started."""
    if run.started_at is None:
        return None
    return (run.finished_at or now()) - run.started_at


def _failed_build_log(job: Job) -> str:
    """Of a job that never ran because its build failed, what that said last; at most LOG_BYTES of BUILD_LINES lines."""
    if (job.exit or {}).get("reason") != "build" or job.build is None:
        return ""
    path = _store().build_log(job.build.uuid)
    length = log_length(path)
    if not length:
        return ""
    with path.open("rb") as log:
        log.seek(max(tail_start(path, BUILD_LINES, length), length - LOG_BYTES))
        return formatting.log_text(log.read(LOG_BYTES))


def _store() -> Store:
    return Store(current_app.config["SETTINGS"].data_dir)


def _originals(job: Job) -> list[Job]:
    """What it was cloned from, and what that was, as far as they are there; the nearest first."""
    found: list[Job] = []
    number = job.original_id
    while number and len(found) < LONGEST_CHAIN:
        original = Job.get_or_none(Job.id == number, Job.project == job.project_id, *_shown())
        if original is None:
            break
        original.project = job.project
        found.append(original)
        number = original.original_id
    return found


def _clones(job: Job) -> Sequence[Job]:
    """The latest of them; one more than MOST_CLONES where there are more."""
    query = Job.select(Job.id, Job.name, Job.status, Job.project, Job.cloning_strategy)
    query = query.where(Job.original == job.id, Job.project == job.project_id, *_shown())
    found = list(query.order_by(Job.id.desc()).limit(MOST_CLONES + 1))
    for clone in found:
        clone.project = job.project
    return found


def _shown() -> tuple[Any, ...]:
    return Job.deleted_at.is_null(), Job.archived_at.is_null()


def _changed(job: Job, originals: list[Job]) -> list[tuple[str, str]] | None:
    """What it changed of the config of what it was cloned from; None where there is nothing to compare."""
    if not originals or job.config is None or originals[0].config is None:
        return None
    return diffs.changed(originals[0].config, job.config)


def _stopping(job: Job) -> str | None:
    """That somebody wants the job to end, while it has not."""
    if job.stop_at is None or job.status.is_done:
        return None
    if job.stop_kind == "timeout":
        return "It has run as long as it may, and is being ended."
    if job.stop_kind == "start":
        return "Its start was refused again and again; it is being ended."
    who = job.stop_by.username if job.stop_by else "Somebody"
    return f"{who} asked to stop it; it is being ended."
