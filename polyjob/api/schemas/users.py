"""Users: responses, and the bodies that create and change them."""

from __future__ import annotations

from typing import Any

from marshmallow import Schema, fields, validate

from polyjob.api.schemas.common import Body, Instant


class Password(fields.String):
    """A password, of limited length because hashing takes longer for longer ones."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(validate=validate.Length(max=1000), **kwargs)


class UserSchema(Schema):
    username = fields.String()
    email = fields.String(allow_none=True)
    is_superuser = fields.Boolean(attribute="is_admin")


class UserRowSchema(UserSchema):
    """A user, as administrators see it."""

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
    username = fields.String(metadata={"description": "Another user, for administrators only."})


class LoginBody(Body):
    username = fields.String(validate=validate.Length(max=156))
    password = Password()
    login = fields.Boolean(metadata={"description": "Also set a session cookie."})


class TokenSchema(Schema):
    token = fields.String()
    csrf_token = fields.String(metadata={"description": "With `login`: send it as `X-CSRF-Token` with each change."})
