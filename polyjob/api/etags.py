"""ETags of responses that clients poll. A request with the current ETag is answered with 304, after reading one row."""

from __future__ import annotations

import hashlib

from flask import Response, after_this_request, request
from werkzeug.wrappers import Response as AnyResponse

import polyjob
from polyjob.api.paging import root
from polyjob.api.request_context import me
from polyjob.db.models import Project


def unchanged(project: Project, *state: object) -> Response | None:
    """Return a 304 if the request has the ETag of `state`. Else return None, and add the ETag to the response.

    Read `state` before the content of the response: then an ETag can be too old, but never too new.
    """
    values = (polyjob.__version__, root(), me().id, project.user.username, project.name, request.full_path, *state)
    etag = hashlib.sha256(repr(values).encode()).hexdigest()[:32]

    @after_this_request
    def add_etag(response: AnyResponse) -> AnyResponse:
        if response.status_code in (200, 304):
            response.set_etag(etag, weak=True)
            response.headers["Cache-Control"] = "private, no-cache"
        return response

    return Response(status=304) if request.if_none_match.contains_weak(etag) else None
