"""The audit trail on the wire."""

from __future__ import annotations

from marshmallow import Schema, fields

from polyjob.api.schemas.common import Instant

KINDS = ("job", "build", "project", "user", "token")


class AuditSchema(Schema):
    """One line: who did what to what."""

    id = fields.Integer()
    created_at = Instant()
    user = fields.String(attribute="username")
    token = fields.String(allow_none=True, metadata={"description": "Name of the key; null for a browser's session."})
    address = fields.String(allow_none=True)
    action = fields.String()
    kind = fields.String()
    target_id = fields.Integer(allow_none=True)
    target = fields.String(metadata={"description": "Its name, as it was then."})
    details = fields.Dict(allow_none=True)
