"""Refusals of the API server: `Status` objects, and the exception that carries one."""

from __future__ import annotations

from typing import Any

REASONS = {
    400: "BadRequest",
    401: "Unauthorized",
    403: "Forbidden",
    404: "NotFound",
    405: "MethodNotAllowed",
    406: "NotAcceptable",
    409: "Conflict",
    410: "Expired",
    415: "UnsupportedMediaType",
    422: "Invalid",
    429: "TooManyRequests",
    500: "InternalError",
    502: "InternalError",
    503: "ServiceUnavailable",
    504: "Timeout",
}


class RequestRefused(Exception):
    """The API server refuses a request."""

    def __init__(
        self,
        code: int,
        message: str,
        reason: str | None = None,
        details: dict[str, Any] | None = None,
        headers: dict[str, str] | None = None,
        is_plain: bool = False,
    ) -> None:
        """`is_plain`: the response body is the message itself, without a `Status`."""
        super().__init__(message)
        self.is_plain = is_plain
        self.code = code
        self.headers = headers or {}
        self.status = status(code, message, reason, details)


def status(code: int, message: str, reason: str | None = None, details: dict[str, Any] | None = None) -> dict[str, Any]:
    body: dict[str, Any] = {
        "kind": "Status",
        "apiVersion": "v1",
        "metadata": {},
        "status": "Failure",
        "message": message,
        "reason": reason or REASONS[code],
        "code": code,
    }
    if details:
        body["details"] = details
    return body


def success(details: dict[str, Any] | None = None) -> dict[str, Any]:
    body: dict[str, Any] = {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success"}
    if details:
        body["details"] = details
    return body


def not_found(resource: str, name: str) -> RequestRefused:
    return RequestRefused(404, f'{resource} "{name}" not found', details={"name": name, "kind": resource})


def already_exists(resource: str, name: str) -> RequestRefused:
    details = {"name": name, "kind": resource}
    return RequestRefused(409, f'{resource} "{name}" already exists', "AlreadyExists", details)


def conflict(resource: str, name: str, reason: str) -> RequestRefused:
    message = f'Operation cannot be fulfilled on {resource} "{name}": {reason}'
    return RequestRefused(409, message, details={"name": name, "kind": resource})


def invalid(kind: str, name: str, causes: list[tuple[str, str, str]]) -> RequestRefused:
    """`causes` are (field, reason, message)."""
    texts = [f"{field}: {message}" for field, _, message in causes]
    text = texts[0] if len(texts) == 1 else "[" + ", ".join(texts) + "]"
    details = {
        "name": name,
        "kind": kind,
        "causes": [{"reason": reason, "message": message, "field": field} for field, reason, message in causes],
    }
    return RequestRefused(422, f'{kind} "{name}" is invalid: {text}', details=details)


def expired(message: str = "too old resource version") -> RequestRefused:
    return RequestRefused(410, message)


def forbidden(user: str, verb: str, resource: str, namespace: str | None, name: str | None) -> RequestRefused:
    subject = f'{resource} "{name}"' if name else resource
    where = f' in the namespace "{namespace}"' if namespace else " at the cluster scope"
    base = resource.partition("/")[0]
    message = f'{subject} is forbidden: User "{user}" cannot {verb} resource "{resource}" in API group ""{where}'
    details = {"kind": base, **({"name": name} if name else {})}
    return RequestRefused(403, message, details=details)
