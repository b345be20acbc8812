"""Bookmarks and archives on the wire."""

from __future__ import annotations

from marshmallow import Schema, fields


def bookmarked_of(item: type[Schema]) -> type[Schema]:
    """A bookmark of such an item: the item, wrapped as clients expect it."""
    name = f"Bookmarked{item.__name__.removesuffix('RowSchema')}"
    return Schema.from_dict({"content_object": fields.Nested(item)}, name=name)


def archived_of(item: type[Schema]) -> type[Schema]:
    """Such an item, archived."""
    name = f"Archived{item.__name__.removesuffix('RowSchema')}"
    deleted = fields.Constant(True, metadata={"type": "boolean", "description": "Says that it is archived."})
    members: dict[str, fields.Field] = {"deleted": deleted}
    return type(f"{name}Schema", (item,), dict(members))
