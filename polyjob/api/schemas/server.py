"""Facts about the server in responses: versions and readiness."""

from __future__ import annotations

from marshmallow import Schema, fields


class VersionsSchema(Schema):
    latest_version = fields.String()
    min_version = fields.String()


class ChartSchema(Schema):
    version = fields.String()


class LogHandlerSchema(Schema):
    """The address to which old clients would report their own errors: there is none."""

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
