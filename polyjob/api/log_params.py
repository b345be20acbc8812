"""What a request for lines of a log, or for a search in it, may ask."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from polyjob.api.params import MAX_NUMBER_DIGITS, MAX_WAIT_SECONDS, ParamReader, query_parameter

MOST_LINES = 1000
MOST_FOUND = 10_000
LONGEST_TEXT = 500
SEARCH_SECONDS = 2.0
"""After so long a search answers with what it has."""

LINES = [
    query_parameter("from", "The first line, counted from 1; negative from the end.", type="integer", default=1),
    query_parameter("count", f"So many lines, at most {MOST_LINES}.", type="integer", minimum=0, default=100),
    query_parameter("styled", "Each line as spans with the classes of their style.", type="boolean", default=False),
    query_parameter(
        "wait",
        "Answer once the log has more than `after` bytes or the job or build is done, or after so many seconds "
        f"(at most {MAX_WAIT_SECONDS:.0f}).",
        type="number",
        minimum=0,
        default=0,
    ),
    query_parameter("after", "What `wait` compares with.", type="integer", minimum=0, default=0),
]
SEARCH = [
    query_parameter(
        "find", "The text; the case of ASCII letters does not matter.", required=True, type="string", minLength=1
    ),
    query_parameter("after", "Look at the lines behind this one.", type="integer", minimum=0, default=0),
    query_parameter("count", f"Find so many at most, at most {MOST_FOUND}.", type="integer", minimum=1, default=1000),
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


def read_line_query(arguments: Mapping[str, str]) -> LineQuery:
    """Raises Invalid that names every parameter in question."""
    reader = ParamReader(arguments)
    query = LineQuery(
        first=reader.number("from", 1, minimum=-(10**MAX_NUMBER_DIGITS)),
        count=min(reader.number("count", 100), MOST_LINES),
        styled=reader.yes_no("styled"),
        wait=reader.wait_seconds(),
        after=reader.number("after", 0),
    )
    if query.first == 0:
        reader.reject("from", "the number of a line, counted from 1, or from the end if negative")
    reader.check()
    return query


def read_search(arguments: Mapping[str, str]) -> SearchQuery:
    """Raises Invalid that names every parameter in question."""
    reader = ParamReader(arguments)
    text = arguments.get("find", "")
    if not text or len(text) > LONGEST_TEXT or "\n" in text:
        reader.reject("find", f"a text of 1 to {LONGEST_TEXT} characters on one line")
    query = SearchQuery(text, reader.number("after", 0), min(reader.number("count", 1000, minimum=1), MOST_FOUND))
    reader.check()
    return query
