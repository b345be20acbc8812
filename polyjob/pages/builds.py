"""The content of the page of one build, and of the list of a project's builds."""

from __future__ import annotations

from typing import Any

from flask import current_app

from polyjob.api.paging import root
from polyjob.api.schemas.builds import image_ids
from polyjob.clock import now
from polyjob.db.models import Build, BuildStatus, Job, Project, User
from polyjob.formatting import sentence
from polyjob.pages import logs, timeline
from polyjob.pages.urls import api_path
from polyjob.services import builds, specs
from polyjob.services.notes import note_text
from polyjob.statuses import Status
from polyjob.storage.store import Store

MAX_BUILDS = 100
MAX_JOBS = 50


def build_context(build: Build) -> dict[str, Any]:
    """Return the variables of `build.html`."""
    settings = current_app.config["SETTINGS"]
    rows = list(builds.list_statuses(build))
    steps = timeline.timeline(rows, now())
    images = image_ids(build)
    return {
        "build": build,
        "log_view": logs.log_view(build),
        "api_url": f"{root()}{api_path(build)}",
        "explanation": _explain(build, rows[-1]),
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


def latest_builds(project: Project) -> list[Build]:
    """Return the project's latest MAX_BUILDS builds, newest first, without their configs."""
    names = ("id", "name", "status", "created_at", "started_at", "finished_at", "reason", "user", "project")
    columns = [getattr(Build, name) for name in (*names, "invalidated_at")]
    query = Build.select(*columns, User.id, User.username).join(User)
    query = query.where(Build.project == project, Build.deleted_at.is_null(), Build.archived_at.is_null())
    rows = list(query.order_by(Build.updated_at.desc(), Build.id.desc()).limit(MAX_BUILDS))
    for build in rows:
        build.project = project
    return rows


def state(build: Build) -> tuple[object, ...]:
    """Return a value that differs after every change that the page shows."""
    return build.version, build.project.jobs_version


def _explain(build: Build, latest: BuildStatus) -> str:
    if not build.status.is_done:
        return note_text(build.notes, "retry") or ("The build is being stopped." if build.stop_at else "")
    if build.status is Status.SUCCEEDED and build.is_managed:
        if build.invalidated_at:
            return "New jobs do not use this build."
        return "New jobs with the same build use this one."
    return sentence((latest.message or "").rstrip("."))


def _jobs(build: Build) -> list[Job]:
    """Return the latest jobs that use the build."""
    columns = (Job.id, Job.name, Job.command, Job.status, Job.project, Job.created_at, Job.started_at, Job.finished_at)
    query = Job.select(*columns).where(Job.build == build, Job.deleted_at.is_null(), Job.archived_at.is_null())
    rows = list(query.order_by(Job.id.desc()).limit(MAX_JOBS))
    for job in rows:
        job.project = build.project
    return rows
