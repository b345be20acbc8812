"""Facts and settings of the installation, the audit trail, and responses to idempotent requests."""

from __future__ import annotations

from peewee import AutoField, CompositeKey, ForeignKeyField, IntegerField, TextField

from polyjob.db.database import InstantField, JSONField
from polyjob.db.models.accounts import User
from polyjob.db.models.projects import Project
from polyjob.db.models.table import Table


class Meta(Table):
    """Facts about this installation: `installation` (its id), `secret` (the key for signatures), `made_at`."""

    key = TextField(primary_key=True)
    value = TextField()


class StoredSetting(Table):
    """A setting that an administrator has changed while the server ran."""

    name = TextField(primary_key=True)
    value = JSONField()


class Audit(Table):
    """An entry of the audit trail. It stores names, so that it outlives what it refers to."""

    user_id: int | None
    project_id: int | None
    id = AutoField()
    created_at = InstantField()
    user = ForeignKeyField(User, null=True)
    username = TextField()
    token = TextField(null=True)
    """The name of the token; None for a browser session."""
    address = TextField(null=True)
    action = TextField()
    """A verb: `create`, `stop`, `delete` …"""
    kind = TextField()
    """The kind of the target: `job`, `build`, `project`, `schedule`, `user`, `token` or `server`."""
    target_id = IntegerField(null=True)
    target = TextField()
    project = ForeignKeyField(Project, null=True)
    details = JSONField(null=True)


class Idempotency(Table):
    """The first response to a request with an Idempotency-Key."""

    user = ForeignKeyField(User)
    key = TextField()
    """The id of the project, a space, and the key that the client sent."""
    digest = TextField()
    """SHA-256 of method, path and body."""
    answer = TextField()
    """The body of the response."""
    created_at = InstantField()

    class Meta:
        primary_key = CompositeKey("user", "key")
