"""Tokens: responses, and the body that creates them."""

from __future__ import annotations

from marshmallow import Schema, fields, validate

from polyjob.api.schemas.common import Body, Instant
from polyjob.auth.scopes import Scope
from polyjob.auth.tokens import LOGIN_TOKEN_NAME
from polyjob.jobconfig.checks import MAX_NAME_LENGTH
from polyjob.jobconfig.fields import MAX_DURATION_SECONDS, ShortText, WholeNumber


class TokenRowSchema(Schema):
    """A token, without its secret."""

    id = fields.Integer()
    name = fields.String()
    user = fields.String(attribute="user.username")
    scope = fields.String()
    project = fields.String(
        attribute="project.unique_name",
        dump_default=None,
        allow_none=True,
        metadata={"description": "The project that it is bound to; null = all projects."},
    )
    created_at = Instant()
    expires_at = Instant(allow_none=True)
    last_used_at = Instant(allow_none=True, metadata={"description": "To the minute."})


class MadeTokenSchema(TokenRowSchema):
    """A new token."""

    token = fields.String(metadata={"description": "The secret. It is shown only in this response."})


class TokenBody(Body):
    name = fields.String(
        validate=[
            validate.Length(1, MAX_NAME_LENGTH),
            validate.NoneOf([LOGIN_TOKEN_NAME], error="This name is reserved for login tokens."),
        ]
    )
    scope = fields.String(validate=validate.OneOf([str(scope) for scope in Scope]))
    project = ShortText(metadata={"description": "`user.project`, or the name of one of your projects."})
    expires_in = WholeNumber(
        minimum=1, maximum=MAX_DURATION_SECONDS, metadata={"description": "In seconds; null = never."}
    )
