"""Build operations: look up, create, update, stop, invalidate, archive, delete.

`build_reuse` chooses the build of a job.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from peewee import ModelSelect

from polyjob.clock import now
from polyjob.db.database import write
from polyjob.db.models import Build, BuildStatus, Job, Project, User
from polyjob.engine_link import wake_engine
from polyjob.errors import Conflict, Invalid, NotFound, Problem
from polyjob.services import audit, specs
from polyjob.services.build_reuse import insert_build
from polyjob.services.idempotency import IdempotentRequest, check_replay
from polyjob.services.merge import merge_lists
from polyjob.services.notes import with_note
from polyjob.services.runner_choice import choose_runner
from polyjob.services.transitions import transition, update_columns, update_note
from polyjob.settings import Settings
from polyjob.statuses import Status
from polyjob.storage.store import Store

STOPPED_MESSAGE = "BuildJob was stopped"


def find(project: Project, build_id: int) -> Build:
    """Return the build. Raises NotFound, also for a build that is archived or deleted."""
    build = Build.get_or_none(Build.id == build_id, *_listed(project))
    if build is None:
        raise _not_found(build_id)
    return build


def _listed(project: Project) -> tuple[Any, ...]:
    return Build.project == project, Build.deleted_at.is_null(), Build.archived_at.is_null()


def _not_found(build_id: int) -> NotFound:
    return NotFound(f"There is no build {build_id} in this project.")


def list_archived(owner: User) -> ModelSelect[Build]:
    """Return the archived builds of the owner's projects, last archived first."""
    projects = Project.select(Project.id).where(Project.user == owner, Project.deleted_at.is_null())
    return (
        Build.select()
        .where(Build.project.in_(projects), Build.deleted_at.is_null(), Build.archived_at.is_null(False))
        .order_by(Build.archived_at.desc(), Build.id.desc())
    )


# Create.


def create(
    project: Project,
    user: User,
    attributes: Mapping[str, Any],
    settings: Settings,
    once: IdempotentRequest | None = None,
) -> Build:
    """Accept a build that was requested without a job, and return it. When this returns, the build is on disk.

    `attributes` has `config` (with a section `build`), `content`, `backend`, and the build's own columns. If
    `is_managed` is False, the build is only recorded and needs no config: its client posts its statuses, and no job
    reuses it.

    Raises Invalid if the runner cannot honour the config, Unavailable if the disk is low, and whatever `once` raises.
    """
    Store(settings.data_dir).check_free_space(settings.disk_low)
    managed = attributes.get("is_managed") is not False
    if attributes.get("config") is None and managed:
        raise Invalid([Problem("/content", "Build expects a `content`.")])
    config = attributes.get("config") or {"build": {}}
    columns = {name: attributes.get(name) or config.get(name) for name in ("name", "description", "tags")}
    columns |= {"config": {"build": config["build"]}, "content": attributes.get("content"), "is_managed": managed}
    runner = choose_runner(settings, attributes) if managed else settings.runner
    columns |= {"runner": runner, "code": project.code_id, "is_asked": True, "key": "", "key_parts": {}}
    if managed:
        columns["notes"] = specs.check_runner_support(config, runner) or None
        files = project.code.files if project.code else {}
        columns["key"], columns["key_parts"] = specs.build_key(config, runner, files, settings.python)
    with write("accept-build"):
        store_response = check_replay(once)
        build = insert_build(project, user, columns, nocache=bool(config["build"].get("nocache")))
        audit.record("create", build)
        store_response(build)
    wake_engine(settings.data_dir)
    return build


# Update.


def update(build: Build, changes: Mapping[str, Any]) -> Build:
    """Update name, description and tags. With `changes["merge"]`, the tags are merged with the existing ones."""
    columns = {name: changes[name] for name in ("name", "description", "tags") if name in changes}
    with write("update-build"):
        build = _reload(build)
        if changes.get("merge") and "tags" in columns:
            columns["tags"] = merge_lists("tags", build.tags, columns["tags"])
        if columns:
            update_columns(build, **columns)
            audit.record("update", build, changed=sorted(columns))
    return build


def request_stop(build: Build, settings: Settings) -> None:
    """Request that the build stops; the jobs that wait for it then fail. Idempotent.

    A build that is done is not changed.
    """
    with write("stop-build", use_reserve=True):
        _request_stop(_reload(build))
    wake_engine(settings.data_dir)


def archive(build: Build, settings: Settings) -> None:
    """Hide the build, so that no new job uses it, and request that it stops if it is not done. Idempotent.

    Raises Conflict while a job needs the build.
    """
    with write("archive", use_reserve=True):
        build = _reload(build)
        if build.archived_at is None:
            _check_not_in_use(build)
            _request_stop(build)
            update_columns(build, archived_at=now())
            audit.record("archive", build)
    wake_engine(settings.data_dir)


def restore(project: Project, build_id: int) -> None:
    """Restore an archived build. Idempotent. Raises NotFound."""
    with write("restore"):
        build = Build.get_or_none(Build.id == build_id, Build.project == project, Build.deleted_at.is_null())
        if build is None:
            raise _not_found(build_id)
        if build.archived_at is not None:
            update_columns(build, archived_at=None)
            audit.record("restore", build)


