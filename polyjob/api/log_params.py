"""Query parameters of requests for lines of a log and for searches in it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from polyjob.api.params import MAX_NUMBER_DIGITS, MAX_WAIT_SECONDS, ParamReader, query_parameter

MAX_LINES = 1000
MAX_MATCHES = 10_000
MAX_SEARCH_LENGTH = 500
SEARCH_SECONDS = 2.0
"""Time after which a search responds with the lines found so far."""

LINES = [
    query_parameter("from", "The first line, counted from 1; negative from the end.", type="integer", default=1),
    query_parameter("count", f"The number of lines, at most {MAX_LINES}.", type="integer", minimum=0, default=100),
    query_parameter("styled", "Return each line as spans with style classes.", type="boolean", default=False),
    query_parameter("times", "Return when each line was written.", type="boolean", default=False),
    query_parameter(
        "wait",
        "Wait until the log has more than `after` bytes or the job or build is done, for so many seconds "
        f"(at most {MAX_WAIT_SECONDS:.0f}).",
        type="number",
        minimum=0,
        default=0,
    ),
    query_parameter("after", "The number of bytes that `wait` compares with.", type="integer", minimum=0, default=0),
]
SEARCH = [
    query_parameter(
        "find", "The text to find; the case of ASCII letters is ignored.", required=True, type="string", minLength=1
    ),
    query_parameter("after", "Search the lines after this one.", type="integer", minimum=0, default=0),
    query_parameter(
        "count", f"The most lines to find, at most {MAX_MATCHES}.", type="integer", minimum=1, default=1000
    ),
]


@dataclass(frozen=True)
class LineParams:
    """Parameters of a request for lines."""

    first: int
    count: int
    styled: bool
    times: bool
    wait: float
    after: int


@dataclass(frozen=True)
class SearchParams:
    """Parameters of a search."""

    text: str
    after: int
    count: int


def read_line_params(arguments: Mapping[str, str]) -> LineParams:
    """Read the parameters. Raises Invalid with the problems of all of them."""
    reader = ParamReader(arguments)
    query = LineParams(
        first=reader.number("from", 1, minimum=-(10**MAX_NUMBER_DIGITS)),
        count=min(reader.number("count", 100), MAX_LINES),
        styled=reader.yes_no("styled"),
        times=reader.yes_no("times"),
        wait=reader.wait_seconds(),
        after=reader.number("after", 0),
    )
    if query.first == 0:
        reader.reject("from", "the number of a line, counted from 1, or from the end if negative")
    reader.check()
    return query


def read_search_params(arguments: Mapping[str, str]) -> SearchParams:
    """Read the parameters. Raises Invalid with the problems of all of them."""
    reader = ParamReader(arguments)
    text = arguments.get("find", "")
    if not text or len(text) > MAX_SEARCH_LENGTH or "\n" in text:
        reader.reject("find", f"a text of 1 to {MAX_SEARCH_LENGTH} characters on one line")
    query = SearchParams(text, reader.number("after", 0), min(reader.number("count", 1000, minimum=1), MAX_MATCHES))
    reader.check()
    return query
