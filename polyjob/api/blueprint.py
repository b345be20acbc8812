"""flask-smorest, adapted to the documented API.

Views read their bodies themselves, after access is checked. Every operation documents its errors as problems.
"""

from __future__ import annotations

import difflib
import json
import threading
from collections.abc import Callable, Sequence
from typing import Any

import flask_smorest
from flask import Flask, Response, request
from flask_smorest.utils import prepare_response
from marshmallow import Schema

from polyjob.api import paging
from polyjob.api.examples import EXAMPLES
from polyjob.api.idempotency import PARAMETER, REPLAYED
from polyjob.api.problems import MIMETYPE
from polyjob.api.schemas.common import ProblemSchema, page_of
from polyjob.auth import permissions
from polyjob.auth.permissions import Access, requires
from polyjob.errors import Invalid, Problem
from polyjob.jobconfig.checks import MAX_QUOTED_KEY_LENGTH, shorten_key

View = Callable[..., Any]
ETAG_HEADER = {"ETag": {"description": "Changes when the response changes.", "schema": {"type": "string"}}}
IF_NONE_MATCH = {
    "name": "If-None-Match",
    "in": "header",
    "description": "The ETag of an earlier response. If nothing has changed, the response is 304 without a body.",
    "schema": {"type": "string"},
}
REPLAYED_HEADER = {REPLAYED: {"description": "`true` if this is a repeated response.", "schema": {"type": "string"}}}
MIN_SIMILARITY = 0.75
"""Similarity of an unknown query parameter to a known one, from 0 to 1, above which it counts as misspelled."""
_COMMON_ERRORS = ("SERVICE_UNAVAILABLE",)
_ACCESS_ERRORS = ("UNAUTHORIZED", "FORBIDDEN", "NOT_FOUND")
_BODY_ERRORS = ("BAD_REQUEST", "CONTENT_TOO_LARGE", "UNSUPPORTED_MEDIA_TYPE")
_ERROR_STATUSES = {
    "BAD_REQUEST": 400,
    "UNAUTHORIZED": 401,
    "FORBIDDEN": 403,
    "NOT_FOUND": 404,
    "CONTENT_TOO_LARGE": 413,
    "UNSUPPORTED_MEDIA_TYPE": 415,
    "SERVICE_UNAVAILABLE": 503,
    "CONFLICT": 409,
    "UNPROCESSABLE_CONTENT": 422,
    "TOO_MANY_REQUESTS": 429,
}


class Blueprint(flask_smorest.Blueprint):
    """A blueprint with decorators that document views. They do not change what a view does."""

    def reads(self, schema: type[Schema], *, required: bool = False) -> Callable[[View], View]:
        """Document the body that the view reads."""
        content = {"application/json": {"schema": schema}}
        return self._documented(requestBody={"required": required, "content": content})

    def page(self, item: type[Schema], *, queries: bool = False) -> Callable[[View], View]:
        """Document that the view returns a page of items. With `queries`, it takes `query`, `sort` and `cursor`."""
        parameters = paging.PARAMETERS + (paging.QUERY_PARAMETERS if queries else [])
        errors = {400: "BAD_REQUEST"} if queries else {}

        def decorate(view: View) -> View:
            documented = self._documented(parameters=parameters, responses=errors)(view)
            return self.response(200, page_of(item), headers=paging.LINK_HEADER)(documented)

        return decorate

    def has_etag(self, view: View) -> View:
        """Document that the response has an ETag, and may be a 304."""
        responses = {
            200: {"headers": ETAG_HEADER},
            304: {"description": "Unchanged since the ETag.", "headers": ETAG_HEADER},
        }
        return self._documented(parameters=[IF_NONE_MATCH], responses=responses)(view)

    def creates_once(self, schema: type[Schema]) -> Callable[[View], View]:
        """Document that the view returns 201 and what it creates, once for each `Idempotency-Key`."""

        def decorate(view: View) -> View:
            documented = self._documented(parameters=[PARAMETER], responses={422: "UNPROCESSABLE_CONTENT"})(view)
            return self.response(201, schema, headers=REPLAYED_HEADER)(documented)

        return decorate

    def empty(self, status: int) -> Callable[[View], View]:
        """Document that the view returns this status without a body."""
        return self.response(status)

    def may_conflict(self, view: View) -> View:
        """Document that the view may return 409."""
        return self._documented(responses={409: "CONFLICT"})(view)

    def _store_endpoint_docs(self, endpoint: str, obj: Any, parameters: Any, tags: Any, **options: Any) -> None:
        """Store the docs of the view, also the name of each operation and whether it needs a token."""
        permission = permissions.declared(obj)
        if permission is not None and permission.access is Access.OPEN:
            obj = self._documented(security=[])(obj)
        super()._store_endpoint_docs(endpoint, obj, parameters, tags, **options)
        documents = [(method, doc) for method, doc in self._docs[endpoint].items() if method != "parameters"]
        for index, (method, doc) in enumerate(documents):
            doc["operation"] = endpoint if index == 0 else f"{endpoint}_by_{method}"

    def _documented(self, parameters: Sequence[dict[str, Any]] = (), **members: Any) -> Callable[[View], View]:
        """Document members like `doc`, but add the parameters to those that the view already has."""

        def decorate(view: View) -> View:
            existing = getattr(view, "_apidoc", {}).get("manual_doc", {}).get("parameters", [])
            return self.doc(parameters=[*existing, *parameters], **members)(view)

        return decorate


