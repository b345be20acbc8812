"""A request's body as a JSON object, whatever way it was sent."""

from __future__ import annotations

import json
from typing import Any

from flask import request
from werkzeug.exceptions import UnsupportedMediaType

from polyjob.errors import Invalid, Problem

FORMS = ("application/x-www-form-urlencoded", "multipart/form-data")


def read_body() -> dict[str, Any]:
    """The object in the body; an empty body is an empty object. JSON, or the fields of a form.

    JSON that comes as a form is read, too: curl says so of everything that it is told no type of. Raises Invalid,
    and werkzeug's errors for a type that is not taken and a body that is too large.
    """
    kind = request.mimetype
    if kind == "multipart/form-data":
        return request.form.to_dict()
    if kind and kind not in FORMS and kind != "application/json" and not kind.endswith("+json"):
        if not request.get_data():
            return {}
        raise UnsupportedMediaType(f"Unsupported media type `{kind}` in request; send `application/json`.")
    data = request.get_data(cache=True, parse_form_data=False)
    if kind in FORMS and data.lstrip()[:1] != b"{":
        return request.form.to_dict()
    return _parse(data)


def _parse(data: bytes) -> dict[str, Any]:
    if not data.strip():
        return {}
    try:
        body = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise Invalid([Problem("", f"JSON parse error - {error}")]) from None
    if not isinstance(body, dict):
        raise Invalid([Problem("", "The body is not an object.")])
    return body
