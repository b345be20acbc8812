"""Values of templates and what filters make of them. Pure; every result is bounded before it is made."""

from __future__ import annotations

import json
import math
import shlex
from collections.abc import Callable, Mapping
from typing import Any

from polyjob.jobconfig.checks import MAX_INTEGER_DIGITS

MAX_RENDERED_LENGTH = 200_000
"""Of a text once it is rendered, and of whatever an operator or a filter makes."""
MAX_RENDER_WORK = 2_000_000
"""Characters that may be put into all texts of a document, and go through operators and filters on the way."""
VALUE_COST = 50
"""Characters that each of these values counts in addition to its length: a short one takes time, too."""
MAX_ROUND_DIGITS = 20
MAX_LISTED_NAMES = 20
"""Names that an error lists."""
_TOO_LARGE = 10**MAX_INTEGER_DIGITS


class TemplateError(ValueError):
    """What stands between the braces is no expression, or names what is not there."""


class RenderBudgetExceeded(TemplateError):
    """The document's texts would become too long, all together."""


class Undefined:
    """What a name stands for that nobody has."""

    def __init__(self, explain: Callable[[], str]) -> None:
        self.explain = explain
        """Returns the sentence of an error; only called for one, because a default can replace very many values."""


class RenderBudget:
    """What may still be put into the texts of one document."""

    def __init__(self, characters: int = MAX_RENDER_WORK) -> None:
        self._left = characters

    def spend(self, value: Any) -> None:
        """Raises TooMuch."""
        if isinstance(value, Undefined):
            return
        self._left -= VALUE_COST + (len(as_text(value)) if isinstance(value, str | list | Mapping) else 0)
        if self._left < 0:
            raise RenderBudgetExceeded(
                f"The parameters put more than {MAX_RENDER_WORK} characters into the config, all together;"
                f" each value counts {VALUE_COST} in addition to its length."
            )


def as_text(value: Any) -> str:
    """Return a value as it stands within a text: Python's `str` of it."""
    return str(value)


def check_result(value: Any, maker: str) -> Any:
    """Return the value if it is not too long and no number too large. Raises TemplateError that names the maker."""
    if isinstance(value, str | list | Mapping):
        check_length(len(as_text(value)), maker)
    elif isinstance(value, int) and abs(value) >= _TOO_LARGE:
        raise TemplateError(f"{maker} makes a number with more than {MAX_INTEGER_DIGITS} digits.")
    elif isinstance(value, float) and not math.isfinite(value):
        raise TemplateError(f"{maker} makes no finite number.")
    return value


def check_length(length: int, maker: str) -> None:
    if length > MAX_RENDERED_LENGTH:
        raise TemplateError(f"{maker} makes more than {MAX_RENDERED_LENGTH} characters.")


def shorten(text: str) -> str:
    return text if len(text) <= 40 else f"{text[:39]}…"


def apply_filter(name: str, value: Any, arguments: list[Any]) -> Any:
    """Return what the filter makes of the value. Raises TemplateError."""
    if name == "default":
        if len(arguments) not in (1, 2):
            raise TemplateError("The filter `default` takes one argument, and true if it replaces what is empty, too.")
        is_empty = isinstance(value, Undefined) or value is None or (len(arguments) == 2 and arguments[1] and not value)
        return arguments[0] if is_empty else value
    if isinstance(value, Undefined):
        return value
    if name not in FILTERS:
        raise TemplateError(f"There is no filter `{shorten(name)}`; there are: default, {', '.join(sorted(FILTERS))}.")
    act, least, most = FILTERS[name]
    if not least <= len(arguments) <= most:
        wanted = f"{least} to {most}" if least < most else most or "no"
        raise TemplateError(f"The filter `{name}` takes {wanted} argument{'s' * (most != 1)}.")
    try:
        return check_result(act(value, *arguments), f"The filter `{name}`")
    except TemplateError:
        raise
    except (TypeError, ValueError, OverflowError, AttributeError, IndexError):
        raise TemplateError(f"The filter `{name}` cannot work on {shorten(as_text(value))!r}.") from None


def _to_int(value: Any) -> int:
    return int(float(value)) if isinstance(value, str) and not value.strip().lstrip("+-").isdigit() else int(value)


def _to_float(value: Any) -> float:
    number = float(value)
    if not math.isfinite(number):
        raise ValueError("infinite, or no number")
    return number


def _listed(value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise TypeError
    return value


def _ends(value: Any) -> Any:
    """A text or list, of which there are a first and a last item."""
    if not isinstance(value, str | list):
        raise TypeError
    return value


def _join(value: Any, between: Any = "") -> str:
    items, between = [as_text(item) for item in _listed(value)], as_text(between)
    check_length(sum(map(len, items)) + len(between) * (len(items) - 1), "The filter `join`")
    return between.join(items)


def _replace(value: Any, old: Any, new: Any) -> str:
    text, old, new = as_text(value), as_text(old), as_text(new)
    if not old:
        raise ValueError("nothing to look for")
    check_length(len(text) + text.count(old) * (len(new) - len(old)), "The filter `replace`")
    return text.replace(old, new)


def _round(value: Any, digits: Any = 0) -> Any:
    """Python takes any time at all to round a whole number to very many digits before the point."""
    if not isinstance(digits, int) or abs(digits) > MAX_ROUND_DIGITS:
        raise ValueError("too many digits")
    return round(value, digits)


FILTERS: dict[str, tuple[Callable[..., Any], int, int]] = {
    "abs": (abs, 0, 0),
    "capitalize": (lambda value: as_text(value).capitalize(), 0, 0),
    "first": (lambda value: _ends(value)[0], 0, 0),
    "float": (_to_float, 0, 0),
    "int": (_to_int, 0, 0),
    "join": (_join, 0, 1),
    "last": (lambda value: _ends(value)[-1], 0, 0),
    "length": (len, 0, 0),
    "lower": (lambda value: as_text(value).lower(), 0, 0),
    "max": (lambda value: max(_listed(value)), 0, 0),
    "min": (lambda value: min(_listed(value)), 0, 0),
    "quote": (lambda value: shlex.quote(as_text(value)), 0, 0),
    "replace": (_replace, 2, 2),
    "round": (_round, 0, 1),
    "sort": (lambda value: sorted(_listed(value)), 0, 0),
    "string": (as_text, 0, 0),
    "sum": (lambda value: sum(_listed(value)), 0, 0),
    "title": (lambda value: as_text(value).title(), 0, 0),
    "tojson": (lambda value: json.dumps(value, ensure_ascii=False), 0, 0),
    "trim": (lambda value: as_text(value).strip(), 0, 0),
    "upper": (lambda value: as_text(value).upper(), 0, 0),
}
"""Filter → (what it does, the least and the most arguments). `default` is beside them: it takes what is missing."""
