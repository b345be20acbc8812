"""Errors as `application/problem+json`: refusals of the domain, errors of Flask and its router, and defects.

Old clients print the whole body, so it is short: `detail`, and for each wrong field its name with the messages, or
`non_field_errors`. A client whose `Accept` includes `application/problem+json` receives all members of RFC 9457. There,
`errors` has a JSON pointer for each problem, and the names of the fields are left out.
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
_RESERVED_MEMBERS = frozenset({"detail"})
_DISK_FULL_ERRNOS = frozenset({errno.ENOSPC, errno.EDQUOT})
_DATABASE_ERROR_NAMES = (
    "SQLITE_FULL",
    "SQLITE_IOERR",
    "SQLITE_BUSY",
    "SQLITE_LOCKED",
    "SQLITE_CANTOPEN",
    "SQLITE_READONLY",
)

logger = logging.getLogger(__name__)


def problem_response(
    status: int, detail: str, problems: Iterable[Problem] = (), headers: Mapping[str, str] | None = None
) -> Response:
    """Return the response for an error."""
    problems = list(problems)
    body: dict[str, Any] = {"detail": detail}
    if any(kind == MIMETYPE for kind, _ in request.accept_mimetypes):
        body = {"type": "about:blank", "title": HTTPStatus(status).phrase, "status": status} | body
        body |= {"errors": [_with_pointer(item) for item in problems]} if problems else {}
    else:
        body |= _by_field(problems)
    response = Response(json.dumps(body, ensure_ascii=False) + "\n", status, mimetype=MIMETYPE)
    response.headers.update(headers or {})
    response.headers["Cache-Control"] = "no-store"
    return response


def _with_pointer(item: Problem) -> dict[str, str]:
    """Return an item of `errors`. A pointer that is not a JSON pointer is the name of a query parameter."""
    kind = "pointer" if item.pointer == "" or item.pointer.startswith("/") else "parameter"
    return {kind: item.pointer, "detail": item.detail}


def _by_field(problems: Iterable[Problem]) -> dict[str, list[str]]:
    """Group the messages by field of the body. A message begins with the path below that field."""
    fields: dict[str, list[str]] = {}
    for item in problems:
        name, _, path = item.pointer.removeprefix("/").partition("/")
        message = f"{path.replace('/', '.')}: {item.detail}" if path else item.detail
        fields.setdefault(name or "non_field_errors", []).append(message)
    return {name: messages for name, messages in fields.items() if name not in _RESERVED_MEMBERS}


def _summary(problems: list[Problem]) -> str:
    """Return the first problem and the number of other ones, or an empty text."""
    if not problems:
        return ""
    first = f"{problems[0].pointer}: {problems[0].detail}" if problems[0].pointer else problems[0].detail
    return first if len(problems) == 1 else f"{first} ({len(problems) - 1} more)"


def status_of(error: PolyjobError) -> int:
    """Return the HTTP status of an error, 500 if it is not a known one."""
    return next((code for kind, code in _STATUSES.items() if isinstance(error, kind)), 500)


def refusal_response(error: PolyjobError) -> Response:
    status = status_of(error)
    if status == 500:
        return defect_response(error)
    headers = {}
    retry_after = getattr(error, "retry_after", None)
    if retry_after is not None:
        headers["Retry-After"] = str(retry_after)
    if status == 401:
        headers["WWW-Authenticate"] = "Token"
    problems = list(getattr(error, "problems", ()))
    return problem_response(status, _summary(problems) or str(error), problems, headers)


def http_error_response(error: HTTPException) -> AnyResponse:
    """Return the response for an error of the router, Flask or Werkzeug."""
    status = error.code or 500
    if error.response is not None or status < 400:
        return error.get_response(request.environ)
    headers = {name: value for name, value in error.get_headers() if name not in ("Content-Type", "Content-Length")}
    return problem_response(status, _detail(error, status), headers=headers)


def _detail(error: HTTPException, status: int) -> str:
    if status == 404:
        return unsupported.hint(request.path) or "Not found."
    if status == 500:
        return "Internal server error. The server's log has the details."
    if isinstance(error, MethodNotAllowed):
        return f'Method "{request.method}" not allowed.'
    if isinstance(error, RequestEntityTooLarge):
        return f"The body is larger than {request.max_content_length} bytes."
    return error.description or error.name


def as_unavailable(error: OSError | PeeweeException) -> Unavailable | None:
    """Return the error for a full disk or a database that cannot be used now. Anything else is a defect: None."""
    code = getattr(error.__cause__, "sqlite_errorname", None) or getattr(error, "sqlite_errorname", None) or ""
    if getattr(error, "errno", None) in _DISK_FULL_ERRNOS or code == "SQLITE_FULL":
        logger.error("the disk is full: %s", error)
        return Unavailable("The server's disk is full; nothing was changed.", 60)
    if code.startswith(_DATABASE_ERROR_NAMES):
        logger.error("the database cannot be used: %s", error)
        return Unavailable("The server cannot use its database now; nothing was changed.")
    return None


def fault_response(error: OSError | PeeweeException) -> Response:
    unavailable = as_unavailable(error)
    return refusal_response(unavailable) if unavailable else defect_response(error)


def defect_response(error: BaseException) -> Response:
    """Log the error, and return a response that reveals nothing of it."""
    log_defect(error)
    return problem_response(500, "Internal server error. The server's log has the details.")


def log_defect(error: BaseException) -> None:
    """Log the error with its traceback. Raises it again in tests."""
    if current_app.testing:
        raise error
    logger.error("%s %s failed", request.method, request.path, exc_info=error)
