"""ETags of what is polled: a request that shows the ETag of what is still so is answered 304, from one row."""

from __future__ import annotations

import hashlib

from flask import Response, after_this_request, request
from werkzeug.wrappers import Response as AnyResponse

import polyjob
from polyjob.api.paging import root
from polyjob.api.request_context import me
from polyjob.db.models import Project


def unchanged(project: Project, *state: object) -> Response | None:
    """The 304 where the request shows the ETag of `state`; else None, and the answer gets that ETag.

    `state` must have been read before what the answer shows: then an ETag may be too old, but never too new.
    """
    parts = (polyjob.__version__, root(), me().id, project.user.username, project.name, request.full_path, *state)
    tag = hashlib.sha256(repr(parts).encode()).hexdigest()[:32]

    @after_this_request
    def add(response: AnyResponse) -> AnyResponse:
        if response.status_code in (200, 304):
            response.set_etag(tag, weak=True)
            response.headers["Cache-Control"] = "private, no-cache"
        return response

    return Response(status=304) if request.if_none_match.contains_weak(tag) else None
