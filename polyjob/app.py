"""The web application. The arbiter makes it once; each worker, after its fork, has it serve a data folder."""

from __future__ import annotations

from functools import partial
from typing import Any

from flask import Flask, Request, current_app, redirect, request
from flask.sessions import SecureCookieSession, SecureCookieSessionInterface
from gunicorn.http.errors import ParseException
from itsdangerous import TimestampSigner, URLSafeTimedSerializer
from peewee import PeeweeException
from werkzeug.exceptions import BadRequest, ClientDisconnected, HTTPException, InternalServerError, RequestTimeout
from werkzeug.middleware.proxy_fix import ProxyFix
from werkzeug.routing import IntegerConverter
from werkzeug.wrappers import Response

from polyjob import pages
from polyjob.api import (
    archived,
    audit,
    builds,
    cluster,
    health,
    jobs,
    log_websocket,
    logs,
    outputs,
    problems,
    projects,
    request_body,
    statuses,
    tokens,
    users,
    versions,
)
from polyjob.api.blueprint import make_api, refuse_mistyped
from polyjob.api.params import MAX_ID_DIGITS
from polyjob.api.paths import PlainPaths
from polyjob.auth import identity as auth
from polyjob.auth import permissions
from polyjob.auth.permissions import Access, requires
from polyjob.auth.sessions import SESSION_LIFETIME
from polyjob.clock import now
from polyjob.connections import BodyTooSlow
from polyjob.db.database import open_database
from polyjob.db.models import Meta
from polyjob.errors import NotFound, PolyjobError, Unavailable
from polyjob.logs.watcher import EXTENSION, Watcher
from polyjob.pages.forms import local_path
from polyjob.services.audit import set_actor
from polyjob.settings import Settings

API = "/api/v1"
ALIASES = {"/_health": "health.healthz", "/statusz": "health.healthz"} | log_websocket.OLD_PATHS
"""Path of an earlier version of the documented API → the endpoint that serves it, with its permission."""
_WITHOUT_DATABASE = frozenset({"health.healthz", "health.readyz", "pages.static", "api-docs.openapi_json"})


class Number(IntegerConverter):
    """An id in a path: plain digits, and no more than a database's number has."""

    regex = f"[0-9]{{1,{MAX_ID_DIGITS}}}"


def create_app(settings: Settings) -> Flask:
    """Return the application for these settings, with its database open.

    Migrates nothing: while the database has another schema than this code works with, requests are answered 503.
    Raises OSError where the data folder is missing.
    """
    app = make_app()
    configure(app, settings)
    return app


def make_app() -> Flask:
    """Return the application with all its routes, which are the same for all settings. It serves nothing yet."""
    app = Flask("polyjob", static_folder=None)
    app.request_class = request_body.Request
    app.config.update(
        SESSION_COOKIE_HTTPONLY=True,
        SESSION_COOKIE_SAMESITE="Lax",
        PERMANENT_SESSION_LIFETIME=SESSION_LIFETIME,
        SESSION_REFRESH_EACH_REQUEST=False,
    )
    app.json.sort_keys = False  # type: ignore[attr-defined]
    app.url_map.converters["int"] = Number
    app.url_map.merge_slashes = False
    app.session_interface = Sessions()
    _register_blueprints(app)
    _register_errors(app)
    app.before_request(_check_request)
    app.after_request(_secure)
    app.teardown_request(lambda error: set_actor(None))
    return app


def configure(app: Flask, settings: Settings) -> None:
    """Have the application serve the data folder of these settings, and open its database.

    Idempotent; called again with other settings, it forgets the earlier ones. Raises as `create_app`.
    """
    app.config.update(
        SETTINGS=settings,
        MAX_CONTENT_LENGTH=settings.body_limit,
        MAX_FORM_MEMORY_SIZE=settings.body_limit,
        SESSION_COOKIE_SECURE=settings.public_url.startswith("https:"),
    )
    app.wsgi_app = PlainPaths(partial(Flask.wsgi_app, app))  # type: ignore[method-assign]
    if settings.trusted_proxies:
        hops = settings.trusted_proxies
        app.wsgi_app = ProxyFix(app.wsgi_app, x_for=hops, x_proto=hops, x_host=hops)  # type: ignore[method-assign]
    open_database(settings.data_dir)
    if EXTENSION in app.extensions:
        app.extensions[EXTENSION].close()
    app.extensions[EXTENSION] = Watcher(settings.followers)
    app.secret_key = None
    take_secret(app)


def _register_blueprints(app: Flask) -> None:
    api = make_api(app)
    for module in (
        jobs,
        statuses,
        logs,
        log_websocket,
        outputs,
        builds,
        projects,
        archived,  # and the bookmarks, which share its blueprint
        users,
        tokens,
        audit,
        cluster,
        versions,
    ):
        api.register_blueprint(module.blp, url_prefix=API)
    api.register_blueprint(health.blp)
    app.register_blueprint(pages.blp)
    app.view_functions["pages.static"] = requires(Access.OPEN)(partial(app.view_functions["pages.static"]))
    app.add_url_rule("/api/<version>", view_func=no_such_api)
    app.add_url_rule("/app", view_func=dashboard)
    app.add_url_rule("/app/<path:page>", view_func=dashboard)
    for path, operation in ALIASES.items():
        app.add_url_rule(path, operation, methods=["GET"])
    permissions.refuse_undeclared(app)


