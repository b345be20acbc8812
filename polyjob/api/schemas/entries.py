"""Fields of request bodies for objects whose keys clients choose: `params` and `data_refs` of a job."""

from __future__ import annotations

from typing import Any

from marshmallow import ValidationError, fields


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
