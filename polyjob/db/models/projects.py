"""Projects with their uploads, members, invites and secrets."""

from __future__ import annotations

from typing import Any

from peewee import AutoField, BooleanField, CompositeKey, DeferredForeignKey, ForeignKeyField, IntegerField, TextField

from polyjob.db.database import InstantField, JSONField
from polyjob.db.models.accounts import User
from polyjob.db.models.table import Table


class Project(Table):
    user_id: int
    id = AutoField()
    uuid = TextField(unique=True)
    user = ForeignKeyField(User, backref="projects")
    name = TextField()
    description = TextField(null=True)
    readme = TextField(null=True)
    tags = JSONField(null=True)
    is_public = BooleanField()
    code: Any = DeferredForeignKey("Upload", null=True)
    """The latest upload, with which new jobs run."""
    code_id: int | None
    job_count = IntegerField(default=0)
    """Maintained by triggers, like the next three columns; never written by Python."""
    build_count = IntegerField(default=0)
    jobs_version = IntegerField(default=1)
    """Raised by every change of a job of the project: the ETag of their list."""
    builds_version = IntegerField(default=1)
    created_at = InstantField()
    updated_at = InstantField()
    archived_at = InstantField(null=True)
    deleted_at = InstantField(null=True)
    """Time of deletion. The project is hidden, and the engine removes the row after everything in it."""

    @property
    def unique_name(self) -> str:
        return f"{self.user.username}.{self.name}"


class Upload(Table):
    """One upload of a project's files, in the table `code`. The tarball is `<data>/code/<digest>.tar.gz`."""

    class Meta:
        table_name = "code"

    id = AutoField()
    project = ForeignKeyField(Project, backref="uploads")
    user = ForeignKeyField(User)
    digest = TextField()
    """SHA-256 of the unpacked tree in hex. It is the same for the same files, however they were packed."""
    size = IntegerField()
    files = JSONField()
    """The requirement files in the upload: SHA-256 of the content by path."""
    created_at = InstantField()


class Member(Table):
    """A user with a role in a project of somebody else."""

    user_id: int
    project_id: int
    user = ForeignKeyField(User)
    project = ForeignKeyField(Project)
    role = TextField()
    """`read`, `submit` or `manage`; see `polyjob.auth.roles`."""
    created_at = InstantField()

    class Meta:
        primary_key = CompositeKey("user", "project")


class InviteLink(Table):
    """A link with which a person creates an account. Its use deletes the row."""

    digest = TextField(primary_key=True)
    creator = ForeignKeyField(User)
    project = ForeignKeyField(Project, null=True)
    role = TextField(null=True)
    """The role of the new user in the project."""
    expires_at = InstantField()
    token: str
    """The token itself. It is not stored; only the code that just created it has it."""
    url: str
    """The address of the link, which has the token."""

    @property
    def id(self) -> str:
        """The name of the link for people, from which its token cannot be guessed."""
        return str(self.digest)[:16]


class Secret(Table):
    """A secret that jobs receive as a variable: of one project, or without a project of all jobs of the server."""

    user_id: int | None
    project_id: int | None
    id = AutoField()
    project = ForeignKeyField(Project, null=True, on_delete="CASCADE")
    name = TextField()
    value = TextField()
    """Encrypted; see `storage.secret_box`."""
    user = ForeignKeyField(User, null=True, on_delete="SET NULL")
    """The user who set the value last."""
    created_at = InstantField()
    updated_at = InstantField()

    @property
    def unique_name(self) -> str:
        prefix = f"{self.project.unique_name}." if self.project is not None else ""
        return f"{prefix}secrets.{self.name}"
