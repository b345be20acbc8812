"""What can be done with projects: make, list, give new code."""

from __future__ import annotations

import shutil
import uuid
from collections.abc import Mapping
from typing import Any, BinaryIO

from peewee import ModelSelect

from polyjob import code
from polyjob.clock import now
from polyjob.database import write
from polyjob.errors import Invalid, Problem, Unavailable
from polyjob.models import Code, Project, User
from polyjob.settings import Settings
from polyjob.store import Store

RESERVED = frozenset({"archive", "bookmark", "bookmarks", "builds", "jobs", "names", "projects", "restore", "settings"})
"""Second segments of paths that are, or will be, no project's."""


def create(user: User, attributes: Mapping[str, Any], settings: Settings) -> Project:
    """Raises Invalid where the name is missing, reserved or taken."""
    name = attributes.get("name")
    if name is None:
        raise Invalid([Problem("/name", "This field is required.")])
    if name.lower() in RESERVED:
        raise Invalid([Problem("/name", "The name is a reserved word or already taken.")])
    is_public = attributes.get("is_public")
    moment = now()
    with write("project"):
        if Project.select().where(Project.user == user, Project.name == name).exists():
            raise Invalid([Problem("/name", f"A project with name `{name}` already exists.")])
        return Project.create(
            uuid=uuid.uuid4().hex,
            user=user,
            name=name,
            is_public=settings.public_projects if is_public is None else is_public,
            created_at=moment,
            updated_at=moment,
            **{column: attributes.get(column) for column in ("description", "readme", "tags")},
        )


def list_projects(owner: User) -> ModelSelect[Project]:
    """Last changed first."""
    return Project.select().where(Project.user == owner).order_by(Project.updated_at.desc(), Project.id.desc())


def upload_code(project: Project, user: User, source: BinaryIO, settings: Settings) -> Code:
    """Make the tar.gz that `source` gives the code of the project's new jobs; it is on disk, synced, on return.

    An upload with the same files as the latest one changes nothing. Raises Invalid for an archive that is refused,
    TooLarge, and Unavailable where the disk is low or fills up; then the project keeps the code it had.
    """
    free = shutil.disk_usage(settings.data_dir).free
    if free < settings.disk_low:
        raise Unavailable(f"The server's disk has {free >> 20} MiB left, and takes no uploads now.", 60)
    limits = code.Limits(settings.upload_limit, settings.unpacked_limit, settings.unpacked_files)
    upload = code.receive(source, Store(settings.data_dir), limits)
    moment = now()
    with write("upload"):
        latest = Project.get_by_id(project.id).code
        if latest is not None and latest.digest == upload.digest:
            return latest
        row = Code.create(
            project=project,
            user=user,
            digest=upload.digest,
            size=upload.size,
            files=dict(upload.files),
            created_at=moment,
        )
        Project.update(code=row, updated_at=moment).where(Project.id == project.id).execute()
    return row
