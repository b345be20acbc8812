"""The row of a new job: a free name, and the insert with the first status."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from typing import Any

from polyjob.clock import now
from polyjob.db.models import Job, Project, User
from polyjob.db.prepared import insert
from polyjob.errors import Invalid, Problem
from polyjob.jobconfig.commands import shown_command
from polyjob.services.transitions import insert_first_status


def insert_job(project: Project, user: User, columns: Mapping[str, Any]) -> Job:
    """Insert a job with its first status. Must be called inside `database.write`."""
    moment = now()
    values = {"uuid": uuid.uuid4().hex, "command": shown_command(columns["config"])} | dict(columns)
    job = insert(Job, values | {"project": project, "user": user, "created_at": moment, "updated_at": moment})
    insert_first_status(job)
    return job


def check_name_is_free(project: Project, name: str | None, ignored: Job | None = None) -> None:
    """Raise Invalid if a job of the project other than `ignored` has the name."""
    if name is not None and _is_name_taken(project, name, ignored):
        raise Invalid([Problem("/name", f"This project already has a job named `{name}`; choose another name.")])


def free_name(project: Project, name: str | None) -> str | None:
    """Return `name`, or if it is taken, `name` with the first free number appended."""
    if name is None or not _is_name_taken(project, name):
        return name
    suffix = 1
    while _is_name_taken(project, f"{name}-{suffix}"):
        suffix += 1
    return f"{name}-{suffix}"


def _is_name_taken(project: Project, name: str, ignored: Job | None = None) -> bool:
    query = Job.select().where(Job.project == project, Job.name == name, Job.deleted_at.is_null())
    return bool((query.where(Job.id != ignored.id) if ignored else query).exists())
