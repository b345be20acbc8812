"""The fields `params` and `data_refs` of a job: objects that jobs and users update key by key."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from marshmallow import ValidationError, fields

from polyjob.errors import Invalid, Problem

MAX_ENTRIES = 1000
"""Keys of one field of a job."""
MAX_ENTRIES_BYTES = 100_000
"""Bytes of one field of a job, as JSON."""


class Entries(fields.Dict):
    """An object whose keys may be any text."""

    default_error_messages = {"invalid": "Not an object."}

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(keys=fields.String(), **kwargs)


class DataRefs(Entries):
    """Names of data sets, each with a version such as a hash. A list of names is read as names without a version."""

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> Any:
        if isinstance(value, list):
            if not all(isinstance(name, str) for name in value):
                raise ValidationError("Not a list of names: every item must be text.")
            value = dict.fromkeys(value)
        loaded = super()._deserialize(value, attr, data, **kwargs)
        invalid = [name for name, version in loaded.items() if not _is_version(version)]
        if invalid:
            raise ValidationError({name: ["Neither text nor a number."] for name in invalid})
        return loaded


def _is_version(value: Any) -> bool:
    return value is None or (isinstance(value, (str, int, float)) and not isinstance(value, bool))


def check_size(name: str, entries: Mapping[str, Any] | None) -> None:
    """Raise Invalid if the entries exceed the limits of the field `name`."""
    size = len(json.dumps(entries, ensure_ascii=False).encode()) if entries else 0
    if entries and len(entries) > MAX_ENTRIES:
        raise Invalid([Problem(f"/{name}", f"Would have {len(entries)} entries; at most {MAX_ENTRIES} are allowed.")])
    if size > MAX_ENTRIES_BYTES:
        raise Invalid([Problem(f"/{name}", f"Would have {size} bytes; at most {MAX_ENTRIES_BYTES} are allowed.")])
