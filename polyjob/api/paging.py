"""Pages of lists: `limit` and `offset`, and the addresses of the pages around."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from urllib.parse import urlencode

from flask import current_app, request

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
        "`-` for descending. Other names are passed over.",
        "schema": {"type": "string", "default": "-updated_at"},
    },
]


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
    return {
        "count": count,
        "next": _address(start + size) if start + size < count else None,
        "previous": _address(max(0, start - size)) if start else None,
        "results": results,
    }


def _address(start: int) -> str:
    """This page's, but for the offset; every other parameter stays."""
    parameters = [(name, value) for name, value in request.args.items(multi=True) if name != "offset"]
    if start:
        parameters.append(("offset", str(start)))
    query = f"?{urlencode(parameters)}" if parameters else ""
    return f"{root()}{request.path}{query}"


def root() -> str:
    """The address of the server as users reach it, without a final slash."""
    public: str = current_app.config["SETTINGS"].public_url
    return (public or request.url_root).rstrip("/")
