"""What can be done with builds: find one for a job, reuse it, join it, make it anew, stop it,
archive it, delete it."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from typing import Any, cast

from peewee import ModelSelect

from polyjob.clock import now
from polyjob.db.database import write
from polyjob.db.models import Build, BuildStatus, Job, Project, User
from polyjob.engine_link import wake_engine
from polyjob.errors import Conflict, Invalid, NotFound, Problem
from polyjob.services import audit, specs
from polyjob.services.filters import BUILD_FIELDS, BUILD_SORT_COLUMNS, has_condition_on, parse_query, parse_sort
from polyjob.services.idempotency import IdempotentRequest, check_replay
from polyjob.services.merge import merge_lists
from polyjob.services.notes import note_text, with_note
from polyjob.services.transitions import insert_first_status, transition, update_columns, update_note
from polyjob.settings import Settings
from polyjob.statuses import Status
from polyjob.storage.store import Store

STOPPED_MESSAGE = "BuildJob was stopped"
UNUSABLE_STATUSES = (Status.FAILED, Status.STOPPED, Status.UPSTREAM_FAILED, Status.SKIPPED)


KEY_PART_LABELS = {
    "runner": "the runner",
    "image": "the image",
    "python": "the Python",
    "build_steps": "the steps",
    "env_vars": "the variables",
    "files": "the requirement files",
}
"""Parts of a build's key, in words."""


def find(project: Project, build_id: int) -> Build:
    """Raises NotFound, also for a build that is archived or being deleted."""
    build = Build.get_or_none(Build.id == build_id, *_shown(project))
    if build is None:
        raise _not_found(build_id)
    return build


def _shown(project: Project) -> tuple[Any, ...]:
    return Build.project == project, Build.deleted_at.is_null(), Build.archived_at.is_null()


def _not_found(build_id: int) -> NotFound:
    return NotFound(f"There is no build {build_id} in this project.")


def list_builds(
    project: Project, query: str | None = None, sort: str | None = None, *, with_archived: bool = False
) -> ModelSelect[Build]:
    """Return the project's builds, as `jobs.list_jobs` returns jobs."""
    wanted = parse_query(query, BUILD_FIELDS, "build")
    if not (with_archived and has_condition_on(query, "archived")):
        wanted.append(Build.archived_at.is_null())
    found = Build.select().where(Build.project == project, Build.deleted_at.is_null(), *wanted)
    return found.order_by(*parse_sort(sort, BUILD_SORT_COLUMNS))


def list_archived(owner: User) -> ModelSelect[Build]:
    """As `jobs.list_archived`."""
    projects = Project.select(Project.id).where(Project.user == owner, Project.deleted_at.is_null())
    return (
        Build.select()
        .where(Build.project.in_(projects), Build.deleted_at.is_null(), Build.archived_at.is_null(False))
        .order_by(Build.archived_at.desc(), Build.id.desc())
    )


# Making.


def find_or_create(job: Job, python: str = "") -> tuple[Build, str]:
    """The build that a job runs on, and why that one: the newest of its project with the same key that is done or
    under way, else a new one. `nocache` always makes a new one. `python` as in `specs.build_key`. A job
    that only named its build gets one like that. Must be called inside `database.write`."""
    files = job.code.files if job.code else {}
    config = job.config if job.config.get("build") or job.build is None else job.build.config
    key, parts = specs.build_key(config, job.runner, files, python)
    nocache = bool(config["build"].get("nocache"))
    found = None if nocache else _reusable(job.project_id, key)
    if found is not None:
        return found, "reused, as the same build is done" if found.status.is_done else "joined, as it is under way"
    columns = {"config": {"build": config["build"]}, "runner": job.runner, "key": key, "key_parts": parts}
    build = _insert_build(job.project, job.user, columns | {"code": job.code_id}, nocache=nocache)
    return build, (build.reason or {}).get("text", "")


