"""Fields and schemas that all resources share."""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from typing import Any

from marshmallow import EXCLUDE, INCLUDE, Schema, fields, validate

from polyjob.jobconfig.checks import MAX_NAME_LENGTH, MAX_TEXT_LENGTH, SLUG_PATTERN, check_values, deserialize


class Instant(fields.Field[datetime.datetime]):
    """A time in UTC as ISO 8601, with microseconds and the offset."""

    def _serialize(self, value: datetime.datetime | None, attr: str | None, obj: Any, **kwargs: Any) -> str | None:
        return None if value is None else value.isoformat(timespec="microseconds")


class Body(Schema):
    """A request body.

    Old clients send every attribute that they know: unknown and read-only ones are ignored, and all may be null.
    """

    class Meta:
        unknown = EXCLUDE

    error_messages = {"type": "The body must be a JSON object."}

    def on_bind_field(self, field_name: str, field_obj: Any) -> None:
        field_obj.allow_none = True


def load_body(schema: Schema, body: Mapping[str, Any]) -> dict[str, Any]:
    """Return the attributes of a body. Raises Invalid with all problems."""
    check_values(body)
    attributes: dict[str, Any] = deserialize(schema, body, "")
    return attributes


def name_field() -> fields.String:
    return fields.String(
        validate=[
            validate.Regexp(SLUG_PATTERN, error="Only letters, digits, `-` and `_`."),
            validate.Length(max=MAX_NAME_LENGTH),
        ]
    )


def text_field() -> fields.String:
    return fields.String(validate=validate.Length(max=MAX_TEXT_LENGTH))


class PointedProblem(Schema):
    pointer = fields.String(metadata={"description": "JSON pointer of the field; empty for the whole body."})
    parameter = fields.String(metadata={"description": "Name of the query parameter that is wrong."})
    detail = fields.String(required=True)


class ProblemSchema(Schema):
    """An error.

    Only clients whose `Accept` includes `application/problem+json` receive all members. Others receive `detail`, and
    the messages by name of the field.
    """

    class Meta:
        unknown = INCLUDE

    type = fields.String(metadata={"example": "about:blank"})
    title = fields.String(metadata={"example": "Bad Request"})
    status = fields.Raw(
        metadata={
            "oneOf": [{"type": "integer"}, {"type": "array", "items": {"type": "string"}}],
            "example": 400,
            "description": "HTTP status; in the short form, messages about a field `status`.",
        }
    )
    detail = fields.String(required=True)
    errors = fields.List(fields.Nested(PointedProblem), metadata={"description": "All problems of the request."})


_PAGES: dict[type[Schema], type[Schema]] = {}


def page_of(item: type[Schema]) -> type[Schema]:
    """Return the schema of a page of a list of items."""
    if item not in _PAGES:
        members: Mapping[str, Any] = {
            "count": fields.Integer(metadata={"description": "Number of items of the whole list."}),
            "next": fields.Url(allow_none=True, metadata={"description": "Address of the next page."}),
            "previous": fields.Url(allow_none=True, metadata={"description": "Address of the previous page."}),
            "results": fields.List(fields.Nested(item)),
        }
        _PAGES[item] = Schema.from_dict(dict(members), name=f"{item.__name__.removesuffix('Schema')}Page")
    return _PAGES[item]


class NoteSchema(Schema):
    kind = fields.String()
    text = fields.String()


class OutputsTreeSchema(Schema):
    """The content of a folder of outputs."""

    files = fields.List(fields.Raw(), metadata={"description": "Pairs of a name and a size in bytes."})
    dirs = fields.List(fields.String())
    next = fields.String(metadata={"description": "Address of the next part; not on the last part."})
