"""Secrets in responses, and the body that sets one."""

from __future__ import annotations

from marshmallow import Schema, fields

from polyjob.api.schemas.common import Body, Instant


class SecretSchema(Schema):
    """A secret, without its value, which no response contains."""

    name = fields.String()
    scope = fields.Function(
        lambda secret: "server" if secret.project_id is None else "project",
        metadata={
            "type": "string",
            "enum": ["project", "server"],
            "description": "Whether it is for jobs of one project, or of all. That of the project takes precedence.",
        },
    )
    user = fields.String(
        attribute="user.username",
        dump_default=None,
        allow_none=True,
        metadata={"description": "The user who set the value last."},
    )
    created_at = Instant()
    updated_at = Instant()


class SecretBody(Body):
    value = fields.String(
        metadata={"description": "Text with a line of at least 6 characters. Logs show `***` for it."}
    )
