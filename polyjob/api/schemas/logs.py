"""Lines of a log, and searches, in responses."""

from __future__ import annotations

from marshmallow import Schema, fields

from polyjob.api.schemas.common import Instant


class LogLineSchema(Schema):
    """One line of a log."""

    number = fields.Integer(metadata={"description": "Counted from 1."})
    offset = fields.Integer(metadata={"description": "Position of its first byte in the log."})
    bytes = fields.Integer(metadata={"description": "Its length in bytes, without the line feed."})
    is_cut = fields.Boolean(metadata={"description": "True if the line is too long and only a part of it is returned."})
    text = fields.String(metadata={"description": "The text as a terminal would show it, without styles."})
    spans = fields.List(
        fields.List(fields.String()), metadata={"description": "With `styled` instead of `text`: `[classes, text]`, …"}
    )
    time = Instant(
        allow_none=True, metadata={"description": "With `times`: when it was written; null if that is not known."}
    )


class LogLinesSchema(Schema):
    """Some lines of a log."""

    total = fields.Integer(metadata={"description": "Number of lines of the log so far, including an unfinished one."})
    bytes = fields.Integer(metadata={"description": "Length of the log so far; a value for `after`."})
    status = fields.String(metadata={"description": "Status of the job or build."})
    is_done = fields.Boolean(metadata={"description": "True if it is done, so that the log will not grow."})
    lines = fields.List(fields.Nested(LogLineSchema))


class LogSearchSchema(Schema):
    """The lines of a log that contain a text."""

    lines = fields.List(fields.Integer(), metadata={"description": "Line numbers, counted from 1."})
    searched_to = fields.Integer(metadata={"description": "The last line that was searched; a value for `after`."})
    is_cut = fields.Boolean(metadata={"description": "True if lines after it were not searched."})
    total = fields.Integer(metadata={"description": "Number of lines of the log so far."})
