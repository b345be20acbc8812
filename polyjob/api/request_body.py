"""The body of a request: its limits, and reading it as a JSON object or a form."""

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
_DECODER = json.JSONDecoder(object_pairs_hook=reject_duplicate_keys)
"""`json.loads` with a hook would create one for each body."""
_BYTE_ORDER_MARKS = (codecs.BOM_UTF8, codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


class Request(flask.Request):
    """A request whose body is refused if it breaks a rule. A body is never cut off at a limit.

    * 413: it is larger than the limit, also if its length is not announced.
    * 415: it is encoded, for example with gzip.
    * 401: the server would have to wait for it, and the request has no credentials.

    This holds for every reader of the body: forms, JSON, logs and uploads.
    """

    def get_data(self, cache: bool = True, as_text: bool = False, parse_form_data: bool = False) -> Any:
        """Return the body. Raises what `stream` raises."""
        if not (as_text or parse_form_data) and "_cached_data" not in vars(self) and self._has_small_body():
            self._cached_data: bytes = self.environ["wsgi.input"].read(int(self.environ["CONTENT_LENGTH"]))
            return self._cached_data
        return super().get_data(cache, as_text, parse_form_data)  # type: ignore[call-overload]

    def _has_small_body(self) -> bool:
        """Return whether the worker has received the complete body, and no rule of `stream` can refuse it."""
        limit = self.max_content_length
        return (
            self.environ.get(BODY_IS_LATE) is False
            and self.environ.get("CONTENT_LENGTH", "").isdecimal()
            and "HTTP_CONTENT_ENCODING" not in self.environ
            and "stream" not in vars(self)
            and (limit is None or limit >= MAX_SMALL_BODY)
        )

    @cached_property
    def stream(self) -> IO[bytes]:
        """The body as a stream.

        Raises UnsupportedMediaType for an encoded body, Unauthenticated for a larger or chunked one without
        credentials, and RequestEntityTooLarge here or when the stream is read.
        """
        if self.environ.get(BODY_IS_LATE) and identity.current_identity() is None:
            raise identity.Unauthenticated(
                f"Requests without credentials must have a `Content-Length` of at most {MAX_SMALL_BODY} bytes."
            )
        encoding = self.headers.get("Content-Encoding", "identity").strip().lower()
        if encoding not in ("identity", ""):
            raise UnsupportedMediaType(
                f"`Content-Encoding: {encoding[:40]}` is not supported; send the body without an encoding."
            )
        limit = self.max_content_length
        stream = super().stream
        if limit is None or "wsgi.input_terminated" not in self.environ:
            return stream
        return cast(IO[bytes], _Body(self.environ["wsgi.input"], limit, is_max=True))


class _Body(LimitedStream):
    """Raises at the limit. werkzeug's own stream ends there, and raises only at the next read."""

    def on_exhausted(self) -> None:
        if self._stream.read(1):
            raise RequestEntityTooLarge

    def readall(self) -> bytes:
        data = super().readall()
        if data and self.is_exhausted:
            self.on_exhausted()
        return data


def read_body() -> dict[str, Any]:
    """Return the JSON object in the body, or the fields of a form. An empty body is an empty object.

    JSON that is declared as a form is read as JSON, because curl declares every body as a form by default. Raises
    Invalid, UnsupportedMediaType for another type, and RequestEntityTooLarge.
    """
    mimetype = request.mimetype
    if mimetype == "multipart/form-data":
        return request.form.to_dict()
    if mimetype and mimetype not in FORMS and mimetype != "application/json" and not mimetype.endswith("+json"):
        if not request.get_data():
            return {}
        raise UnsupportedMediaType(f"Unsupported media type `{mimetype}` in request; send `application/json`.")
    data = request.get_data(cache=True, parse_form_data=False)
    if mimetype in FORMS and not looks_like_json(data, b"{"):
        return request.form.to_dict()
    return _parse(data)


def looks_like_json(data: bytes, first: bytes) -> bool:
    """Return whether a body that is declared as a form is JSON, which begins with one of these bytes. No form does."""
    return data.startswith(_BYTE_ORDER_MARKS) or data.lstrip()[:1] in [bytes([byte]) for byte in first]


def _parse(data: bytes) -> dict[str, Any]:
    if not data.strip():
        return {}
    try:
        body = _DECODER.decode(data.decode(json.detect_encoding(data), "surrogatepass"))
    except DuplicateKey as error:
        raise Invalid([Problem("", str(error))]) from None
    except (ValueError, RecursionError) as error:
        raise Invalid([Problem("", f"JSON parse error - {error}")]) from None
    if not isinstance(body, dict):
        raise Invalid([Problem("", "The body must be a JSON object.")])
    return body
