"""`Idempotency-Key`: the same request, sent again with its key, gets its first answer and makes nothing new."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from typing import Any

from flask import Response, current_app, request

from polyjob.api.request_context import me
from polyjob.db.models import Project
from polyjob.errors import Invalid, Problem
from polyjob.services.idempotency import IdempotentRequest, ReplayedResponse

HEADER = "Idempotency-Key"
REPLAYED = "Idempotent-Replayed"
_KEY = re.compile(r"[!-~](?:[ -~]{0,253}[!-~])?\Z")

PARAMETER = {
    "name": HEADER,
    "in": "header",
    "description": "Any text of the client's own, such as a UUID. For 24 hours, the same request with the same key "
    f"in the same project gets the first answer, marked by `{REPLAYED}: true`, and makes nothing new.",
    "schema": {"type": "string", "maxLength": 255},
}


def create_idempotently(
    project: Project, make: Callable[[IdempotentRequest | None], Any], show: Callable[[Any], dict[str, Any]]
) -> Response:
    """The 201 that shows what `make` makes in the project, or showed it when this request came before.

    `make` reads the body, and passes what it is given to the verb that makes the thing. Raises Invalid for a key that
    is none, KeyReused for one of another request, and what `make` raises.
    """
    key = request.headers.get(HEADER)
    if key is None:
        return _created(_text(show(make(None))))
    if not _KEY.match(key):
        raise Invalid([Problem(HEADER, f"`{HEADER}` must be 1 to 255 printable characters.")])
    answers: list[str] = []

    def shown(made: Any) -> str:
        answers.append(_text(show(made)))
        return answers[-1]

    try:
        once = IdempotentRequest(me(), project, key, _digest(), shown)
        once.check()
        make(once)
    except ReplayedResponse as before:
        response = _created(before.body)
        response.headers[REPLAYED] = "true"
        return response
    return _created(answers[-1])


def _digest() -> str:
    """Of everything that says what is asked for."""
    asked = hashlib.sha256(f"{request.method} {request.full_path} {request.mimetype}\n".encode())
    body = request.get_data(cache=True, parse_form_data=False)
    if request.mimetype == "multipart/form-data":  # what stands between its fields is another at each time
        body = repr(sorted(request.form.items(multi=True))).encode()
    asked.update(body)
    return asked.hexdigest()


def _text(document: dict[str, Any]) -> str:
    return current_app.json.dumps(document, separators=(",", ":")) + "\n"


def _created(text: str) -> Response:
    return Response(text, 201, mimetype="application/json")
