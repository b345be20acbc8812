"""The marshmallow fields of a config. Each one limits the size of its value and loads it into its stored form."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import cached_property
from typing import Any

from marshmallow import RAISE, Schema, ValidationError, fields, post_load, pre_load, validate
from marshmallow.decorators import POST_LOAD, PRE_LOAD

from polyjob.jobconfig.checks import MAX_TAG_LENGTH, MAX_TEXT_LENGTH, shorten_key
from polyjob.jobconfig.commands import shell_text
from polyjob.jobconfig.resources import canonical_resources

MAX_COMMAND_BYTES = 120_000
"""Bytes of a command or build step. Linux passes at most 128 KiB to a program in one argument."""
MAX_VARIABLE_BYTES = 100_000
"""Bytes of the value of one variable."""
MAX_FOLDER_PATH_BYTES = 4095
"""Bytes of the path of a folder, as many as Linux takes."""
MAX_LIST_ITEMS = 1000
MAX_LINE_LENGTH = 1000
MAX_DURATION_SECONDS = 10 * 366 * 86_400
MAX_WHOLE_NUMBER = 1 << 40
MAX_RETRY_FACTOR = 100
"""Growth of the pause between retries."""

_CONTROL_CHARACTER = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_VARIABLE_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,254}\Z")
"""Shells support no other names: most drop such a variable, and some end."""


def max_bytes(limit: int) -> Callable[[str], None]:
    """Return a validator for the length of a text in UTF-8."""

    def check(text: str) -> None:
        size = len(text.encode())
        if size > limit:
            raise ValidationError(f"Longer than {limit} bytes: it has {size}.")

    return check


def not_blank(text: str) -> None:
    if not text.strip():
        raise ValidationError("Must not be blank.")


class ShortText(fields.String):
    """A text of limited length that is not blank."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(validate=[not_blank, validate.Length(max=MAX_LINE_LENGTH)], **kwargs)


class FolderPath(fields.String):
    """The absolute path of a folder. Whether the folder exists is not checked."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(validate=[_absolute, max_bytes(MAX_FOLDER_PATH_BYTES), _without_control_characters], **kwargs)


def _absolute(path: str) -> None:
    if not path.startswith("/"):
        raise ValidationError("Not an absolute path: it must begin with `/`.")


def _without_control_characters(text: str) -> None:
    if _CONTROL_CHARACTER.search(text):
        raise ValidationError("Must not contain control characters.")


class WholeNumber(fields.Integer):
    """An integer that fits into the database. Neither booleans nor texts are accepted."""

    def __init__(self, minimum: int = 0, maximum: int = MAX_WHOLE_NUMBER, **kwargs: Any) -> None:
        super().__init__(strict=True, validate=validate.Range(min=minimum, max=maximum), **kwargs)

    def _validated(self, value: Any) -> Any:
        if isinstance(value, (bool, str)):
            raise self.make_error("invalid", input=value)
        return super()._validated(value)


class Seconds(fields.Float):
    """A duration in seconds. Neither booleans nor texts are accepted."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(validate=validate.Range(min=0, max=MAX_DURATION_SECONDS), **kwargs)

    def _validated(self, value: Any) -> Any:
        if isinstance(value, (bool, str)):
            raise self.make_error("invalid", input=value)
        number = super()._validated(value)
        return int(number) if number is not None and number == int(number) else number


class RetryFactor(fields.Float):
    """The number by which each pause between retries is longer than the one before."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(validate=validate.Range(min=1, max=MAX_RETRY_FACTOR), **kwargs)

    def _validated(self, value: Any) -> Any:
        if isinstance(value, (bool, str)):
            raise self.make_error("invalid", input=value)
        return super()._validated(value)


class BoundedList(fields.List):
    """A list of limited length."""

    def __init__(self, item: Any, **kwargs: Any) -> None:
        super().__init__(item, validate=validate.Length(max=MAX_LIST_ITEMS), **kwargs)


class UniqueNames(BoundedList):
    """A list of names, in which each may occur once."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(ShortText(), **kwargs)

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> list[Any]:
        names = super()._deserialize(value, attr, data, **kwargs)
        seen = set()
        errors = {}
        for index, name in enumerate(names):
            if name in seen:
                errors[index] = [f"`{shorten_key(name)}` is named twice."]
            seen.add(name)
        if errors:
            raise ValidationError(errors)
        return names


class Variables(fields.Field[Any]):
    """Variables as [name, value] pairs. An object is accepted as well."""

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> list[list[str]]:
        pairs = [list(pair) for pair in value.items()] if isinstance(value, Mapping) else value
        if not isinstance(pairs, list):
            raise ValidationError("Not a list of [name, value] pairs.")
        if len(pairs) > MAX_LIST_ITEMS:
            raise ValidationError(f"Has {len(pairs)} variables; at most {MAX_LIST_ITEMS} are allowed.")
        keys = list(value) if isinstance(value, Mapping) else range(len(pairs))
        errors: dict[Any, list[str]] = {}
        loaded = []
        for key, pair in zip(keys, pairs, strict=True):
            try:
                loaded.append(_load_variable(pair))
            except ValueError as error:
                errors[key] = [str(error)]
        if errors:
            raise ValidationError(errors)
        return loaded


