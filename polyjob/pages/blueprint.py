"""The blueprint of the pages: template filters, security headers, the signed-in user, ETags, and error pages."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from flask import Blueprint, Response, current_app, render_template, request
from peewee import PeeweeException
from werkzeug.exceptions import HTTPException
from werkzeug.wrappers import Response as AnyResponse

import polyjob
from polyjob.api.problems import status_of
from polyjob.api.request_context import me
from polyjob.auth import identity as auth
from polyjob.auth import permissions, sessions
from polyjob.errors import Forbidden, NotFound, PolyjobError, Unavailable
from polyjob.formatting import format_duration, format_size, status_message, status_word
from polyjob.pages import forms, logs, sign_in
from polyjob.pages.job_rows import job_rows
from polyjob.pages.markup import inline_code, name_of, status_badge, title_of, took, when
from polyjob.pages.timeline import elapsed
from polyjob.pages.urls import build_url, job_url, own_path, page_url, project_url

CONTENT_SECURITY_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; frame-src 'self'; "
    "base-uri 'none'; form-action 'self'; frame-ancestors {}"
)
STALE_PAGE = "Nothing was changed. Go back, reload the page, and try again."
FOREIGN_FORM = (
    "This form came from a page at another address, so nothing was changed. If it was a page of this server, ask the "
    "administrator to set POLYJOB_PUBLIC_URL to the address that browsers use."
)


def template_folder() -> Path:
    """Return the templates of the installed package, or those of the checkout."""
    packaged = Path(__file__).parent.parent / "templates"
    return packaged if packaged.is_dir() else packaged.parent.parent / "templates"


blp = Blueprint(
    "pages",
    __name__,
    template_folder=str(template_folder()),
    static_folder=str(Path(__file__).parent.parent / "static"),
    static_url_path="/static",
)
blp.add_app_template_filter(format_duration, "duration")
blp.add_app_template_filter(format_size, "size")
for _filter in (inline_code, job_rows, name_of, status_badge, status_message, status_word, title_of, took, when):
    blp.add_app_template_filter(_filter)
blp.before_request(sessions.renew_cookie)
for _helper in (
    build_url,
    job_url,
    own_path,
    page_url,
    project_url,
    elapsed,
    sessions.csrf_token,
    forms.new_submission_id,
):
    blp.add_app_template_global(_helper)


@blp.app_context_processor
def _user_variables() -> dict[str, Any]:
    identity = None
    with contextlib.suppress(PeeweeException):  # the page that reports a broken database needs no user
        identity = auth.current_identity()
    may_view_status = identity is not None and permissions.allows("pages.server_status", identity)
    return {"user": identity.user if identity else None, "may_view_status": may_view_status}


@blp.after_request
def secure(response: AnyResponse) -> AnyResponse:
    """Add the security headers: only this server's own scripts and styles, no other origins, no caching of pages."""
    ancestors = "'self'" if logs.is_framed() else "'none'"
    response.headers.setdefault("Content-Security-Policy", CONTENT_SECURITY_POLICY.format(ancestors))
    response.headers["X-Content-Type-Options"] = "nosniff"
    response.headers["Referrer-Policy"] = "same-origin"
    if request.endpoint != "pages.static":
        response.headers["Cache-Control"] = "private, no-store"
    return response


def render_with_etag(template: str, *state: object, context: Callable[[], Mapping[str, Any]]) -> AnyResponse:
    """Render a page with an ETag made of `state`; return 304, without calling `context`, if the browser has it already.

    `state` must be read before the `context`: then an ETag can be too old, but never too new.
    """
    parts = (polyjob.__version__, me().id, request.full_path, *state)
    tag = hashlib.sha256(repr(parts).encode()).hexdigest()[:32]
    if request.if_none_match.contains_weak(tag):
        response = Response(status=304)
    else:
        response = current_app.make_response(render_template(template, **context()))
    response.set_etag(tag, weak=True)
    return response


@blp.errorhandler(PolyjobError)
@blp.errorhandler(HTTPException)
def error_page(error: PolyjobError | HTTPException) -> AnyResponse:
    """Return the page for an error. The app also calls it for paths outside this blueprint."""
    if isinstance(error, NotFound) or getattr(error, "code", None) == 404:
        return message_page(404, "Not found", "This page does not exist, or you have no access to it.")
    if isinstance(error, auth.Unauthenticated):
        return secure(sign_in.sign_in_required())
    if isinstance(error, sessions.WrongCsrfToken):
        return message_page(403, "Page out of date", STALE_PAGE)
    if isinstance(error, sessions.ForeignOrigin):
        return message_page(403, "Form from another site", FOREIGN_FORM)
    if isinstance(error, HTTPException):
        return message_page(error.code or 500, error.name, error.description or "")
    if isinstance(error, Forbidden):
        return message_page(403, "Not allowed", str(error))
    if isinstance(error, Unavailable):
        response = message_page(503, "Temporarily unavailable", str(error))
        response.headers["Retry-After"] = str(error.retry_after)
        return response
    return message_page(status_of(error), "Request failed", str(error))


def message_page(code: int, title: str, text: str) -> AnyResponse:
    page = render_template("message.html", code=code, title=title, text=text)
    return secure(Response(page, code, mimetype="text/html"))
