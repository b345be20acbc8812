"""What the bodies and answers of every resource share."""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from typing import Any

from marshmallow import EXCLUDE, INCLUDE, Schema, fields, validate

from polyjob.jobconfig.checks import MAX_NAME_LENGTH, MAX_TEXT_LENGTH, SLUG_PATTERN


class Instant(fields.Field[datetime.datetime]):
    """A time in UTC, with six digits of a second and its offset."""

    def _serialize(self, value: datetime.datetime | None, attr: str | None, obj: Any, **kwargs: Any) -> str | None:
        return None if value is None else value.isoformat(timespec="microseconds")


class Body(Schema):
    """What clients send. Old ones send every attribute that they know of: what is read-only or unknown is ignored, and
    null is taken everywhere."""

    class Meta:
        unknown = EXCLUDE

    error_messages = {"type": "The body must be a JSON object."}

    def on_bind_field(self, field_name: str, field_obj: Any) -> None:
        field_obj.allow_none = True


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
    parameter = fields.String(metadata={"description": "Name of the query parameter, where that is to blame."})
    detail = fields.String(required=True)


class ProblemSchema(Schema):
    """An error. All members but `detail` are sent only to clients whose `Accept` names `application/problem+json`.
    Others receive the messages by name of the field, as old clients read them."""

    class Meta:
        unknown = INCLUDE

    type = fields.String(metadata={"example": "about:blank"})
    title = fields.String(metadata={"example": "Bad Request"})
    status = fields.Raw(
        metadata={
            "oneOf": [{"type": "integer"}, {"type": "array", "items": {"type": "string"}}],
            "example": 400,
            "description": "HTTP's; in the short form, the messages about a field `status`.",
        }
    )
    detail = fields.String(required=True)
    errors = fields.List(fields.Nested(PointedProblem), metadata={"description": "Every problem of what was sent."})


_PAGES: dict[type[Schema], type[Schema]] = {}


def page_of(item: type[Schema]) -> type[Schema]:
    """The schema of a page of a list of `item`."""
    if item not in _PAGES:
        members: Mapping[str, Any] = {
            "count": fields.Integer(metadata={"description": "Items of the whole list."}),
            "next": fields.Url(allow_none=True, metadata={"description": "Address of the next page."}),
            "previous": fields.Url(allow_none=True, metadata={"description": "Address of the page before."}),
            "results": fields.List(fields.Nested(item)),
        }
        _PAGES[item] = Schema.from_dict(dict(members), name=f"{item.__name__.removesuffix('Schema')}Page")
    return _PAGES[item]


class NoteSchema(Schema):
    kind = fields.String()
    text = fields.String()


class OutputsTreeSchema(Schema):
    """One folder of outputs."""

    files = fields.List(fields.Raw(), metadata={"description": "Pairs of a name and a size in bytes."})
    dirs = fields.List(fields.String())
    next = fields.String(metadata={"description": "Address of the next part; the last one has none."})
