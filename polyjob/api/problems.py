"""Errors as `application/problem+json`: each refusal of the layers below, of the router and of Flask, and defects.

Old clients print the whole body, so it is short: `detail`, and each wrong field's name with its messages, or
`non_field_errors`. A client whose `Accept` names `application/problem+json` receives every member of RFC 9457, and
`errors` with a JSON pointer for each problem in place of the fields' names.
"""

from __future__ import annotations

import errno
import json
import logging
from collections.abc import Iterable, Mapping
from http import HTTPStatus
from typing import Any

from flask import Response, current_app, request
from peewee import PeeweeException
from werkzeug.exceptions import HTTPException, MethodNotAllowed, RequestEntityTooLarge
from werkzeug.wrappers import Response as AnyResponse

from polyjob.api import unsupported
from polyjob.auth.identity import Unauthenticated
from polyjob.auth.throttle import Throttled
from polyjob.errors import Conflict, Forbidden, Invalid, NotFound, PolyjobError, Problem, TooLarge, Unavailable
from polyjob.services.idempotency import KeyReused

MIMETYPE = "application/problem+json"
_STATUSES: dict[type[PolyjobError], int] = {
    Invalid: 400,
    Unauthenticated: 401,
    Forbidden: 403,
    NotFound: 404,
    Conflict: 409,
    TooLarge: 413,
    KeyReused: 422,
    Throttled: 429,
    Unavailable: 503,
}
_OWN_MEMBERS = frozenset({"detail"})
_NO_DISK = frozenset({errno.ENOSPC, errno.EDQUOT})
_NO_DATABASE = ("SQLITE_FULL", "SQLITE_IOERR", "SQLITE_BUSY", "SQLITE_LOCKED", "SQLITE_CANTOPEN", "SQLITE_READONLY")

logger = logging.getLogger(__name__)


def problem(
    status: int, detail: str, problems: Iterable[Problem] = (), headers: Mapping[str, str] | None = None
) -> Response:
    """The answer for an error."""
    problems = list(problems)
    body: dict[str, Any] = {"detail": detail}
    if any(kind == MIMETYPE for kind, _ in request.accept_mimetypes):
        body = {"type": "about:blank", "title": HTTPStatus(status).phrase, "status": status} | body
        body |= {"errors": [_pointed(item) for item in problems]} if problems else {}
    else:
        body |= _by_field(problems)
    response = Response(json.dumps(body, ensure_ascii=False) + "\n", status, mimetype=MIMETYPE)
    response.headers.update(headers or {})
    response.headers["Cache-Control"] = "no-store"
    return response


def _pointed(item: Problem) -> dict[str, str]:
    """What does not look like a pointer is a query parameter's name."""
    kind = "pointer" if item.pointer == "" or item.pointer.startswith("/") else "parameter"
    return {kind: item.pointer, "detail": item.detail}


def _by_field(problems: Iterable[Problem]) -> dict[str, list[str]]:
    """Field of the body → its messages, each beginning with the path below that field."""
    fields: dict[str, list[str]] = {}
    for item in problems:
        name, _, path = item.pointer.removeprefix("/").partition("/")
        message = f"{path.replace('/', '.')}: {item.detail}" if path else item.detail
        fields.setdefault(name or "non_field_errors", []).append(message)
    return {name: messages for name, messages in fields.items() if name not in _OWN_MEMBERS}


def _in_words(problems: list[Problem]) -> str:
    """The first problem, and how many more there are; empty without one."""
    if not problems:
        return ""
    first = f"{problems[0].pointer}: {problems[0].detail}" if problems[0].pointer else problems[0].detail
    return first if len(problems) == 1 else f"{first} ({len(problems) - 1} more)"


def status_of(error: PolyjobError) -> int:
    """500 for one that nobody foresaw."""
    return next((code for kind, code in _STATUSES.items() if isinstance(error, kind)), 500)


def answer_refusal(error: PolyjobError) -> Response:
    status = status_of(error)
    if status == 500:
        return answer_defect(error)
    headers = {}
    retry_after = getattr(error, "retry_after", None)
    if retry_after is not None:
        headers["Retry-After"] = str(retry_after)
    if status == 401:
        headers["WWW-Authenticate"] = "Token"
    problems = list(getattr(error, "problems", ()))
    return problem(status, _in_words(problems) or str(error), problems, headers)


def answer_http(error: HTTPException) -> AnyResponse:
    """The router's, Flask's and werkzeug's own errors."""
    status = error.code or 500
    if error.response is not None or status < 400:
        return error.get_response(request.environ)
    headers = {name: value for name, value in error.get_headers() if name not in ("Content-Type", "Content-Length")}
    return problem(status, _detail(error, status), headers=headers)


def _detail(error: HTTPException, status: int) -> str:
    if status == 404:
        return unsupported.hint(request.path) or "Not found."
    if status == 500:
        return "The server has failed at this; its log says why."
    if isinstance(error, MethodNotAllowed):
        return f'Method "{request.method}" not allowed.'
    if isinstance(error, RequestEntityTooLarge):
        return f"The body is larger than the {request.max_content_length} bytes that are taken."
    return error.description or error.name


def refusal_of(error: OSError | PeeweeException) -> Unavailable | None:
    """A disk that is full or a database that is busy is for the moment; anything else is a defect: None."""
    code = getattr(error.__cause__, "sqlite_errorname", None) or getattr(error, "sqlite_errorname", None) or ""
    if getattr(error, "errno", None) in _NO_DISK or code == "SQLITE_FULL":
        logger.error("the disk is full: %s", error)
        return Unavailable("The server's disk is full; nothing was changed.", 60)
    if code.startswith(_NO_DATABASE):
        logger.error("the database cannot be used: %s", error)
        return Unavailable("The server's database cannot be used now; nothing was changed.")
    return None


def answer_fault(error: OSError | PeeweeException) -> Response:
    refusal = refusal_of(error)
    return answer_refusal(refusal) if refusal else answer_defect(error)


def answer_defect(error: BaseException) -> Response:
    """Nothing of the error but in the log."""
    if current_app.testing:
        raise error
    logger.error("%s %s failed", request.method, request.path, exc_info=error)
    return problem(500, "The server has failed at this; its log says why.")
