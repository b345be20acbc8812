"""What can be done with builds: find one for a job, reuse it, join it, make it anew, look it up."""

from __future__ import annotations

import uuid
from typing import Any

from peewee import ModelSelect

from polyjob import specs
from polyjob.clock import now
from polyjob.errors import NotFound
from polyjob.models import Build, BuildStatus, Code, Job, Project, User
from polyjob.query import BUILD_FIELDS, BUILD_ORDERS, conditions, ordering
from polyjob.statuses import Status
from polyjob.transitions import first_status

UNUSABLE = (Status.FAILED, Status.STOPPED, Status.UPSTREAM_FAILED, Status.SKIPPED)


def find(project: Project, build_id: int) -> Build:
    """Raises NotFound."""
    build = Build.get_or_none(Build.id == build_id, Build.project == project)
    if build is None:
        raise NotFound(f"There is no build {build_id} in this project.")
    return build


def list_builds(project: Project, query: str | None = None, sort: str | None = None) -> ModelSelect[Build]:
    """As `jobs.list_jobs`."""
    asked = conditions(query, BUILD_FIELDS, "build")
    return Build.select().where(Build.project == project, *asked).order_by(*ordering(sort, BUILD_ORDERS))


def resolve(job: Job) -> Build:
    """The build that a job runs on: the newest of its project with the same key that is done or under way, else a new
    one. `nocache` always makes a new one. Must be called inside `database.write`."""
    files = job.code.files if job.code else {}
    key, parts = specs.build_key(job.config, job.runner, files)
    if not job.config["build"].get("nocache"):
        found = _reusable(job.project_id, key)
        if found is not None:
            return found
    return _make(job.project, job.user, {"build": job.config["build"]}, job.runner, key, parts, job.code)


def _reusable(project_id: int, key: str) -> Build | None:
    return (
        Build.select()
        .where(
            Build.project == project_id,
            Build.key == key,
            Build.status.not_in(UNUSABLE),
            Build.stop_at.is_null(),
            Build.invalidated_at.is_null(),
        )
        .order_by(Build.id.desc())
        .first()
    )


def _make(
    project: Project,
    user: User,
    config: dict[str, Any],
    runner: str,
    key: str,
    parts: dict[str, Any],
    code: Code | None,
) -> Build:
    moment = now()
    build = Build.create(
        uuid=uuid.uuid4().hex,
        project=project,
        user=user,
        config=config,
        runner=runner,
        key=key,
        key_parts=parts,
        code=code,
        created_at=moment,
        updated_at=moment,
    )
    first_status(build)
    return build


def latest_status(build: Build) -> BuildStatus:
    newest_first = (BuildStatus.created_at.desc(), BuildStatus.id.desc())
    return BuildStatus.select().where(BuildStatus.build == build).order_by(*newest_first).get()


def list_statuses(build: Build) -> ModelSelect[BuildStatus]:
    """Oldest first."""
    return BuildStatus.select().where(BuildStatus.build == build).order_by(BuildStatus.created_at, BuildStatus.id)


def is_wanted(build: Build) -> bool:
    """Whether a job waits for it."""
    waiting = Job.select().where(Job.build == build, Job.status == Status.BUILDING, Job.stop_at.is_null())
    return bool(waiting.exists())
