"""Users, their tokens, and what signs them in."""

from __future__ import annotations

from typing import Any

from peewee import AutoField, BooleanField, DeferredForeignKey, ForeignKeyField, IntegerField, TextField

from polyjob.db.database import InstantField
from polyjob.db.models.table import Table


class User(Table):
    id = AutoField()
    username = TextField(unique=True)
    email = TextField(null=True)
    password_hash = TextField(null=True)
    is_admin = BooleanField(default=False)
    is_active = BooleanField(default=True)
    created_at = InstantField()
    session_version = IntegerField(default=1)
    """Browser sessions are valid only with this version; raising it ends all sessions of the user."""
    deleted_at = InstantField(null=True)
    """Time of deletion. The row stays, because jobs and builds refer to it."""


class Token(Table):
    """An API token of a user. Only its SHA-256 is stored."""

    user_id: int
    id = AutoField()
    user = ForeignKeyField(User, backref="tokens")
    name = TextField()
    digest = TextField(unique=True)
    created_at = InstantField()
    expires_at = InstantField(null=True)
    scope = TextField(default="admin")
    """`read`, `submit` or `admin`: limits what the token may do on behalf of its user."""
    project: Any = DeferredForeignKey("Project", null=True)
    """The only project for which the token is valid; None means every project that its user may use."""
    project_id: int | None
    last_used_at = InstantField(null=True)
    """Accurate to the minute."""
    token: str
    """The token itself. It is not stored; only the code that just created it has it."""


class SignInLink(Table):
    """A link that signs its user in once. Its use deletes the row."""

    digest = TextField(primary_key=True)
    user = ForeignKeyField(User)
    expires_at = InstantField()


class EndedSession(Table):
    """A browser session that was signed out. Its row makes copies of its cookie invalid."""

    digest = TextField(primary_key=True)
    """SHA-256 of the session's id."""
    expires_at = InstantField()
    """Expiry of the cookie itself. The row is not needed after that."""
