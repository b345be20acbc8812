"""The blueprint of the pages: what every page is served with, who asks for it, and what is said when it cannot be."""

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
from polyjob.auth import identity as auth
from polyjob.auth import permissions
from polyjob.auth import sessions as browsers
from polyjob.clock import now
from polyjob.db.models import User
from polyjob.errors import Forbidden, NotFound, PolyjobError, Unavailable
from polyjob.pages import formatting, forms, logs, sessions
from polyjob.pages.job_page import build_url, duration, job_url, project_url

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; frame-src 'self'; "
    "base-uri 'none'; form-action 'self'; frame-ancestors {}"
)
FOREIGN = (
    "This came from a page of another address, so nothing was done. If it was a page of this server, whoever runs it "
    "has to set POLYJOB_PUBLIC_URL to the address that browsers use."
)


def template_folder() -> Path:
    """The installed package's own folder, else the checkout's."""
    packaged = Path(__file__).parent.parent / "templates"
    return packaged if packaged.is_dir() else packaged.parent.parent / "templates"


blp = Blueprint(
    "pages",
    __name__,
    template_folder=str(template_folder()),
    static_folder=str(Path(__file__).parent.parent / "static"),
    static_url_path="/static",
)
blp.add_app_template_filter(formatting.lasting, "lasting")
blp.add_app_template_filter(formatting.size, "size")
blp.add_app_template_filter(formatting.with_code, "with_code")
blp.add_app_template_filter(lambda moment: formatting.ago(moment, now()), "ago")
blp.before_request(browsers.renew)
for _helper in (build_url, duration, job_url, project_url, formatting.shape_of, browsers.csrf_token, forms.new_once):
    blp.add_app_template_global(_helper)


@blp.app_context_processor
def _visitor() -> dict[str, Any]:
    user, administers = None, False
    with contextlib.suppress(PeeweeException):  # the page that says so needs no user
        user = auth.current_user()
        administers = user is not None and may_administer()
    return {"user": user, "administers": administers}


@blp.after_request
def secure(response: AnyResponse) -> AnyResponse:
    """What every page is served with: no script or style but our own, nothing from elsewhere, nothing kept."""
    response.headers.setdefault("Content-Security-Policy", POLICY.format("'self'" if logs.is_framed() else "'none'"))
    response.headers["X-Content-Type-Options"] = "nosniff"
    response.headers["Referrer-Policy"] = "same-origin"
    if request.endpoint != "pages.static":
        response.headers["Cache-Control"] = "private, no-store"
    return response


def person() -> User:
    """Who asks. Raises Unauthenticated where nobody is signed in."""
    user = auth.current_user()
    if user is None:
        raise auth.Unauthenticated("Nobody is signed in.")
    return user


def may_administer() -> bool:
    """Whether who asks may see the machine: as with the API, by a key only where that is good for everything. Raises
    Unauthenticated."""
    identity = auth.current_identity()
    if identity is None:
        raise auth.Unauthenticated("Nobody is signed in.")
    return permissions.allows("cluster.get_cluster", identity)


def rendered(template: str, *state: object, shown: Callable[[], Mapping[str, Any]]) -> AnyResponse:
    """The page, with an ETag of `state` for the script that asks again and again; 304 where it has that one already,
    and nothing of what is `shown` is looked up.

    `state` must have been read before what the page shows: then an ETag may be too old, but never too new.
    """
    parts = (polyjob.__version__, person().id, request.full_path, *state)
    tag = hashlib.sha256(repr(parts).encode()).hexdigest()[:32]
    if request.if_none_match.contains_weak(tag):
        response = Response(status=304)
    else:
        response = current_app.make_response(render_template(template, **shown()))
    response.set_etag(tag, weak=True)
    return response


@blp.errorhandler(PolyjobError)
@blp.errorhandler(HTTPException)
def error_page(error: PolyjobError | HTTPException) -> AnyResponse:
    """The page that says what went wrong; for paths of no page, too."""
    if isinstance(error, NotFound) or getattr(error, "code", None) == 404:
        return message(404, "Not found", "There is nothing here, or nothing that you may see.")
    if isinstance(error, auth.Unauthenticated):
        return secure(sessions.ask())
    if isinstance(error, browsers.Stale):
        return message(
            403, "This page was not up to date", "Nothing was done. Load the page before it anew, and retry."
        )
    if isinstance(error, browsers.Foreign):
        return message(403, "Not from this server", FOREIGN)
    if isinstance(error, HTTPException):
        return message(error.code or 500, error.name, error.description or "")
    if isinstance(error, Forbidden):
        return message(403, "Not allowed", str(error))
    if isinstance(error, Unavailable):
        response = message(503, "Not now", str(error))
        response.headers["Retry-After"] = str(error.retry_after)
        return response
    return message(status_of(error), "That did not work", str(error))


def message(code: int, title: str, text: str) -> AnyResponse:
    """A page of one sentence."""
    page = render_template("message.html", code=code, title=title, text=text)
    return secure(Response(page, code, mimetype="text/html"))
