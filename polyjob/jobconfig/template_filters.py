"""The filters of templates, and the limits of their results. Pure; a result is checked before it is computed."""

from __future__ import annotations

import json
import math
import shlex
from collections.abc import Callable, Mapping
from typing import Any

from polyjob.jobconfig.checks import MAX_INTEGER_DIGITS

MAX_RENDERED_LENGTH = 200_000
"""Characters of a rendered text, and of the result of an operator or filter."""
MAX_RENDER_WORK = 2_000_000
"""Characters that all expressions of a document may produce, the operands of operators and filters included."""
VALUE_COST = 50
"""Characters that each value counts in addition to its length, because short values take time as well."""
MAX_ROUND_DIGITS = 20
"""Digits to which the filter `round` rounds."""
MAX_LISTED_NAMES = 20
"""Names that an error message lists."""
_TOO_LARGE = 10**MAX_INTEGER_DIGITS


class TemplateError(ValueError):
    """The text between the braces is not a valid expression, or cannot be evaluated."""


class RenderBudgetExceeded(TemplateError):
    """The expressions of the document together produce too much text."""


class Undefined:
    """The value of a name or member that does not exist."""

    def __init__(self, explain: Callable[[], str]) -> None:
        self.explain = explain
        """Returns the error message. Created on demand, because a default may replace very many undefined values."""


class RenderBudget:
    """The characters that the expressions of one document may still produce."""

    def __init__(self, characters: int = MAX_RENDER_WORK) -> None:
        self._remaining = characters

    def spend(self, value: Any) -> None:
        """Count a value. Raises RenderBudgetExceeded."""
        if isinstance(value, Undefined):
            return
        self._remaining -= VALUE_COST + (len(as_text(value)) if isinstance(value, str | list | Mapping) else 0)
        if self._remaining < 0:
            raise RenderBudgetExceeded(
                f"The expressions of the config produce more than {MAX_RENDER_WORK} characters in total;"
                f" each value counts {VALUE_COST} in addition to its length. Use shorter params or fewer expressions."
            )


def as_text(value: Any) -> str:
    """Return the value as part of a text, as by Python's `str`."""
    return str(value)


def check_result(value: Any, producer: str) -> Any:
    """Return the value. Raises TemplateError, which names `producer`, if it is too long or too large a number."""
    if isinstance(value, str | list | Mapping):
        check_length(len(as_text(value)), producer)
    elif isinstance(value, int) and abs(value) >= _TOO_LARGE:
        raise TemplateError(f"{producer} produces a number of more than {MAX_INTEGER_DIGITS} digits.")
    elif isinstance(value, float) and not math.isfinite(value):
        raise TemplateError(f"{producer} does not produce a finite number.")
    return value


def check_length(length: int, producer: str) -> None:
    if length > MAX_RENDERED_LENGTH:
        raise TemplateError(f"{producer} produces more than {MAX_RENDERED_LENGTH} characters.")


def shorten(text: str) -> str:
    """Return the text for an error message, cut after 40 characters."""
    return text if len(text) <= 40 else f"{text[:39]}…"


def apply_filter(name: str, value: Any, arguments: list[Any]) -> Any:
    """Return the result of a filter. Raises TemplateError."""
    if name == "default":
        if len(arguments) not in (1, 2):
            raise TemplateError("The filter `default` takes a value, and `true` if it replaces empty values too.")
        is_empty = isinstance(value, Undefined) or value is None or (len(arguments) == 2 and arguments[1] and not value)
        return arguments[0] if is_empty else value
    if isinstance(value, Undefined):
        return value
    if name not in FILTERS:
        raise TemplateError(f"Unknown filter `{shorten(name)}`; use one of: default, {', '.join(sorted(FILTERS))}.")
    apply, minimum, maximum = FILTERS[name]
    if not minimum <= len(arguments) <= maximum:
        expected = f"{minimum} to {maximum}" if minimum < maximum else maximum or "no"
        raise TemplateError(f"The filter `{name}` takes {expected} argument{'s' * (maximum != 1)}.")
    try:
        return check_result(apply(value, *arguments), f"The filter `{name}`")
    except TemplateError:
        raise
    except (TypeError, ValueError, OverflowError, AttributeError, IndexError):
        raise TemplateError(f"The filter `{name}` cannot be applied to {shorten(as_text(value))!r}.") from None


def _to_int(value: Any) -> int:
    return int(float(value)) if isinstance(value, str) and not value.strip().lstrip("+-").isdigit() else int(value)


def _to_float(value: Any) -> float:
    number = float(value)
    if not math.isfinite(number):
        raise ValueError("not a finite number")
    return number


def _as_list(value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise TypeError
    return value


def _as_sequence(value: Any) -> Any:
    """Return a text or list, which has a first and a last item. Raises TypeError for anything else."""
    if not isinstance(value, str | list):
        raise TypeError
    return value


def _join(value: Any, separator: Any = "") -> str:
    items, separator = [as_text(item) for item in _as_list(value)], as_text(separator)
    check_length(sum(map(len, items)) + len(separator) * (len(items) - 1), "The filter `join`")
    return separator.join(items)


def _replace(value: Any, old: Any, new: Any) -> str:
    text, old, new = as_text(value), as_text(old), as_text(new)
    if not old:
        raise ValueError("the text to replace is empty")
    check_length(len(text) + text.count(old) * (len(new) - len(old)), "The filter `replace`")
    return text.replace(old, new)


def _round(value: Any, digits: Any = 0) -> Any:
    """Round a number. `digits` is limited, because Python takes very long for large negative ones."""
    if not isinstance(digits, int) or abs(digits) > MAX_ROUND_DIGITS:
        raise ValueError("too many digits")
    return round(value, digits)


FILTERS: dict[str, tuple[Callable[..., Any], int, int]] = {
    "abs": (abs, 0, 0),
    "capitalize": (lambda value: as_text(value).capitalize(), 0, 0),
    "first": (lambda value: _as_sequence(value)[0], 0, 0),
    "float": (_to_float, 0, 0),
    "int": (_to_int, 0, 0),
    "join": (_join, 0, 1),
    "last": (lambda value: _as_sequence(value)[-1], 0, 0),
    "length": (len, 0, 0),
    "lower": (lambda value: as_text(value).lower(), 0, 0),
    "max": (lambda value: max(_as_list(value)), 0, 0),
    "min": (lambda value: min(_as_list(value)), 0, 0),
    "quote": (lambda value: shlex.quote(as_text(value)), 0, 0),
    "replace": (_replace, 2, 2),
    "round": (_round, 0, 1),
    "sort": (lambda value: sorted(_as_list(value)), 0, 0),
    "string": (as_text, 0, 0),
    "sum": (lambda value: sum(_as_list(value)), 0, 0),
    "title": (lambda value: as_text(value).title(), 0, 0),
    "tojson": (lambda value: json.dumps(value, ensure_ascii=False), 0, 0),
    "trim": (lambda value: as_text(value).strip(), 0, 0),
    "upper": (lambda value: as_text(value).upper(), 0, 0),
}
"""Function, minimum and maximum number of arguments by filter. `default` is not here, because it accepts undefined
values."""