def create(
    project: Project,
    user: User,
    attributes: Mapping[str, Any],
    settings: Settings,
    once: IdempotentRequest | None = None,
) -> Build:
    """Accept a build that no job has asked for; it is made at once. When this returns, it is on disk.

    `attributes`: `config` (with its section `build`), `content`, and the build's own columns. With `is_managed` False
    the build is only recorded, and needs no config: its client posts its statuses, and no job reuses it. Raises Invalid
    where the runner cannot honour the config, Unavailable where the disk is low, and what `once` raises.
    """
    Store(settings.data_dir).check_free_space(settings.disk_low)
    managed = attributes.get("is_managed") is not False
    if attributes.get("config") is None and managed:
        raise Invalid([Problem("/content", "Build expects a `content`.")])
    config = attributes.get("config") or {"build": {}}
    columns = {name: attributes.get(name) or config.get(name) for name in ("name", "description", "tags")}
    columns |= {"config": {"build": config["build"]}, "content": attributes.get("content"), "is_managed": managed}
    columns |= {"runner": settings.runner, "code": project.code_id, "is_asked": True, "key": "", "key_parts": {}}
    if managed:
        columns["notes"] = specs.check_runner_support(config, settings.runner) or None
        files = project.code.files if project.code else {}
        columns["key"], columns["key_parts"] = specs.build_key(config, settings.runner, files, settings.python)
    with write("accept-build"):
        keep = check_replay(once)
        build = _insert_build(project, user, columns, nocache=bool(config["build"].get("nocache")))
        audit.record("create", build)
        keep(build)
    wake_engine(settings.data_dir)
    return build


def _reusable(project_id: int, key: str) -> Build | None:
    """Return the newest build of the key that did not fail, unless it was withdrawn. An older one never takes its
    place: it may be what the newest was made to replace."""
    newest = (
        Build.select()
        .where(
            Build.project == project_id,
            Build.is_managed,
            Build.key == key,
            Build.status.not_in(UNUSABLE_STATUSES),
            Build.deleted_at.is_null(),
        )
        .order_by(Build.id.desc())
        .first()
    )
    if newest is None or any((newest.stop_at, newest.invalidated_at, newest.archived_at)):
        return None
    return cast(Build, newest)


def _insert_build(project: Project, user: User, columns: Mapping[str, Any], *, nocache: bool) -> Build:
    moment = now()
    build = Build.create(
        uuid=uuid.uuid4().hex,
        project=project,
        user=user,
        reason=_creation_reason(project, columns, nocache) if columns.get("is_managed", True) else None,
        created_at=moment,
        updated_at=moment,
        **columns,
    )
    insert_first_status(build)
    return build


def _creation_reason(project: Project, columns: Mapping[str, Any], nocache: bool) -> dict[str, Any]:
    """Why a build is made and none reused: {"kind", "text", "changed": [the parts of the key that differ]}."""
    if nocache:
        return _reason("nocache", "`nocache` asks for a new build each time")
    made = (Build.project == project) & Build.is_managed
    of_project = Build.select().where(made).order_by(Build.id.desc())
    same = of_project.where(Build.key == columns["key"]).first()
    reason = None if same is None else _not_reused_reason(same)
    if columns.get("is_asked") and (reason is None or reason["kind"] not in specs.WITHDRAWN_KINDS):
        return _reason("asked", "a build was asked for by itself")
    if reason is not None:
        return reason
    last = of_project.where(Build.deleted_at.is_null()).first()
    if last is None:
        return _reason("first", "it is the project's first build")
    changed = [part for part, value in columns["key_parts"].items() if last.key_parts.get(part) != value]
    words = " and ".join(KEY_PART_LABELS.get(part, part) for part in changed)
    return _reason("changed", f"{words} changed since build {last.id}", changed)


def _not_reused_reason(same: Build) -> dict[str, Any]:
    """Return why a build with the same key is not reused, as `_creation_reason` does."""
    if same.deleted_at is not None:
        return _reason("deleted", f"build {same.id} was deleted")
    if same.archived_at is not None:
        return _reason("archived", f"build {same.id} is archived")
    inherited = (same.reason or {}).get("kind")
    withdrawn = (
        inherited if inherited in specs.WITHDRAWN_KINDS else None
    )  # its layers may still be in a backend's cache
    outdated = note_text(same.notes, "outdated")
    if outdated is not None:
        changed = ["base"] if outdated.endswith("is another one now.") else []
        return _reason(withdrawn or "outdated", f"build {same.id} is {outdated[0].lower()}{outdated[1:-1]}", changed)
    if same.invalidated_at is not None:
        return _reason("invalidated", f"build {same.id} was invalidated")
    if same.stop_at is not None:
        return _reason(withdrawn or "unusable", f"build {same.id} is being stopped")
    kind = withdrawn if same.status in UNUSABLE_STATUSES else None
    return _reason(kind or "unusable", f"build {same.id} is {same.status}")


def _reason(kind: str, text: str, changed: Sequence[str] = ()) -> dict[str, Any]:
    return {"kind": kind, "text": text, "changed": list(changed)}


# Changing.


def update(build: Build, changes: Mapping[str, Any]) -> Build:
    """Change name, description and tags (united with the old ones where `changes["merge"]`)."""
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
    """Have the build stopped, on which the jobs that wait for it fail; one that is done stays as it is. Idempotent."""
    with write("stop-build", makes_room=True):
        _request_stop(_reload(build))
    wake_engine(settings.data_dir)


