"""A window on a log, on the wire."""

from __future__ import annotations

from marshmallow import Schema, fields


class LogLineSchema(Schema):
    """One line of a log."""

    number = fields.Integer(metadata={"description": "Counted from 1."})
    offset = fields.Integer(metadata={"description": "Its first byte in the log."})
    bytes = fields.Integer(metadata={"description": "Its length in the log, without the line feed."})
    is_cut = fields.Boolean(metadata={"description": "It is too long to be given whole; this is a part of it."})
    text = fields.String(metadata={"description": "What a terminal would show of it, without its style."})
    spans = fields.List(
        fields.List(fields.String()), metadata={"description": "With `styled` instead of `text`: `[classes, text]`, …"}
    )


class LogLinesSchema(Schema):
    """Some lines of a log."""

    total = fields.Integer(metadata={"description": "Lines of the log so far, one that is not ended yet among them."})
    bytes = fields.Integer(metadata={"description": "Bytes of the log so far; what `after` takes."})
    status = fields.String(metadata={"description": "Of the job or build."})
    is_done = fields.Boolean(metadata={"description": "It is done, and the log will not grow."})
    lines = fields.List(fields.Nested(LogLineSchema))


class LogSearchSchema(Schema):
    """The lines of a log that show a text."""

    lines = fields.List(fields.Integer(), metadata={"description": "Their numbers."})
    searched_to = fields.Integer(metadata={"description": "The last line that was looked at; what `after` takes."})
    is_cut = fields.Boolean(metadata={"description": "There are lines behind it that were not looked at."})
    total = fields.Integer(metadata={"description": "Lines of the log so far."})
