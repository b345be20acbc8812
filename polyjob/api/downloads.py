"""Headers that name a file to save, and addresses that name an output: for any bytes that a file name can have."""

from __future__ import annotations

import unicodedata
import urllib.parse

from flask import Response, request

from polyjob.storage.output_names import escape_name

_SAFE = "!#$&+-.^_`|~"
"""Letters that RFC 8187 leaves as they are, beside letters and digits of ASCII."""


def attach(response: Response, name: str) -> Response:
    """Have browsers save the response under this name, in ASCII for clients that read nothing else."""
    shown = escape_name(name)
    plain = unicodedata.normalize("NFKD", shown).encode("ascii", "ignore").decode()
    names = {"filename": plain or "download"}
    if plain != shown:
        names["filename*"] = f"UTF-8''{urllib.parse.quote(shown, safe=_SAFE)}"
    response.headers.set("Content-Disposition", "attachment", **names)
    return response


def asked_name(parameter: str) -> str:
    """Return a file name or path of the query, empty if it is not there. Bytes that are not UTF-8 are kept."""
    query = request.query_string.decode("utf-8", "surrogateescape")
    return urllib.parse.parse_qs(query, errors="surrogateescape").get(parameter, [""])[0]


def quoted_name(name: str) -> str:
    """Return a file name or path as it stands in an address."""
    return urllib.parse.quote_from_bytes(name.encode("utf-8", "surrogateescape"))
