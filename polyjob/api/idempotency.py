"""The header `Idempotency-Key`: a repeated request gets the first response again, and creates nothing."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable
from typing import Any

from flask import Response, request

from polyjob.api.request_context import me
from polyjob.db.models import Project
from polyjob.errors import Invalid, Problem
from polyjob.services.idempotency import IdempotentRequest, ReplayedResponse

HEADER = "Idempotency-Key"
REPLAYED = "Idempotent-Replayed"
_ENCODER = json.JSONEncoder(separators=(",", ":"))
_KEY = re.compile(r"[!-~](?:[ -~]{0,253}[!-~])?\Z")

PARAMETER = {
    "name": HEADER,
    "in": "header",
    "description": "A text that the client chooses, such as a UUID. For 24 hours, the same request with the same key "
    f"in the same project gets the first response again, with the header `{REPLAYED}: true`, and creates nothing.",
    "schema": {"type": "string", "maxLength": 255},
}


def create_idempotently(
    project: Project, create: Callable[[IdempotentRequest | None], Any], to_document: Callable[[Any], dict[str, Any]]
) -> Response:
    """Return the 201 for the object that `create` creates in the project, or the response to an earlier same request.

    `create` reads the body, and passes its argument on to the service. Raises Invalid for an invalid key, KeyReused for
    the key of another request, and whatever `create` raises.
    """
    key = request.headers.get(HEADER)
    if key is None:
        return _created(_text(to_document(create(None))))
    if not _KEY.match(key):
        raise Invalid([Problem(HEADER, f"`{HEADER}` must be 1 to 255 printable characters.")])
    bodies: list[str] = []

    def render(created: Any) -> str:
        bodies.append(_text(to_document(created)))
        return bodies[-1]

    try:
        idempotent = IdempotentRequest(me(), project, key, _digest(), render)
        idempotent.check()
        create(idempotent)
    except ReplayedResponse as replayed:
        response = _created(replayed.body)
        response.headers[REPLAYED] = "true"
        return response
    return _created(bodies[-1])


def _digest() -> str:
    """Return a digest of the whole request."""
    digest = hashlib.sha256(f"{request.method} {request.full_path} {request.mimetype}\n".encode())
    body = request.get_data(cache=True, parse_form_data=False)
    if request.mimetype == "multipart/form-data":  # the boundary differs each time
        body = repr(sorted(request.form.items(multi=True))).encode()
    digest.update(body)
    return digest.hexdigest()


def _text(document: dict[str, Any]) -> str:
    return _ENCODER.encode(document) + "\n"


def _created(text: str) -> Response:
    return Response(text, 201, mimetype="application/json")
