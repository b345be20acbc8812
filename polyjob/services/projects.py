"""Project operations: create, list, update, archive, delete; and uploads."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from typing import Any, BinaryIO

from peewee import ModelSelect

from polyjob.clock import now
from polyjob.db.database import write
from polyjob.db.models import Project, Upload, User
from polyjob.engine_link import wake_engine
from polyjob.errors import Invalid, NotFound, Problem
from polyjob.services import audit, builds, jobs, schedule_fires
from polyjob.services.filters import PROJECT_FIELDS, parse_query
from polyjob.services.merge import merge_lists
from polyjob.services.sorting import PROJECT_SORT_COLUMNS, parse_sort, shorten
from polyjob.settings import Settings
from polyjob.storage import uploads
from polyjob.storage.store import Store

RESERVED_NAMES = frozenset(
    {"archive", "bookmark", "bookmarks", "builds", "jobs", "names", "projects", "restore", "settings"}
)
"""Names that no project can have, because the API uses or reserves them as the second segment of a path."""


def create(user: User, attributes: Mapping[str, Any], settings: Settings) -> Project:
    """Create a project and return it. Raises Invalid if the name is missing, reserved or taken."""
    name = attributes.get("name")
    if name is None:
        raise Invalid([Problem("/name", "This field is required.")])
    is_public = attributes.get("is_public")
    moment = now()
    with write("project"):
        _check_name(user, name)
        project = Project.create(
            uuid=uuid.uuid4().hex,
            user=user,
            name=name,
            is_public=settings.public_projects if is_public is None else is_public,
            created_at=moment,
            updated_at=moment,
            **{column: attributes.get(column) for column in ("description", "readme", "tags")},
        )
        audit.record("create", project)
    return project


def list_projects(
    owner: User | None, *, archived: bool = False, query: str | None = None, sort: str | None = None
) -> ModelSelect[Project]:
    """Return the projects of the owner, or of all users, that match the query, sorted by `sort`.

    By default the last updated comes first. Raises Invalid for an invalid query or sort; see
    `polyjob.services.filters`.
    """
    listed = [Project.deleted_at.is_null(), Project.archived_at.is_null(not archived)]
    listed += [] if owner is None else [Project.user == owner]
    conditions = parse_query(query, PROJECT_FIELDS, "project")
    return Project.select().where(*listed, *conditions).order_by(*parse_sort(sort, PROJECT_SORT_COLUMNS))


def update(project: Project, changes: Mapping[str, Any]) -> Project:
    """Update name, description, readme, tags and is_public, and return the project.

    With `changes["merge"]`, the tags are merged with the existing ones. Raises Invalid, and then changes nothing. A new
    name applies immediately to the unique names of the project's jobs and builds.
    """
    columns = {name: changes[name] for name in ("description", "readme", "tags") if name in changes}
    for name in ("name", "is_public"):
        if changes.get(name) is not None:
            columns[name] = changes[name]
    with write("project"):
        project = _reload(project)
        if changes.get("merge") and "tags" in columns:
            columns["tags"] = merge_lists("tags", project.tags, columns["tags"])
        if columns.get("name", project.name) != project.name:
            _check_name(project.user, columns["name"])
        if columns:
            _update_columns(project, **columns)
            audit.record("update", project, changed=sorted(columns.keys() - {"updated_at"}))
    return project


def archive(project: Project, user: User, settings: Settings) -> None:
    """Hide the project with its jobs and builds, and request that its jobs stop. Idempotent."""
    with write("archive", use_reserve=True):
        project = _reload(project)
        jobs.stop_all(project, user)
        audit.record("archive", project)
        _update_columns(project, archived_at=project.archived_at or now())
    wake_engine(settings.data_dir)


def restore(project: Project) -> None:
    """Restore an archived project. Idempotent."""
    with write("restore"):
        project = _reload(project)
        _update_columns(project, archived_at=None)
        audit.record("restore", project)


def delete(project: Project, user: User | None, settings: Settings) -> None:
    """Hide the project immediately; the engine stops its jobs and then removes everything in it. Idempotent.

    The name can be used for another project immediately.
    """
    with write("delete", use_reserve=True):
        mark_deleted(project, user)
    wake_engine(settings.data_dir)


def mark_deleted(project: Project, user: User | None) -> None:
    """Do what `delete` does.

    Must be called inside `database.write`. The caller sends the engine a wake-up after the commit.
    """
    project = _reload(project)
    if project.deleted_at is None:
        audit.record("delete", project)
        schedule_fires.end_all(project)
        jobs.delete_all(project, user)
        builds.delete_all(project)
        _update_columns(project, deleted_at=now(), name=project.uuid)


def _update_columns(project: Project, **columns: Any) -> None:
    columns["updated_at"] = max(now(), project.updated_at)
    Project.update(**columns).where(Project.id == project.id).execute()
    for name, value in columns.items():
        setattr(project, name, value)


def _reload(project: Project) -> Project:
    row = Project.get_or_none(Project.id == project.id)
    if row is None:
        raise NotFound("The project was deleted.")
    return row


def _check_name(owner: User, name: str) -> None:
    if name.lower() in RESERVED_NAMES:
        raise Invalid([Problem("/name", f"The name `{name}` is reserved by polyjob; choose another name.")])
    if Project.select().where(Project.user == owner, Project.name == name).exists():
        raise Invalid([Problem("/name", f"A project with name `{name}` already exists.")])


def store_upload(project: Project, user: User, source: BinaryIO, settings: Settings) -> Upload:
    """Store a tarball as the latest upload of the project, and return it. New jobs run with it.

    When this returns, the tarball is synced to disk. An upload with the same files as the latest one changes nothing.
    Raises Invalid or TooLarge if the tarball is refused, and Unavailable if the disk is low or fills up. Then the
    project keeps the upload that it had.
    """
    store = Store(settings.data_dir)
    store.check_free_space(settings.disk_low)
    limits = uploads.Limits(settings.upload_limit, settings.unpacked_limit, settings.unpacked_files)
    upload = uploads.receive(source, store, limits)
    moment = now()
    with write("upload"):
        latest = Project.get_by_id(project.id).code
        if latest is not None and latest.digest == upload.digest:
            return latest
        row = Upload.create(
            project=project,
            user=user,
            digest=upload.digest,
            size=upload.size,
            files=dict(upload.files),
            created_at=moment,
        )
        Project.update(code=row, updated_at=moment).where(Project.id == project.id).execute()
        audit.record("upload", project, commit=upload.digest)
    return row


def remove_upload(project: Project) -> None:
    """Make new jobs of the project run without an upload. Existing jobs and uploads do not change. Idempotent."""
    with write("upload"):
        if _reload(project).code_id is not None:
            Project.update(code=None, updated_at=now()).where(Project.id == project.id).execute()
            audit.record("remove code", project)


def latest_upload(project: Project) -> Upload:
    """Return the upload with which new jobs run. Raises NotFound if there is none."""
    if project.code is None:
        raise NotFound("Nothing was uploaded to this project.")
    upload: Upload = project.code
    return upload


def first_upload(project: Project) -> Upload:
    """Return the oldest upload of the project. Raises NotFound if there is none."""
    return Upload.select().where(Upload.project == project).order_by(Upload.id).first() or latest_upload(project)


def find_upload(project: Project, commit: str | None) -> Upload:
    """Return the upload with the digest `commit`; if that is None, the latest one. Raises NotFound."""
    if commit is None:
        return latest_upload(project)
    upload = (
        Upload.select().where(Upload.project == project, Upload.digest == commit).order_by(Upload.id.desc()).first()
    )
    if upload is None:
        raise NotFound(f"This project has no upload with the commit `{shorten(commit)}`.")
    return upload
