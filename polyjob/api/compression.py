"""Compress responses for clients that accept gzip: pages, JSON, scripts and styles, but neither streams nor downloads.

A page in TLS tells its length to who listens. The pages of a browser therefore contain no secret that repeats: their
CSRF token differs in each response.
"""

from __future__ import annotations

import gzip

from flask import request
from werkzeug.wrappers import Response

MIN_COMPRESSED_BYTES = 1024
"""A smaller response fits into one packet in any case."""
LEVEL = 5
"""A list of 50 jobs takes 0.3 ms. Higher levels gain little: a few percent of the bytes for more of the time."""
MIN_LARGE_PAGE_BYTES = 128 * 1024
LARGE_PAGE_LEVEL = 6
"""The level of large pages, such as the API reference: they are rare, and it saves a sixth of their bytes."""
_STATIC = "pages.static"
_MEDIA_TYPES = frozenset(
    {"text/html", "text/css", "text/javascript", "application/json", "application/problem+json", "image/svg+xml"}
)


def compress(response: Response) -> Response:
    """Compress the body if its type allows it and the client accepts gzip. Its ETag becomes a weak one.

    Streams stay as they are: a follower needs each line at once, and downloads have ranges.
    """
    if response.mimetype not in _MEDIA_TYPES or (response.is_streamed and request.endpoint != _STATIC):
        return response
    if "Vary" in response.headers:
        response.vary.add("Accept-Encoding")
    else:
        response.headers["Vary"] = "Accept-Encoding"
    if "HTTP_ACCEPT_ENCODING" not in request.environ:
        return response
    if response.status_code in (204, 206, 304) or "Content-Encoding" in response.headers:
        return response
    if request.accept_encodings.best_match(["gzip", "identity"]) != "gzip":
        return response
    response.direct_passthrough = False  # a static file is read here
    data = response.get_data()
    if len(data) < MIN_COMPRESSED_BYTES:
        return response
    is_large_page = response.mimetype == "text/html" and len(data) >= MIN_LARGE_PAGE_BYTES
    response.set_data(gzip.compress(data, LARGE_PAGE_LEVEL if is_large_page else LEVEL, mtime=0))
    response.headers["Content-Encoding"] = "gzip"
    response.headers.pop("Accept-Ranges", None)
    etag, is_weak = response.get_etag()
    if etag and not is_weak:
        response.set_etag(etag, weak=True)
    return response
