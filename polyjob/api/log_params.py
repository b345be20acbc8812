"""What a request for lines of a log, or for a search in it, may ask."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from polyjob.errors import Invalid, Problem

MOST_LINES = 1000
MOST_FOUND = 10_000
LONGEST_WAIT = 60.0
LONGEST_TEXT = 500
SEARCH_SECONDS = 2.0
"""After so long a search answers with what it has."""
_DIGITS = 15
_YES_NO = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}


def _parameter(name: str, description: str, **schema: Any) -> dict[str, Any]:
    return {"name": name, "in": "query", "description": description, "schema": schema}


LINES = [
    _parameter("from", "The first line, counted from 1; negative from the end.", type="integer", default=1),
    _parameter("count", f"So many lines, at most {MOST_LINES}.", type="integer", minimum=0, default=100),
    _parameter("styled", "Each line as spans with the classes of their style.", type="boolean", default=False),
    _parameter(
        "wait",
        "Answer once the log has more than `after` bytes or the job or build is done, or after so many seconds "
        f"(at most {LONGEST_WAIT:.0f}).",
        type="number",
        minimum=0,
        default=0,
    ),
    _parameter("after", "What `wait` compares with.", type="integer", minimum=0, default=0),
]
SEARCH = [
    _parameter("find", "The text; the case of ASCII letters does not matter.", type="string", minLength=1)
    | {"required": True},
    _parameter("after", "Look at the lines behind this one.", type="integer", minimum=0, default=0),
    _parameter("count", f"Find so many at most, at most {MOST_FOUND}.", type="integer", minimum=1, default=1000),
]


@dataclass(frozen=True)
class LineQuery:
    first: int
    count: int
    styled: bool
    wait: float
    after: int


@dataclass(frozen=True)
class SearchQuery:
    text: str
    after: int
    count: int


class _Reader:
    """Reads parameters, and gathers what is wrong with them."""

    def __init__(self, arguments: Mapping[str, str]) -> None:
        self.arguments = arguments
        self.problems: list[Problem] = []

    def number(self, name: str, default: int, least: int = 0) -> int:
        text = self.arguments.get(name, str(default))
        digits = text.removeprefix("-") if least < 0 else text
        if digits.isascii() and digits.isdecimal() and len(digits) <= _DIGITS and int(text) >= least:
            return int(text)
        return self.wrong(name, "a whole number" if least < 0 else f"a whole number, {least} or more", default)

    def seconds(self, name: str) -> float:
        try:
            seconds = float(self.arguments.get(name, "0"))
        except ValueError:
            seconds = math.nan
        return min(seconds, LONGEST_WAIT) if seconds >= 0 else self.wrong(name, "a number of seconds, 0 or more", 0)

    def yes_or_no(self, name: str) -> bool:
        text = self.arguments.get(name, "no").lower()
        return _YES_NO[text] if text in _YES_NO else bool(self.wrong(name, "true or false", 0))

    def wrong(self, name: str, takes: str, default: int) -> int:
        self.problems.append(Problem(name, f"`{name}` takes {takes}."))
        return default

    def check(self) -> None:
        if self.problems:
            raise Invalid(self.problems)


def read_line_query(arguments: Mapping[str, str]) -> LineQuery:
    """Raises Invalid that names every parameter in question."""
    reader = _Reader(arguments)
    query = LineQuery(
        first=reader.number("from", 1, least=-(10**_DIGITS)),
        count=min(reader.number("count", 100), MOST_LINES),
        styled=reader.yes_or_no("styled"),
        wait=reader.seconds("wait"),
        after=reader.number("after", 0),
    )
    if query.first == 0:
        reader.wrong("from", "the number of a line, counted from 1, or from the end if negative", 1)
    reader.check()
    return query


def read_search(arguments: Mapping[str, str]) -> SearchQuery:
    """Raises Invalid that names every parameter in question."""
    reader = _Reader(arguments)
    text = arguments.get("find", "")
    if not text or len(text) > LONGEST_TEXT or "\n" in text:
        reader.wrong("find", f"a text of 1 to {LONGEST_TEXT} characters on one line", 0)
    query = SearchQuery(text, reader.number("after", 0), min(reader.number("count", 1000, least=1), MOST_FOUND))
    reader.check()
    return query
