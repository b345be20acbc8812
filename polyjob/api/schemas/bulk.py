"""Bodies and responses of operations on several objects at once."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from marshmallow import Schema, fields, validate

from polyjob.api.schemas.common import Body, load_body
from polyjob.errors import Invalid, Problem

MAX_IDS = 1000


class NumbersBody(Body):
    ids = fields.List(
        fields.Integer(strict=True, validate=validate.Range(1, (1 << 63) - 1)),
        required=True,
        validate=validate.Length(max=MAX_IDS),
        metadata={"description": f"At most {MAX_IDS} ids."},
    )


class StoppedSchema(Schema):
    stopped = fields.List(fields.Integer())
    skipped = fields.List(
        fields.Integer(), metadata={"description": "Ids of jobs that were already done or do not exist."}
    )


class DeletedSchema(Schema):
    deleted = fields.List(fields.Integer())
    skipped = fields.List(fields.Integer(), metadata={"description": "Ids that do not exist."})


def read_ids(body: Mapping[str, Any]) -> list[int]:
    """Return the ids in their order, without duplicates. Raises Invalid."""
    ids = load_body(NumbersBody(), body)["ids"]
    if ids is None:
        raise Invalid([Problem("/ids", "This field is required.")])
    return list(dict.fromkeys(ids))
