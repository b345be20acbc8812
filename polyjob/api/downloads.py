"""File names in headers and addresses. A name can have any bytes, also ones that are not UTF-8."""

from __future__ import annotations

import unicodedata
import urllib.parse

from flask import Response, request

from polyjob.storage.output_names import escape_name

_UNENCODED = "!#$&+-.^_`|~"
"""Characters that RFC 8187 does not encode, besides ASCII letters and digits."""


def attach(response: Response, name: str) -> Response:
    """Let browsers save the response under this name. Clients that read only ASCII get a name without accents."""
    shown = escape_name(name)
    ascii_name = unicodedata.normalize("NFKD", shown).encode("ascii", "ignore").decode()
    names = {"filename": ascii_name or "download"}
    if ascii_name != shown:
        names["filename*"] = f"UTF-8''{urllib.parse.quote(shown, safe=_UNENCODED)}"
    response.headers.set("Content-Disposition", "attachment", **names)
    return response


def name_from_query(parameter: str) -> str:
    """Return a file name or path from the query string, or an empty one. Bytes that are not UTF-8 are kept."""
    query = request.query_string.decode("utf-8", "surrogateescape")
    return urllib.parse.parse_qs(query, errors="surrogateescape").get(parameter, [""])[0]


def quote_name(name: str) -> str:
    """Return a file name or path, quoted for an address."""
    return urllib.parse.quote_from_bytes(name.encode("utf-8", "surrogateescape"))
