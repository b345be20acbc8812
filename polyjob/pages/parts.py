"""What the page of one job shows, read from its rows and the end of its log."""

from __future__ import annotations

import datetime
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flask import current_app, url_for

from polyjob import jobs
from polyjob.api.logfiles import log_length, tail_start
from polyjob.clock import now
from polyjob.models import Job, JobStatus, Project
from polyjob.pages import words
from polyjob.statuses import Status
from polyjob.store import Store

LOG_LINES = 200
LOG_BYTES = 1 << 16


@dataclass(frozen=True)
class LogEnd:
    """The last lines of a log, as text."""

    text: str
    length: int
    """Bytes of the whole log."""
    is_cut: bool


@dataclass(frozen=True)
class Step:
    """A status in the timeline; `lasted` is None where nothing ends it."""

    status: Status
    moment: datetime.datetime
    lasted: datetime.timedelta | None
    message: str | None
    traceback: str | None


def about(job: Job) -> dict[str, Any]:
    rows = list(jobs.list_statuses(job))
    last = rows[-1]
    waiting = jobs.waiting_reason(job, jobs.queue_position(job))
    return {
        "job": job,
        "why": words.why(job.status, job.exit, last.message, last.details or {}, waiting),
        "stopping": _stopping(job),
        "end": job.exit or {},
        "steps": _steps(rows),
        "log": read_log_end(Store(current_app.config["SETTINGS"].data_dir).job_log(job.uuid)),
        "log_url": f"/api/v1{job_url(job)}/logs",
        "outputs_url": f"/api/v1{job_url(job)}/outputs",
        "build": job.build,
        "build_log_url": f"/api/v1{project_url(job.project)}/builds/{job.build_id}/logs",
        "original": _shown_original(job),
        "config": json.dumps(job.config, indent=2, ensure_ascii=False) if job.config else job.content,
    }


def project_url(project: Project) -> str:
    return url_for("pages.project_jobs", username=project.user.username, project_name=project.name)


def job_url(job: Job) -> str:
    return f"{project_url(job.project)}/jobs/{job.id}"


def duration(job: Job) -> datetime.timedelta | None:
    """How long it took or has taken so far; None for a job that has not started."""
    if job.started_at is None:
        return None
    return (job.finished_at or now()) - job.started_at


def read_log_end(path: Path) -> LogEnd:
    """At most LOG_LINES lines and LOG_BYTES bytes; all empty where there is no log yet."""
    length = log_length(path)
    if not length:
        return LogEnd("", 0, False)
    start = max(tail_start(path, LOG_LINES, length), length - LOG_BYTES)
    with path.open("rb") as log:
        log.seek(start)
        data = log.read(length - start)
    return LogEnd(words.log_text(data), length, start > 0)


def _shown_original(job: Job) -> Job | None:
    original = job.original if job.original_id else None
    return original if original and original.deleted_at is None and original.archived_at is None else None


def _stopping(job: Job) -> str | None:
    """That somebody wants the job to end, while it has not."""
    if job.stop_at is None or job.status.is_done:
        return None
    if job.stop_kind == "timeout":
        return "It has run as long as it may, and is being ended."
    who = job.stop_by.username if job.stop_by else "Somebody"
    return f"{who} asked to stop it; it is being ended."


def _steps(rows: list[JobStatus]) -> list[Step]:
    ends = [row.created_at for row in rows[1:]] + [None if rows[-1].status.is_done else now()]
    return [
        Step(row.status, row.created_at, end - row.created_at if end else None, row.message, row.traceback)
        for row, end in zip(rows, ends, strict=True)
    ]