class Api(flask_smorest.Api):
    """The API with its OpenAPI document, which is composed when it is first requested and not at each start."""

    ERROR_SCHEMA = ProblemSchema
    DEFAULT_ERROR_RESPONSE_NAME = None
    """No default: each error is documented by its status."""

    def __init__(self, app: Flask) -> None:
        super().__init__(app)
        self._undocumented: list[Blueprint] = []
        self._lock = threading.Lock()

    def _register_error_handlers(self) -> None:
        """Register none: `polyjob.api.problems` does."""

    def _register_responses(self) -> None:
        """Register the error responses, with the media type of problems."""
        for name in _ERROR_STATUSES:
            response = {"description": name.replace("_", " ").capitalize(), "schema": self.ERROR_SCHEMA}
            prepare_response(response, self.spec, MIMETYPE)
            self.spec.components.response(name, response, lazy=True)

    @requires(Access.OPEN)
    def _openapi_json(self) -> Any:
        """Serve the OpenAPI document, with the address of this server as the client reaches it."""
        document = {**self.document(), "servers": [{"url": paging.root() or "/"}]}
        return Response(json.dumps(document, indent=2), mimetype="application/json")

    def register_blueprint(self, blp: Any, **options: Any) -> None:
        """Register the views now, and document them with the first request for the document."""
        if document_errors not in blp._prepare_doc_cbks:
            blp._prepare_doc_cbks.append(document_errors)
        self._app.extensions["flask-smorest"]["blp_name_to_api"][blp.name] = self
        self._app.register_blueprint(blp, **options)
        self._undocumented.append(blp)

    def document(self) -> dict[str, Any]:
        """Return the OpenAPI document."""
        self._document_blueprints()
        document: dict[str, Any] = self.spec.to_dict()
        return document

    def _document_blueprints(self) -> None:
        with self._lock:
            for blp in self._undocumented:
                blp.register_views_in_doc(self, self._app, self.spec, name=blp.name, parameters=None)
                self.spec.tag({"name": blp.name, "description": blp.description})
            self._undocumented.clear()


def document_errors(doc: dict[str, Any], info: dict[str, Any], *, method: str, **kwargs: Any) -> dict[str, Any]:
    """Add the id, the errors and an example of the body to an operation."""
    doc["operationId"] = info["operation"]
    for content in info.get("manual_doc", {}).get("requestBody", {}).get("content", {}).values():
        if info["operation"].partition("_by_")[0] in EXAMPLES and "example" not in content:
            content["example"] = EXAMPLES[info["operation"].partition("_by_")[0]]
    needs_token = info.get("manual_doc", {}).get("security") != []
    names = _COMMON_ERRORS + (_ACCESS_ERRORS if needs_token else ()) + (_BODY_ERRORS if method != "get" else ())
    responses = doc.setdefault("responses", {})
    for name in names:
        responses.setdefault(_ERROR_STATUSES[name], name)
    return doc


def refuse_misspelled(view: View | None) -> None:
    """Raise Invalid for a query parameter that looks like a misspelled one of the view.

    Other unknown parameters are ignored, because old clients and caches send some.
    """
    if not request.query_string:
        return
    documented = getattr(view, "_apidoc", {}).get("manual_doc", {}).get("parameters", [])
    known_names = [parameter["name"] for parameter in documented if parameter["in"] == "query"]
    for name in request.args:
        if name in known_names:
            continue
        close = difflib.get_close_matches(name[:MAX_QUOTED_KEY_LENGTH], known_names, n=1, cutoff=MIN_SIMILARITY)
        if close:
            raise Invalid(
                [Problem(shorten_key(name), f"Unknown parameter `{shorten_key(name)}`; did you mean `{close[0]}`?")]
            )


def make_api(app: Flask) -> Api:
    """Create the API of the app, without blueprints. Its OpenAPI document is at `/openapi.json`."""
    app.config.update(
        API_TITLE="polyjob",
        API_VERSION="v1",
        OPENAPI_VERSION="3.1.0",
        OPENAPI_URL_PREFIX="/",
        OPENAPI_JSON_PATH="openapi.json",
        API_SPEC_OPTIONS={
            "security": [{"token": []}],
            "components": {
                "securitySchemes": {
                    "token": {
                        "type": "apiKey",
                        "in": "header",
                        "name": "Authorization",
                        "description": "`token TOKEN` or `Bearer TOKEN`; the first word in any case.",
                    }
                }
            },
        },
    )
    return Api(app)
