"""Choose the build of a job: reuse one, join one that is under way, or create one and record why."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from typing import Any, cast

from polyjob.clock import now
from polyjob.db.models import Build, Job, JobStatus, Project, User
from polyjob.services import specs
from polyjob.services.notes import note_text
from polyjob.services.transitions import insert_first_status
from polyjob.statuses import Status
from runners.base import BASE_CHANGED

BUILD_WAS_NAMED = "asked for"
"""The reason, stored in a status, why a job uses a build: its request named the build."""
UNUSABLE_STATUSES = (Status.FAILED, Status.STOPPED, Status.UPSTREAM_FAILED, Status.SKIPPED)

_BASE_CHANGED_ENDINGS = (BASE_CHANGED.partition("{}")[2] + ".", "is another one now.")
"""Ends of the note of a stale build whose base image has changed. Version 0.1.0 wrote the second one."""
_KEY_PART_LABELS = {
    "runner": "the runner",
    "image": "the image",
    "python": "the Python version",
    "build_steps": "the build steps",
    "env_vars": "the environment variables",
    "files": "the requirement files",
}


def find_or_create(job: Job, python: str = "") -> tuple[Build, str]:
    """Return the build for a job, and the reason for the choice.

    This is the project's newest build with the same key that is done or under way, else a new one. `nocache` always
    creates a new one. A job that only named its build gets one with the config of that build. `python` is as in
    `specs.build_key`. Must be called inside `database.write`.
    """
    files = job.code.files if job.code else {}
    config = job.config if job.config.get("build") or job.build is None else job.build.config
    key, parts = specs.build_key(config, job.runner, files, python)
    nocache = bool(config["build"].get("nocache"))
    existing = None if nocache else _reusable(job.project_id, key)
    if existing is not None:
        return (
            existing,
            "reused, as the same build is done" if existing.status.is_done else "joined, because it is under way",
        )
    columns = {"config": {"build": config["build"]}, "runner": job.runner, "key": key, "key_parts": parts}
    build = insert_build(job.project, job.user, columns | {"code": job.code_id}, nocache=nocache)
    return build, (build.reason or {}).get("text", "")


def has_named_build(job: Job) -> bool:
    """Return whether the request that created the job named its build."""
    row = JobStatus.select().where(JobStatus.job == job, JobStatus.status == Status.BUILDING).first()
    return row is not None and (row.details or {}).get("why") == BUILD_WAS_NAMED


def _reusable(project_id: int, key: str) -> Build | None:
    """Return the newest build of the key that did not fail, unless it was withdrawn.

    An older build is never returned, because the newest may replace one that must not be used any more.
    """
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


def insert_build(project: Project, user: User, columns: Mapping[str, Any], *, nocache: bool) -> Build:
    """Insert a build with its first status. Must be called inside `database.write`."""
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
    """Return the reason why no build is reused: {"kind", "text", "changed": [parts of the key that differ]}."""
    if nocache:
        return _reason("nocache", "`nocache` asks for a new build each time")
    newest_first = Build.select().where(Build.project == project, Build.is_managed).order_by(Build.id.desc())
    same = newest_first.where(Build.key == columns["key"]).first()
    reason = None if same is None else _not_reused_reason(same)
    if columns.get("is_asked") and (reason is None or reason["kind"] not in specs.WITHDRAWN_KINDS):
        return _reason("asked", "the build was requested by itself")
    if reason is not None:
        return reason
    last = newest_first.where(Build.deleted_at.is_null()).first()
    if last is None:
        return _reason("first", "it is the project's first build")
    changed = [part for part, value in columns["key_parts"].items() if last.key_parts.get(part) != value]
    labels = [_KEY_PART_LABELS.get(part, part) for part in changed]
    text = " and ".join(filter(None, [", ".join(labels[:-1]), *labels[-1:]]))
    return _reason("changed", f"{text} changed since build {last.id}", changed)


def _not_reused_reason(same: Build) -> dict[str, Any]:
    """Return why a build with the same key is not reused, in the form of `_creation_reason`."""
    if same.deleted_at is not None:
        return _reason("deleted", f"build {same.id} was deleted")
    if same.archived_at is not None:
        return _reason("archived", f"build {same.id} is archived")
    inherited = (same.reason or {}).get("kind")
    # A replacement of a withdrawn build counts as withdrawn too: its layers may still be in a backend's cache.
    withdrawn = inherited if inherited in specs.WITHDRAWN_KINDS else None
    outdated = note_text(same.notes, "outdated")
    if outdated is not None:
        changed = ["base"] if outdated.endswith(_BASE_CHANGED_ENDINGS) else []
        return _reason(withdrawn or "outdated", f"build {same.id} is {outdated[0].lower()}{outdated[1:-1]}", changed)
    if same.invalidated_at is not None:
        return _reason("invalidated", f"build {same.id} was invalidated")
    if same.stop_at is not None:
        return _reason(withdrawn or "unusable", f"build {same.id} is being stopped")
    kind = withdrawn if same.status in UNUSABLE_STATUSES else None
    end = "was stopped" if same.status == Status.STOPPED else "failed"
    return _reason(kind or "unusable", f"build {same.id} {end}")


def _reason(kind: str, text: str, changed: Sequence[str] = ()) -> dict[str, Any]:
    return {"kind": kind, "text": text, "changed": list(changed)}
