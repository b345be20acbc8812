"""What the page of one build shows: why it was made, what from, what came of it, and whose it is."""

from __future__ import annotations

from typing import Any

from flask import current_app

from polyjob.api.paging import root
from polyjob.api.schemas.builds import image_ids
from polyjob.clock import now
from polyjob.db.models import Build, BuildStatus, Job, Project, User
from polyjob.pages import logs, timeline
from polyjob.pages.job_page import build_url
from polyjob.services import builds, specs
from polyjob.services.notes import note_text
from polyjob.statuses import Status
from polyjob.storage.store import Store

MOST = 100
MOST_JOBS = 50


def about(build: Build) -> dict[str, Any]:
    settings = current_app.config["SETTINGS"]
    rows = list(builds.list_statuses(build))
    steps = timeline.steps(rows, now())
    images = image_ids(build)
    return {
        "build": build,
        "log_view": logs.view_of(build),
        "api_url": f"{root()}/api/v1{build_url(build)}",
        "why": _why(build, rows[-1]),
        "reason": (build.reason or {}).get("text"),
        "steps": steps,
        "bar": timeline.bar(steps),
        "section": build.config.get("build") or {},
        "image": images.get("image"),
        "base": images.get("base"),
        "dockerfile": specs.build_dockerfile(build, Store(settings.data_dir), settings),
        "jobs": _jobs(build),
        "job_count": builds.count_jobs(build),
    }


def newest(project: Project) -> list[Build]:
    """The latest MOST builds, and never their config; the last made first."""
    names = ("id", "name", "status", "created_at", "started_at", "finished_at", "reason", "user", "project")
    columns = [getattr(Build, name) for name in (*names, "invalidated_at")]
    query = Build.select(*columns, User.id, User.username).join(User)
    query = query.where(Build.project == project, Build.deleted_at.is_null(), Build.archived_at.is_null())
    found = list(query.order_by(Build.updated_at.desc(), Build.id.desc()).limit(MOST))
    for build in found:
        build.project = project
    return found


def state(build: Build) -> tuple[object, ...]:
    """What changes whenever something changes that the page shows."""
    return build.version, build.project.jobs_version


def _why(build: Build, last: BuildStatus) -> str:
    if not build.status.is_done:
        return note_text(build.notes, "retry") or ("It is being stopped." if build.stop_at else "")
    if build.status is Status.SUCCEEDED and build.is_managed:
        return "No new job uses it any more." if build.invalidated_at else "New jobs with the same build use it."
    return f"{(last.message or '').rstrip('.')}." if last.message else ""


def _jobs(build: Build) -> list[Job]:
    """The latest jobs that use or used it."""
    columns = (Job.id, Job.name, Job.status, Job.project, Job.created_at, Job.started_at, Job.finished_at)
    query = Job.select(*columns).where(Job.build == build, Job.deleted_at.is_null(), Job.archived_at.is_null())
    found = list(query.order_by(Job.id.desc()).limit(MOST_JOBS))
    for job in found:
        job.project = build.project
    return found