def invalidate(build: Build) -> None:
    """Prevent new jobs from using the build. Jobs that use it already are not affected. Idempotent."""
    with write("invalidate"):
        build = _reload(build)
        if build.invalidated_at is None:
            update_columns(build, invalidated_at=now())
            audit.record("invalidate", build)


def mark_stale(build: Build, reason: str) -> None:
    """Prevent new jobs from using a build whose artifact the runner reports as missing or stale.

    Must be called inside `database.write`.
    """
    if build.invalidated_at is None:
        update_columns(
            build, invalidated_at=now(), notes=with_note(build.notes, "outdated", f"Not used any more: {reason}.")
        )


def invalidate_all(project: Project) -> None:
    """Prevent new jobs from using any existing build of the project."""
    with write("invalidate"):
        Build.update(invalidated_at=now(), version=Build.version + 1).where(
            *_listed(project), Build.invalidated_at.is_null()
        ).execute()
        audit.record("invalidate", project)


def delete(build: Build, settings: Settings) -> None:
    """Hide the build immediately; the engine stops it and then removes it with its artifact. Idempotent.

    Raises Conflict while a job needs the build.
    """
    with write("delete", use_reserve=True):
        mark_deleted(build)
    wake_engine(settings.data_dir)


def mark_deleted(build: Build) -> None:
    """Do what `delete` does. Raises Conflict.

    Must be called inside `database.write`. The caller sends the engine a wake-up after the commit.
    """
    build = _reload(build)
    if build.deleted_at is None:
        _check_not_in_use(build)
        _request_stop(build)
        update_columns(build, deleted_at=now())
        audit.record("delete", build)


def delete_all(project: Project) -> None:
    """Delete every build of a project whose jobs are being deleted. Must be called inside `database.write`."""
    moment = now()
    builds = Build.update(deleted_at=moment, version=Build.version + 1)
    builds.where(Build.project == project, Build.deleted_at.is_null()).execute()
    unmanaged = Build.select().where(Build.project == project, Build.finished_at.is_null(), ~Build.is_managed)
    for build in list(unmanaged):
        _request_stop(build)
    stop = Build.update(stop_at=moment)
    stop.where(Build.project == project, Build.finished_at.is_null(), Build.stop_at.is_null()).execute()


def _request_stop(build: Build) -> None:
    if build.status.is_done or build.stop_at is not None:
        return
    audit.record("stop", build)
    if build.is_managed:
        update_columns(build, stop_at=now())
    else:
        transition(build, Status.STOPPED, message=STOPPED_MESSAGE, details={"reason": "stopped"})


def _check_not_in_use(build: Build) -> None:
    job_ids = [str(job.id) for job in jobs_using(build).limit(5)]
    if job_ids:
        detail = f"The build is in use: these jobs wait for it or run on it: {', '.join(job_ids)}. Stop them first."
        raise Conflict(detail, 30)


def jobs_using(build: Build) -> ModelSelect[Job]:
    """Return the jobs that wait for the build or run on it."""
    return Job.select(Job.id).where(Job.build == build, Job.finished_at.is_null()).order_by(Job.id)


def _reload(build: Build) -> Build:
    row = Build.get_or_none(Build.id == build.id)
    if row is None:
        raise _not_found(build.id)
    return row


# Statuses and notes.


def post_status(
    build: Build,
    status: Status,
    message: str | None,
    traceback: str | None,
    details: dict[str, Any] | None,
    user: User | None,
    settings: Settings,
) -> BuildStatus:
    """Record a status that a client reports, and return the build's latest status.

    If polyjob does not run the build (`is_managed` is false), the report becomes its status, provided that it may
    follow the current one. If polyjob runs the build, the report is ignored; but `stopped` from a user (not None)
    requests a stop.
    """
    if not build.is_managed:
        with write("report"):
            build = _reload(build)
            transition(build, status, message=message, traceback=traceback, details=details)
            audit.record("status", build, status=str(status))
    elif status is Status.STOPPED and user is not None:
        request_stop(build, settings)
    return latest_status(build)


def set_note(build: Build, kind: str, text: str | None) -> None:
    """Set the build's note of this kind; None removes it. Idempotent."""
    with write("note"):
        update_note(_reload(build), kind, text)


def latest_status(build: Build) -> BuildStatus:
    newest_first = (BuildStatus.created_at.desc(), BuildStatus.id.desc())
    return BuildStatus.select().where(BuildStatus.build == build).order_by(*newest_first).get()


def list_statuses(build: Build) -> ModelSelect[BuildStatus]:
    """Return the build's statuses, oldest first."""
    return BuildStatus.select().where(BuildStatus.build == build).order_by(BuildStatus.created_at, BuildStatus.id)


def count_jobs(build: Build) -> int:
    """Count the jobs that use or used the build."""
    return Job.select().where(Job.build == build, Job.deleted_at.is_null()).count()


def is_needed(build: Build) -> bool:
    """Return whether a job waits for the build, or a user requested it."""
    waiting = Job.select().where(Job.build == build, Job.is_managed, Job.finished_at.is_null(), Job.stop_at.is_null())
    return bool(build.is_asked or waiting.exists())