def archive(build: Build, settings: Settings) -> None:
    """Hide the build, which no new job uses then; one that is not done is stopped. Idempotent. Raises Conflict where a
    job needs it."""
    with write("archive", makes_room=True):
        build = _reload(build)
        if build.archived_at is None:
            _check_not_in_use(build)
            _request_stop(build)
            update_columns(build, archived_at=now())
            audit.record("archive", build)
    wake_engine(settings.data_dir)


def restore(project: Project, build_id: int) -> None:
    """Show an archived build again. Idempotent. Raises NotFound."""
    with write("restore"):
        build = Build.get_or_none(Build.id == build_id, Build.project == project, Build.deleted_at.is_null())
        if build is None:
            raise _not_found(build_id)
        if build.archived_at is not None:
            update_columns(build, archived_at=None)
            audit.record("restore", build)


def invalidate(build: Build) -> None:
    """Have no new job use the build; those that do go on. Idempotent."""
    with write("invalidate"):
        build = _reload(build)
        if build.invalidated_at is None:
            update_columns(build, invalidated_at=now())
            audit.record("invalidate", build)


def mark_stale(build: Build, why: str) -> None:
    """Have no new job use a build of which the runner says that it does not serve any more. Must be called inside
    `database.write`."""
    if build.invalidated_at is None:
        update_columns(
            build, invalidated_at=now(), notes=with_note(build.notes, "outdated", f"Not used any more: {why}.")
        )


def invalidate_all(project: Project) -> None:
    """As `invalidate`, for every build of the project."""
    with write("invalidate"):
        Build.update(invalidated_at=now(), version=Build.version + 1).where(
            *_shown(project), Build.invalidated_at.is_null()
        ).execute()
        audit.record("invalidate", project)


def delete(build: Build, settings: Settings) -> None:
    """Hide the build at once, and have it stopped and then removed with all that it made. Idempotent. Raises Conflict
    where a job needs it."""
    with write("delete", makes_room=True):
        mark_deleted(build)
    wake_engine(settings.data_dir)


def mark_deleted(build: Build) -> None:
    """Do what `delete` does. Must be called inside `database.write`; wake the engine after it. Raises Conflict."""
    build = _reload(build)
    if build.deleted_at is None:
        _check_not_in_use(build)
        _request_stop(build)
        update_columns(build, deleted_at=now())
        audit.record("delete", build)


def delete_all(project: Project) -> None:
    """Delete every build of a project whose jobs are being deleted. Must be called inside `database.write`."""
    moment = now()
    of_project = Build.update(deleted_at=moment, version=Build.version + 1)
    of_project.where(Build.project == project, Build.deleted_at.is_null()).execute()
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
    numbers = [str(job.id) for job in jobs_using(build).limit(5)]
    if numbers:
        raise Conflict(f"The build is needed: these jobs wait for it or run on it: {', '.join(numbers)}.", 30)


def jobs_using(build: Build) -> ModelSelect[Job]:
    """The jobs that wait for the build or run on it."""
    return Job.select(Job.id).where(Job.build == build, Job.finished_at.is_null()).order_by(Job.id)


def _reload(build: Build) -> Build:
    fresh = Build.get_or_none(Build.id == build.id)
    if fresh is None:
        raise _not_found(build.id)
    return fresh


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
    """Record what a client reports, and return the build's latest status.

    A build that polyjob does not run takes it as its status, if it may follow. Of one that it runs nothing is kept, but
    `stopped` from a person (not None) is a wish to stop.
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
    """As `jobs.set_note`."""
    with write("note"):
        update_note(_reload(build), kind, text)


# Looking.


def latest_status(build: Build) -> BuildStatus:
    newest_first = (BuildStatus.created_at.desc(), BuildStatus.id.desc())
    return BuildStatus.select().where(BuildStatus.build == build).order_by(*newest_first).get()


def list_statuses(build: Build) -> ModelSelect[BuildStatus]:
    """Oldest first."""
    return BuildStatus.select().where(BuildStatus.build == build).order_by(BuildStatus.created_at, BuildStatus.id)


def count_jobs(build: Build) -> int:
    """The jobs that use or used the build."""
    return Job.select().where(Job.build == build, Job.deleted_at.is_null()).count()


def is_needed(build: Build) -> bool:
    """Whether a job waits for it, or a person asked for it."""
    waiting = Job.select().where(Job.build == build, Job.is_managed, Job.finished_at.is_null(), Job.stop_at.is_null())
    return bool(build.is_asked or waiting.exists())
