"""The audit trail in responses."""

from __future__ import annotations

from marshmallow import Schema, fields

from polyjob.api.schemas.common import Instant

KINDS = ("job", "build", "project", "user", "token", "schedule", "webhook", "secret", "server")


class AuditSchema(Schema):
    """An entry of the audit trail."""

    id = fields.Integer()
    created_at = Instant()
    user = fields.String(attribute="username")
    token = fields.String(allow_none=True, metadata={"description": "Name of the token; null for a browser's session."})
    address = fields.String(allow_none=True)
    action = fields.String()
    kind = fields.String()
    target_id = fields.Integer(allow_none=True)
    target = fields.String(metadata={"description": "Name of the target at that time."})
    details = fields.Dict(allow_none=True)