def _load_variable(pair: Any) -> list[str]:
    """Return [name, value] as texts. Raises ValueError with a sentence."""
    if not isinstance(pair, list) or len(pair) != 2:
        raise ValueError("Not a [name, value] pair.")
    name, value = pair
    if not isinstance(name, str) or not _VARIABLE_NAME.match(name):
        raise ValueError(
            f"`{shorten_key(name)}` is not a valid variable name: use up to 255 letters, digits and `_`,"
            " and do not begin with a digit."
        )
    if isinstance(value, bool):
        value = str(value).lower()
    elif isinstance(value, (int, float)):
        value = str(value)
    if not isinstance(value, str):
        raise ValueError(f"The value of `{name}` is not text.")
    if len(value.encode()) > MAX_VARIABLE_BYTES:
        raise ValueError(f"The value of `{name}` is longer than {MAX_VARIABLE_BYTES} bytes.")
    return [name, value]


class Command(fields.Field[Any]):
    """Shell text, or a list of shell texts."""

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> str | list[str]:
        lines = [value] if isinstance(value, str) else value
        if not isinstance(lines, list) or not lines or not all(isinstance(line, str) for line in lines):
            raise ValidationError("Neither shell text nor a list of shell texts with at least one item.")
        blank = {index: ["Must not be blank."] for index, line in enumerate(lines) if not line.strip()}
        if blank:
            raise ValidationError(blank if value is lines else "Must not be blank.")
        max_bytes(MAX_COMMAND_BYTES)(shell_text(value))
        return list(lines) if value is lines else value


class Resources(fields.Field[Any]):
    """Resources in any spelling, loaded into the canonical form."""

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> Any:
        return canonical_resources(value)


class Reference(fields.Field[Any]):
    """The name or the id of something."""

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> int | str:
        if isinstance(value, int) and not isinstance(value, bool) and 0 < value < MAX_WHOLE_NUMBER:
            return value
        if isinstance(value, str) and value.strip() and len(value) <= MAX_LINE_LENGTH:
            return value
        raise ValidationError("Neither a name nor a number.")


class Tags(fields.List):
    """Texts without duplicates, in the order first seen. A single text is accepted as well."""

    def __init__(self, **kwargs: Any) -> None:
        tag = fields.String(validate=[not_blank, validate.Length(max=MAX_TAG_LENGTH)])
        super().__init__(tag, validate=validate.Length(max=MAX_LIST_ITEMS), **kwargs)

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> list[Any]:
        loaded = super()._deserialize([value] if isinstance(value, str) else value, attr, data, **kwargs)
        return list(dict.fromkeys(loaded))


class TextMap(fields.Dict):
    """An object of texts, such as labels."""

    def __init__(self) -> None:
        super().__init__(
            keys=ShortText(),
            values=fields.String(validate=validate.Length(max=MAX_TEXT_LENGTH)),
            validate=validate.Length(max=MAX_LIST_ITEMS),
        )


class Section(Schema):
    """A section of the config. Null counts as missing, and an unknown key is an error."""

    class Meta:
        unknown = RAISE

    error_messages = {"type": "Not an object."}

    def load(self, data: Any, **options: Any) -> Any:
        """Load a document. One that is surely valid is loaded without marshmallow's bookkeeping for errors."""
        loaded = self._load_valid(data) if self._has_only_own_hooks else None
        return super().load(data, **options) if loaded is None else loaded

    @cached_property
    def _has_only_own_hooks(self) -> bool:
        names = {tag: [hook[0] for hook in hooks] for tag, hooks in self._hooks.items() if hooks}
        return names == {PRE_LOAD: ["_drop_nulls"], POST_LOAD: ["_drop_empty"]}

    @cached_property
    def _positions(self) -> dict[str, int]:
        """The position of each field in the loaded document."""
        return {name: position for position, name in enumerate(self.load_fields)}

    @cached_property
    def _required(self) -> frozenset[str]:
        return frozenset(name for name, field in self.load_fields.items() if field.required)

    def _load_valid(self, data: Any) -> dict[str, Any] | None:
        """Return the loaded document, or None if it is not valid; marshmallow describes why."""
        if type(data) is not dict:
            return None
        loaded = {}
        try:
            for name in sorted(data, key=self._positions.__getitem__):
                if data[name] is not None:
                    loaded[name] = self.load_fields[name].deserialize(data[name], name, data)
        except (KeyError, ValidationError):
            return None
        return self._drop_empty(loaded) if loaded.keys() >= self._required else None

    @pre_load
    def _drop_nulls(self, data: Any, **kwargs: Any) -> Any:
        return {key: value for key, value in data.items() if value is not None} if isinstance(data, Mapping) else data

    @post_load
    def _drop_empty(self, data: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        return {key: value for key, value in data.items() if value not in ({}, [])}
