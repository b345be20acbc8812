"""Bookmarked and archived objects in responses."""

from __future__ import annotations

from marshmallow import Schema, fields


def bookmarked_of(item: type[Schema]) -> type[Schema]:
    """Return the schema of a bookmarked item, wrapped as clients expect it."""
    name = f"Bookmarked{item.__name__.removesuffix('RowSchema')}"
    return Schema.from_dict({"content_object": fields.Nested(item)}, name=name)


def archived_of(item: type[Schema]) -> type[Schema]:
    """Return the schema of an archived item."""
    name = f"Archived{item.__name__.removesuffix('RowSchema')}"
    deleted = fields.Constant(True, metadata={"type": "boolean", "description": "Always true: the item is archived."})
    members: dict[str, fields.Field] = {"deleted": deleted}
    return type(f"{name}Schema", (item,), dict(members))
