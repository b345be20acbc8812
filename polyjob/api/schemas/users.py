"""Users, keys and facts about the server on the wire."""

from __future__ import annotations

from typing import Any

from marshmallow import Schema, fields, validate

from polyjob.api.schemas.common import Body, Instant


class Password(fields.String):
    """Bounded, because hashing takes time by its length."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(validate=validate.Length(max=1000), **kwargs)


class UserSchema(Schema):
    username = fields.String()
    email = fields.String(allow_none=True)
    is_superuser = fields.Boolean(attribute="is_admin")


class UserRowSchema(UserSchema):
    """A user, as administrators see them."""

    id = fields.Integer()
    is_active = fields.Boolean()
    has_password = fields.Function(lambda user: user.password_hash is not None, metadata={"type": "boolean"})
    created_at = Instant()


class OwnUserBody(Body):
    email = fields.Email()


class UserCreateBody(OwnUserBody):
    username = fields.String(validate=validate.Length(1, 156))
    password = Password()
    is_admin = fields.Boolean()


class PasswordBody(Body):
    password = Password()
    old_password = Password()
    username = fields.String(metadata={"description": "Whose, if not one's own; for administrators."})


class LoginBody(Body):
    username = fields.String(validate=validate.Length(max=156))
    password = Password()
    login = fields.Boolean(metadata={"description": "Whether the answer also sets a session cookie."})


class TokenSchema(Schema):
    token = fields.String()
    csrf_token = fields.String(metadata={"description": "With `login`: sent as `X-CSRF-Token` with each change."})


class VersionsSchema(Schema):
    latest_version = fields.String()
    min_version = fields.String()


class ChartSchema(Schema):
    version = fields.String()


class LogHandlerSchema(Schema):
    """Where old clients would report their own errors: nowhere."""

    dns = fields.String(allow_none=True)
    dsn = fields.String(allow_none=True)
    environment = fields.String()
    tags = fields.Dict()


class PartSchema(Schema):
    ok = fields.Boolean()
    why = fields.String(allow_none=True)


class ReadinessSchema(Schema):
    ok = fields.Boolean()
    database = fields.Nested(PartSchema)
    disk = fields.Nested(PartSchema)
    engine = fields.Nested(PartSchema)
    runner = fields.Nested(PartSchema)


class CodeReferenceSchema(Schema):
    """The code that a job runs with; all null where it runs without."""

    id = fields.Integer(allow_none=True)
    commit = fields.String(allow_none=True)
    head = fields.String(allow_none=True)
    branch = fields.String(allow_none=True)
    git_url = fields.String(allow_none=True)
    is_dirty = fields.Boolean(allow_none=True)
    repo = fields.String(allow_none=True)
    external_repo = fields.String(allow_none=True)


class CodeReferenceBody(Body):
    commit = fields.String()
    head = fields.String()
    branch = fields.String()
    git_url = fields.String()
    is_dirty = fields.Boolean()
