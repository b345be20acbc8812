"""Query parameters: readers that collect problems, and the entries of the OpenAPI document."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from polyjob.errors import Invalid, Problem

MAX_NUMBER_DIGITS = 15
MAX_ID_DIGITS = 18
"""Every number of so many digits fits into the database's integers."""
MAX_WAIT_SECONDS = 60.0

_YES_NO = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}


def query_parameter(name: str, description: str, *, required: bool = False, **schema: Any) -> dict[str, Any]:
    """Return the OpenAPI entry of a query parameter."""
    entry = {"name": name, "in": "query", "description": description, "schema": schema}
    return entry | {"required": True} if required else entry


def parse_digits(text: str, max_digits: int = MAX_NUMBER_DIGITS) -> int | None:
    """Return the number that the text is, or None unless it consists of 1 to `max_digits` ASCII digits."""
    return int(text) if text.isascii() and text.isdecimal() and len(text) <= max_digits else None


class ParamReader:
    """Reads query parameters. `check` raises Invalid with the problems of all that were read."""

    def __init__(self, arguments: Mapping[str, str]) -> None:
        self.arguments = arguments
        self.problems: list[Problem] = []

    def number(self, name: str, default: int, minimum: int = 0) -> int:
        """Read a whole number. Only a negative `minimum` allows a sign."""
        text = self.arguments.get(name, str(default))
        digits = parse_digits(text.removeprefix("-") if minimum < 0 else text)
        if digits is None or int(text) < minimum:
            self.reject(name, "a whole number" if minimum < 0 else f"a whole number, {minimum} or more")
            return default
        return int(text)

    def optional_number(self, name: str) -> int | None:
        return self.number(name, 0) if name in self.arguments else None

    def wait_seconds(self, name: str = "wait") -> float:
        """Read a number of seconds to wait, limited to `MAX_WAIT_SECONDS`."""
        try:
            seconds = float(self.arguments.get(name, "0"))
        except ValueError:
            seconds = math.nan
        if not seconds >= 0:
            self.reject(name, "a number of seconds, 0 or more")
            return 0.0
        return min(seconds, MAX_WAIT_SECONDS)

    def yes_no(self, name: str, *, allow_bare: bool = False) -> bool:
        """Read a boolean that is false by default. `allow_bare`: the name without a value means true."""
        text = self.arguments.get(name, "no").lower()
        if text == "" and allow_bare:
            return True
        if text not in _YES_NO:
            self.reject(name, "true or false")
            return False
        return _YES_NO[text]

    def reject(self, name: str, expected: str) -> None:
        """Add a problem: the parameter must be `expected`."""
        self.problems.append(Problem(name, f"`{name}` must be {expected}."))

    def check(self) -> None:
        if self.problems:
            raise Invalid(self.problems)
