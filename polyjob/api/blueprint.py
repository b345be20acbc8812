"""flask-smorest, bent to the documented API: bodies are read by the views, after access is checked; every operation
documents its errors as problems."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Sequence
from typing import Any

import flask_smorest
from flask import Flask, request
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
TAG = {"ETag": {"description": "Changes when what is shown does.", "schema": {"type": "string"}}}
IF_NONE_MATCH = {
    "name": "If-None-Match",
    "in": "header",
    "description": "The ETag of an earlier answer: while nothing has changed, the answer is 304 without a body.",
    "schema": {"type": "string"},
}
REPLAYED_HEADER = {REPLAYED: {"description": "`true` for an answer given before.", "schema": {"type": "string"}}}
RESEMBLANCE = 0.75
_OF_ALL = ("SERVICE_UNAVAILABLE",)
_WITH_KEY = ("UNAUTHORIZED", "FORBIDDEN", "NOT_FOUND")
_OF_WRITES = ("BAD_REQUEST", "CONTENT_TOO_LARGE", "UNSUPPORTED_MEDIA_TYPE")
_CODES = {
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
    """Adds what documents a view and changes nothing of it."""

    def takes(self, schema: type[Schema], *, required: bool = False) -> Callable[[View], View]:
        """The view reads a body like this."""
        content = {"application/json": {"schema": schema}}
        return self._documented(requestBody={"required": required, "content": content})

    def page(self, item: type[Schema], *, queries: bool = False) -> Callable[[View], View]:
        """The view answers with a page of such items, which may be asked for by `query` and `sort`."""
        parameters = paging.PARAMETERS + (paging.QUERY_PARAMETERS if queries else [])
        errors = {400: "BAD_REQUEST"} if queries else {}

        def decorate(view: View) -> View:
            documented = self._documented(parameters=parameters, responses=errors)(view)
            return self.response(200, page_of(item), headers=paging.LINK_HEADER)(documented)

        return decorate

    def tagged(self, view: View) -> View:
        """The answer has an ETag, and there is a 304."""
        responses = {200: {"headers": TAG}, 304: {"description": "It is as the ETag says.", "headers": TAG}}
        return self._documented(parameters=[IF_NONE_MATCH], responses=responses)(view)

    def once(self, schema: type[Schema]) -> Callable[[View], View]:
        """The view answers 201 with such a thing, made once for each Idempotency-Key."""

        def decorate(view: View) -> View:
            documented = self._documented(parameters=[PARAMETER], responses={422: "UNPROCESSABLE_CONTENT"})(view)
            return self.response(201, schema, headers=REPLAYED_HEADER)(documented)

        return decorate

    def nothing(self, status: int) -> Callable[[View], View]:
        """The view answers with this status and no body."""
        return self.response(status)

    def conflicts(self, view: View) -> View:
        """The state of the thing may not allow it."""
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
        """As `doc`, but parameters add to those that the view has."""

        def decorate(view: View) -> View:
            before = getattr(view, "_apidoc", {}).get("manual_doc", {}).get("parameters", [])
            return self.doc(parameters=[*before, *parameters], **members)(view)

        return decorate


class Api(flask_smorest.Api):
    """The OpenAPI document."""

    ERROR_SCHEMA = ProblemSchema
    DEFAULT_ERROR_RESPONSE_NAME = None
    """Every answer is documented by its status."""

    def _register_error_handlers(self) -> None:
        """Left to `polyjob.api.problems`."""

    def _register_responses(self) -> None:
        """As the parent does, with the media type of problems."""
        for name in _CODES:
            response = {"description": name.replace("_", " ").capitalize(), "schema": self.ERROR_SCHEMA}
            prepare_response(response, self.spec, MIMETYPE)
            self.spec.components.response(name, response, lazy=True)

    @requires(Access.OPEN)
    def _openapi_json(self) -> Any:
        """Serve the OpenAPI document."""
        return super()._openapi_json()

    def register_blueprint(self, blp: Any, **options: Any) -> None:
        if document_errors not in blp._prepare_doc_cbks:
            blp._prepare_doc_cbks.append(document_errors)
        super().register_blueprint(blp, **options)


def document_errors(doc: dict[str, Any], info: dict[str, Any], *, method: str, **kwargs: Any) -> dict[str, Any]:
    """Every operation has a name and an example of its body, and can end in these errors."""
    doc["operationId"] = info["operation"]
    for content in info.get("manual_doc", {}).get("requestBody", {}).get("content", {}).values():
        if info["operation"].partition("_by_")[0] in EXAMPLES and "example" not in content:
            content["example"] = EXAMPLES[info["operation"].partition("_by_")[0]]
    needs_key = info.get("manual_doc", {}).get("security") != []
    names = _OF_ALL + (_WITH_KEY if needs_key else ()) + (_OF_WRITES if method != "get" else ())
    responses = doc.setdefault("responses", {})
    for name in names:
        responses.setdefault(_CODES[name], name)
    return doc


def refuse_mistyped(view: View | None) -> None:
    """Raise Invalid for a query parameter that resembles one of the view's own.

    Any other unknown one is ignored: old clients and caches send parameters that polyjob does not have.
    """
    documented = getattr(view, "_apidoc", {}).get("manual_doc", {}).get("parameters", [])
    known = [parameter["name"] for parameter in documented if parameter["in"] == "query"]
    for name in request.args:
        close = (
            []
            if name in known
            else difflib.get_close_matches(name[:MAX_QUOTED_KEY_LENGTH], known, n=1, cutoff=RESEMBLANCE)
        )
        if close:
            raise Invalid(
                [Problem(shorten_key(name), f"Unknown parameter `{shorten_key(name)}`; did you mean `{close[0]}`?")]
            )


def make_api(app: Flask) -> Api:
    """The API of this app, without blueprints yet; its document is at `/openapi.json`."""
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
                        "description": "`token KEY`, in any case; `Bearer KEY` does as well.",
                    }
                }
            },
        },
    )
    return Api(app)