@requires(Access.OPEN)
def no_such_api(version: str) -> Response:
    """Without this, the path would be a page's: of a user `api`."""
    raise NotFound("Not found.")


@requires(Access.OPEN)
def dashboard(page: str = "") -> Response:
    """Lead to the page that an old client means by an address below `/app`."""
    return redirect(local_path(f"/{page}"))


# What comes before every view.


def _check_request() -> None:
    if request.endpoint in _WITHOUT_DATABASE:
        return
    fault = health.database_fault()
    if fault is not None:
        raise Unavailable(fault)
    if permissions.is_open(request.endpoint):
        return
    view_args = request.view_args or {}
    if _is_api():
        identity = auth.authenticate(takes_token_in_query=log_websocket.is_handshake())
        permissions.check(request.endpoint, view_args, identity)
        refuse_mistyped(current_app.view_functions.get(request.endpoint or ""))
    elif request.endpoint is not None:
        visitor = auth.current_identity()
        if visitor is None:
            raise auth.Unauthenticated("Nobody is signed in.")
        permissions.check(request.endpoint, view_args, visitor)


def _is_api() -> bool:
    return request.path.startswith((f"{API}/", *(f"{prefix}/" for prefix in log_websocket.PREFIXES)))


class Signer(TimestampSigner):
    """Takes also what it signed before the wall clock was set back, which it would call too new."""

    def unsign(self, signed_value: str | bytes, max_age: int | None = None, return_timestamp: bool = False) -> Any:
        value, signed_at = super().unsign(signed_value, return_timestamp=True)
        if signed_at < now():
            return super().unsign(signed_value, max_age, return_timestamp)  # type: ignore[call-overload]
        return (value, signed_at) if return_timestamp else value


class Sessions(SecureCookieSessionInterface):
    """Signed with the installation's own key, which may come into being after this process."""

    def open_session(self, app: Flask, request: Request) -> SecureCookieSession | None:
        take_secret(app)
        return super().open_session(app, request)

    def get_cookie_secure(self, app: Flask) -> bool:
        """Also where only this request came by https."""
        return super().get_cookie_secure(app) or request.is_secure

    def get_signing_serializer(self, app: Flask) -> URLSafeTimedSerializer | None:
        serializer = super().get_signing_serializer(app)
        if serializer is not None:
            serializer.signer = Signer
        return serializer


def take_secret(app: Flask) -> None:
    """Have sessions signed with the database's key, under a name that no other polyjob on this host has. Does nothing
    once that is so, and while the database is not ready."""
    if app.secret_key is None and health.database_fault() is None:
        meta = {row.key: row.value for row in Meta.select()}
        app.config["SESSION_COOKIE_NAME"] = f"polyjob_{meta['installation'][:8]}"
        app.secret_key = bytes.fromhex(meta["secret"])


def _secure(response: Response) -> Response:
    if _is_api():
        response.headers.setdefault("X-Content-Type-Options", "nosniff")
        response.headers.setdefault("Cache-Control", "no-store")
    return response


# Errors.


def _register_errors(app: Flask) -> None:
    app.register_error_handler(PolyjobError, _refusal)
    app.register_error_handler(HTTPException, _http_error)
    app.register_error_handler(ClientDisconnected, _broken_body)
    app.register_error_handler(ParseException, _broken_body)
    app.register_error_handler(OSError, _fault)
    app.register_error_handler(PeeweeException, _fault)


def _refusal(error: PolyjobError) -> Any:
    return pages.error_page(error) if _wants_page() else problems.answer_refusal(error)


def _http_error(error: HTTPException) -> Any:
    return pages.error_page(error) if _wants_page() else problems.answer_http(error)


def _broken_body(error: Exception) -> Any:
    """The body cannot be read to its end: its framing is wrong, or the client does not send it."""
    if isinstance(error.__context__, BodyTooSlow):
        return _http_error(RequestTimeout("The body arrives too slowly."))
    if isinstance(error, ParseException):
        return _http_error(BadRequest(f"The body is not framed as HTTP/1.1 says: {error}."))
    return _http_error(BadRequest("The body ended before its announced length."))


def _fault(error: OSError | PeeweeException) -> Any:
    if not _wants_page():
        return problems.answer_fault(error)
    refusal = problems.refusal_of(error)
    if refusal is None:
        problems.answer_defect(error)
    return pages.error_page(refusal or InternalServerError())


def _wants_page() -> bool:
    """Whether a browser asks for something that is not the API's."""
    return (
        not request.path.startswith("/api/")
        and not _is_api()
        and request.accept_mimetypes.best_match(["application/json", "text/html"]) == "text/html"
    )
