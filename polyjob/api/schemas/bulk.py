"""What is done to several things at once."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from marshmallow import Schema, fields, validate

from polyjob.api.schemas.common import Body
from polyjob.errors import Invalid, Problem
from polyjob.jobconfig.checks import check_values, deserialize

MOST = 1000


class NumbersBody(Body):
    ids = fields.List(
        fields.Integer(strict=True, validate=validate.Range(1, (1 << 63) - 1)),
        required=True,
        validate=validate.Length(max=MOST),
        metadata={"description": f"At most {MOST} ids."},
    )


class StoppedSchema(Schema):
    stopped = fields.List(fields.Integer())
    skipped = fields.List(fields.Integer(), metadata={"description": "Those that were done, or not there."})


class DeletedSchema(Schema):
    deleted = fields.List(fields.Integer())
    skipped = fields.List(fields.Integer(), metadata={"description": "Those that were not there."})


def read_numbers(body: Mapping[str, Any]) -> list[int]:
    """The ids, each once, in their order. Raises Invalid."""
    check_values(body)
    ids = deserialize(NumbersBody(), body, "")["ids"]
    if ids is None:
        raise Invalid([Problem("/ids", "This field is required.")])
    return list(dict.fromkeys(ids))
