"""Pages of lists: by `limit` and `offset`, or walked by `cursor`; and the addresses of the pages around."""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Sequence
from typing import Any
from urllib.parse import urlencode

from flask import after_this_request, current_app, request
from werkzeug.wrappers import Response

from polyjob.auth.sessions import own_origin
from polyjob.errors import Invalid, Problem

PAGE_SIZE = 20
LARGEST_PAGE = 1000
_LONGEST = 15
"""Digits of a number that is one."""

PARAMETERS: list[dict[str, Any]] = [
    {
        "name": "limit",
        "in": "query",
        "description": f"Items of the page, at most {LARGEST_PAGE}. What is no such number counts as not given.",
        "schema": {"type": "integer", "default": PAGE_SIZE},
    },
    {
        "name": "offset",
        "in": "query",
        "description": "Items before the page. What is no such number counts as not given.",
        "schema": {"type": "integer", "default": 0},
    },
]

QUERIES: list[dict[str, Any]] = [
    {
        "name": "query",
        "in": "query",
        "description": "Conditions `field:operation`, joined by commas, all of which must hold; such as "
        "`status:failed|stopped,created_at:>=2026-11-01,tags:~nightly`. With a query, `count` is at most 10001.",
        "schema": {"type": "string"},
    },
    {
        "name": "sort",
        "in": "query",
        "description": "`created_at`, `updated_at`, `started_at` or `finished_at`, several joined by commas, "
        "`-` for descending.",
        "schema": {"type": "string", "default": "-updated_at"},
    },
    {
        "name": "cursor",
        "in": "query",
        "description": "Walk the list instead of counting items off: given with no value it begins, and `next` (also "
        "the `Link` header) leads on. Every page costs the same, and none is missed or repeated by rows that come.",
        "schema": {"type": "string"},
        "allowEmptyValue": True,
    },
]

LINKS: dict[str, Any] = {
    "Link": {"description": "The pages around, `rel` being `next`, `prev`, `first`.", "schema": {"type": "string"}}
}


def limit() -> int:
    return min(_number("limit") or PAGE_SIZE, LARGEST_PAGE)


def offset() -> int:
    return _number("offset") or 0


def _number(name: str) -> int | None:
    text = request.args.get(name, "")
    return int(text) if text.isascii() and text.isdecimal() and len(text) <= _LONGEST else None


def page(results: Sequence[Any], count: int) -> dict[str, Any]:
    """The answer: `results` is the page that `limit` and `offset` ask for of `count` items."""
    size, start = limit(), offset()
    following = _address(offset=start + size) if start + size < count else None
    previous = _address(offset=max(0, start - size)) if start else None
    return _linked(results, count, following, previous, _address() if start else None)


def walked_page(results: Sequence[Any], count: int, following: str | None) -> dict[str, Any]:
    """The answer to a walk: `following` is the cursor of the next page."""
    address = None if following is None else _address(cursor=following)
    return _linked(results, count, address, None, _address(cursor="") if request.args.get("cursor") else None)


def _linked(
    results: Sequence[Any], count: int, following: str | None, previous: str | None, first: str | None
) -> dict[str, Any]:
    around = {"next": following, "prev": previous, "first": first}
    links = ", ".join(f'<{address}>; rel="{name}"' for name, address in around.items() if address)
    if links:

        @after_this_request
        def add_links(response: Response) -> Response:
            response.headers["Link"] = links
            return response

    return {"count": count, "next": following, "previous": previous, "results": results}


def _address(**where: Any) -> str:
    """This page's, but for the place in the list; every other parameter stays."""
    parameters = [item for item in request.args.items(multi=True) if item[0] not in ("offset", "cursor")]
    parameters += [(name, str(value)) for name, value in where.items() if value or name == "cursor"]
    query = f"?{urlencode(parameters)}" if parameters else ""
    return f"{root()}{request.path}{query}"


def root() -> str:
    """The address of the server as users reach it, without a final slash. Empty for a request to what could be no host:
    links are relative then."""
    public: str = current_app.config["SETTINGS"].public_url
    return public or own_origin()


# Cursors: opaque to clients; the order they belong to, the stored value of its column, and the id of the last row.


def make_cursor(order: str, value: int | None, number: int) -> str:
    return base64.urlsafe_b64encode(json.dumps([order, value, number]).encode()).decode().rstrip("=")


def read_cursor(order: str) -> tuple[int | None, int] | None:
    """(value, id) of the last row of the page before; None where the walk begins.

    Raises Invalid for what is no cursor, or one of a list in another order.
    """
    text = request.args["cursor"]
    if not text:
        return None
    try:
        made_for, value, number = json.loads(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)))
    except (ValueError, binascii.Error, RecursionError, TypeError):
        made_for, value, number = None, None, None
    is_whole = [type(item) is int and abs(item) < 1 << 63 for item in (value, number)]
    if made_for != order or not is_whole[1] or not (value is None or is_whole[0]):
        raise Invalid([Problem("cursor", "This is no cursor of a list in this order; take it from `next`.")])
    return value, number
