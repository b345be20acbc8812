"""Pages of lists, by `limit` and `offset` or by `cursor`, and links to the next and previous page."""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Sequence
from typing import Any
from urllib.parse import urlencode

from flask import after_this_request, current_app, request
from werkzeug.wrappers import Response

from polyjob.api.params import parse_digits, query_parameter
from polyjob.auth.sessions import own_origin
from polyjob.errors import Invalid, Problem

DEFAULT_PAGE_SIZE = 20
MAX_PAGE_SIZE = 1000

PARAMETERS = [
    query_parameter(
        "limit",
        f"Number of items on the page, at most {MAX_PAGE_SIZE}. An invalid value is ignored.",
        type="integer",
        default=DEFAULT_PAGE_SIZE,
    ),
    query_parameter(
        "offset", "Number of items before the page. An invalid value is ignored.", type="integer", default=0
    ),
]

QUERY_PARAMETERS = [
    query_parameter(
        "query",
        "Conditions `field:operation`, separated by commas, all of which must hold; for example "
        "`status:failed|stopped,created_at:>=2026-11-01,tags:~nightly`. With a query, `count` is at most 10001.",
        type="string",
    ),
    query_parameter(
        "sort",
        "`id`, `created_at`, `updated_at`, `started_at` or `finished_at`, or several separated by commas; `-` for "
        "descending order.",
        type="string",
        default="-updated_at",
    ),
    query_parameter(
        "cursor",
        "Reads the list page by page instead of by offset. Start with an empty value, and follow `next` (also in the "
        "`Link` header). All pages take the same time, and new items neither hide nor repeat others.",
        type="string",
    )
    | {"allowEmptyValue": True},
]

LINK_HEADER: dict[str, Any] = {
    "Link": {
        "description": "Addresses of other pages, with `rel` `next`, `prev` or `first`.",
        "schema": {"type": "string"},
    }
}


def limit() -> int:
    return min(parse_digits(request.args.get("limit", "")) or DEFAULT_PAGE_SIZE, MAX_PAGE_SIZE)


def offset() -> int:
    return parse_digits(request.args.get("offset", "")) or 0


def page(results: Sequence[Any], count: int) -> dict[str, Any]:
    """Return a response body: `results` is the page at `limit` and `offset` of a list of `count` items."""
    size, start = limit(), offset()
    next_address = _address(offset=start + size) if start + size < count else None
    previous_address = _address(offset=max(0, start - size)) if start else None
    return _with_links(results, count, next_address, previous_address, _address() if start else None)


def page_of_query(query: Any) -> dict[str, Any]:
    """Return a response body: the page at `limit` and `offset` of a database query."""
    return page(list(query.limit(limit()).offset(offset())), query.count())


def cursor_page(results: Sequence[Any], count: int, next_cursor: str | None) -> dict[str, Any]:
    """Return a response body for a list that is read by cursor."""
    next_address = None if next_cursor is None else _address(cursor=next_cursor)
    first_address = _address(cursor="") if request.args.get("cursor") else None
    return _with_links(results, count, next_address, None, first_address)


def _with_links(
    results: Sequence[Any],
    count: int,
    next_address: str | None,
    previous_address: str | None,
    first_address: str | None,
) -> dict[str, Any]:
    addresses = {"next": next_address, "prev": previous_address, "first": first_address}
    links = ", ".join(f'<{address}>; rel="{name}"' for name, address in addresses.items() if address)
    if links:

        @after_this_request
        def add_links(response: Response) -> Response:
            response.headers["Link"] = links
            return response

    return {"count": count, "next": next_address, "previous": previous_address, "results": results}


def _address(**position: Any) -> str:
    """Return the address of the same list at another position, with all other parameters."""
    parameters = [item for item in request.args.items(multi=True) if item[0] not in ("offset", "cursor")]
    parameters += [(name, str(value)) for name, value in position.items() if value or name == "cursor"]
    query = f"?{urlencode(parameters)}" if parameters else ""
    return f"{root()}{request.path}{query}"


def root() -> str:
    """Return the address of the server as users reach it, without a final slash.

    It has no scheme and host if the request's `Host` is not valid; links are relative then.
    """
    public_url: str = current_app.config["SETTINGS"].public_url
    return public_url or own_origin() + request.script_root


# Cursors. They are opaque to clients: the sort order of their list, and the last row's value of the sort column and id.


def make_cursor(order: str, value: int | None, row_id: int) -> str:
    return base64.urlsafe_b64encode(json.dumps([order, value, row_id]).encode()).decode().rstrip("=")


def read_cursor(order: str) -> tuple[int | None, int] | None:
    """Return (value, id) of the last row of the page before, or None on the first page.

    Raises Invalid if the request's cursor is damaged or belongs to a list in another order.
    """
    text = request.args["cursor"]
    if not text:
        return None
    try:
        cursor_order, value, row_id = json.loads(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)))
    except (ValueError, binascii.Error, RecursionError, TypeError):
        cursor_order, value, row_id = None, None, None
    if cursor_order != order or not _is_integer(row_id) or not (value is None or _is_integer(value)):
        raise Invalid([Problem("cursor", "Not a cursor of a list in this order. Use the address in `next`.")])
    return value, row_id


def _is_integer(value: Any) -> bool:
    """Return whether the value is an integer that fits into the database."""
    return type(value) is int and abs(value) < 1 << 63
