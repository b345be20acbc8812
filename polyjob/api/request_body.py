"""A request's body: within its limit, and as a JSON object, whatever way it was sent."""

from __future__ import annotations

import codecs
import json
from typing import IO, Any, cast

import flask
from flask import request
from werkzeug.exceptions import RequestEntityTooLarge, UnsupportedMediaType
from werkzeug.utils import cached_property
from werkzeug.wsgi import LimitedStream

from polyjob.auth import identity
from polyjob.connections import BODY_IS_LATE, MAX_SMALL_BODY
from polyjob.errors import Invalid, Problem
from polyjob.jobconfig.checks import DuplicateKey, reject_duplicate_keys

FORMS = ("application/x-www-form-urlencoded", "multipart/form-data")
_BYTE_ORDER_MARKS = (codecs.BOM_UTF8, codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


class Request(flask.Request):
    """A request whose body is refused, never cut: 413 beyond its limit, however its length is announced, and 415 for
    an encoding. A stranger's is refused, 401, where it would have to be waited for. This applies to whoever reads the
    body: forms, JSON, logs and uploads."""

    @cached_property
    def stream(self) -> IO[bytes]:
        """Raises UnsupportedMediaType for an encoded body, Unauthenticated for a stranger's that is larger or chunked,
        and RequestEntityTooLarge here or when it is read."""
        if self.environ.get(BODY_IS_LATE) and identity.current_identity() is None:
            raise identity.Unauthenticated(
                f"Without credentials, send at most {MAX_SMALL_BODY} bytes, with a `Content-Length`."
            )
        encoding = self.headers.get("Content-Encoding", "identity").strip().lower()
        if encoding not in ("identity", ""):
            raise UnsupportedMediaType(f"`Content-Encoding: {encoding[:40]}` is not supported; send the body as it is.")
        limit = self.max_content_length
        stream = super().stream
        if limit is None or "wsgi.input_terminated" not in self.environ:
            return stream
        return cast(IO[bytes], _Body(self.environ["wsgi.input"], limit, is_max=True))


class _Body(LimitedStream):
    """werkzeug's own ends at the limit, and raises only for a second look."""

    def on_exhausted(self) -> None:
        if self._stream.read(1):
            raise RequestEntityTooLarge

    def readall(self) -> bytes:
        data = super().readall()
        if data and self.is_exhausted:
            self.on_exhausted()
        return data


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
    if kind in FORMS and not looks_like_json(data, b"{"):
        return request.form.to_dict()
    return _parse(data)


def looks_like_json(data: bytes, first: bytes) -> bool:
    """Whether a body that came as a form is JSON that begins with one of these bytes; no form begins so."""
    return data.startswith(_BYTE_ORDER_MARKS) or data.lstrip()[:1] in [bytes([byte]) for byte in first]


def _parse(data: bytes) -> dict[str, Any]:
    if not data.strip():
        return {}
    try:
        body = json.loads(data, object_pairs_hook=reject_duplicate_keys)
    except DuplicateKey as error:
        raise Invalid([Problem("", str(error))]) from None
    except (ValueError, RecursionError) as error:
        raise Invalid([Problem("", f"JSON parse error - {error}")]) from None
    if not isinstance(body, dict):
        raise Invalid([Problem("", "The body is not an object.")])
    return body
