"""Keys on the wire."""

from __future__ import annotations

from marshmallow import Schema, fields, validate

from polyjob.api.schemas.common import Body, Instant
from polyjob.auth.scopes import Scope
from polyjob.auth.tokens import LOGIN_TOKEN_NAME
from polyjob.jobconfig.checks import MAX_NAME_LENGTH
from polyjob.jobconfig.schema import MAX_DURATION_SECONDS, Line, WholeNumber


class TokenRowSchema(Schema):
    """A key, but for the key itself."""

    id = fields.Integer()
    name = fields.String()
    user = fields.String(attribute="user.username")
    scope = fields.String()
    project = fields.String(
        attribute="project.unique_name",
        dump_default=None,
        allow_none=True,
        metadata={"description": "The one project that it is good for; null = all."},
    )
    created_at = Instant()
    expires_at = Instant(allow_none=True)
    last_used_at = Instant(allow_none=True, metadata={"description": "To the minute."})


class MadeTokenSchema(TokenRowSchema):
    """A key just made."""

    token = fields.String(metadata={"description": "The key. It is shown this once."})


class TokenBody(Body):
    name = fields.String(
        validate=[
            validate.Length(1, MAX_NAME_LENGTH),
            validate.NoneOf([LOGIN_TOKEN_NAME], error="This name is for keys that are got for a password."),
        ]
    )
    scope = fields.String(validate=validate.OneOf([str(scope) for scope in Scope]))
    project = Line(metadata={"description": "`user.project`, or a project of one's own."})
    expires_in = WholeNumber(
        least=1, most=MAX_DURATION_SECONDS, metadata={"description": "Seconds; null = it never expires."}
    )
