"""The web application.

The arbiter of gunicorn creates it once. Each worker configures it for a data folder after its fork.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from flask import Flask, Request, current_app, redirect, request
from flask.sessions import SecureCookieSession, SecureCookieSessionInterface, SessionMixin
from gunicorn.http.errors import ParseException
from itsdangerous import TimestampSigner, URLSafeTimedSerializer
from peewee import PeeweeException
from werkzeug.exceptions import BadRequest, ClientDisconnected, HTTPException, InternalServerError, RequestTimeout
from werkzeug.middleware.proxy_fix import ProxyFix
from werkzeug.routing import IntegerConverter, MapAdapter
from werkzeug.wrappers import Response as AnyResponse

from polyjob import pages
from polyjob.api import (
    all_jobs,
    archived,
    audit,
    builds,
    cluster,
    health,
    log_websocket,
    logs,
    members,
    outputs,
    problems,
    projects,
    request_body,
    schedules,
    secrets,
    statuses,
    sweeps,
    tokens,
    users,
    versions,
    webhooks,
)
from polyjob.api.blueprint import make_api, refuse_misspelled
from polyjob.api.compression import compress
from polyjob.api.params import MAX_ID_DIGITS
from polyjob.api.paths import BelowPrefix, NormalizePaths
from polyjob.api.responses import Response
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
from polyjob.pages.forms import NOT_SIGNED_IN, local_path
from polyjob.routing import LazyRule, RuleMap, adapter_of
from polyjob.services.audit import set_actor
from polyjob.settings import Settings

API = "/api/v1"
ALIASES = {"/_health": "health.healthz", "/statusz": "health.healthz"} | log_websocket.OLD_PATHS
"""Path of an earlier version of the documented API → the endpoint that serves it. Its permission applies."""
_API_PREFIXES = (f"{API}/", *(f"{prefix}/" for prefix in log_websocket.PREFIXES))
_API_HEADERS = (("X-Content-Type-Options", "nosniff"), ("Cache-Control", "no-store"))
"""Headers of the API's responses, unless a view sets them."""
_ENDPOINTS_WITHOUT_DATABASE = frozenset({"health.healthz", "health.readyz", "pages.static", "api-docs.openapi_json"})


class IdConverter(IntegerConverter):
    """An id in a path: digits only, and few enough for an integer of the database."""

    regex = f"[0-9]{{1,{MAX_ID_DIGITS}}}"


class Application(Flask):
    """The Flask application. No view or hook of it is a coroutine."""

    url_rule_class = LazyRule
    url_map_class = RuleMap  # type: ignore[assignment]
    response_class = Response

    def create_url_adapter(self, request: Request | None) -> MapAdapter | None:
        """Return the adapter that finds the rule of a request. The server name is only part of the URLs it builds."""
        return None if request is None else adapter_of(self.url_map, request)

    def ensure_sync(self, func: Callable[..., Any]) -> Callable[..., Any]:
        return func


def create_app(settings: Settings) -> Flask:
    """Return the application for these settings, with its database open.

    The database is not migrated: while it has another schema than this code needs, requests are answered with 503.
    Raises OSError if the data folder is missing.
    """
    app = make_app()
    configure(app, settings)
    return app


def make_app() -> Flask:
    """Return the application with all its routes. It cannot serve requests until it is configured."""
    app = Application("polyjob", static_folder=None)
    app.request_class = request_body.Request
    app.config.update(
        SESSION_COOKIE_HTTPONLY=True,
        SESSION_COOKIE_SAMESITE="Lax",
        PERMANENT_SESSION_LIFETIME=SESSION_LIFETIME,
        SESSION_REFRESH_EACH_REQUEST=False,
    )
    app.json.sort_keys = False  # type: ignore[attr-defined]
    app.url_map.converters["int"] = IdConverter
    app.url_map.merge_slashes = False
    app.session_interface = Sessions()
    _register_blueprints(app)
    _register_errors(app)
    app.before_request(_check_request)
    app.after_request(compress)  # runs after the one below
    app.after_request(_add_headers)
    app.teardown_request(lambda error: set_actor(None))
    return app


def preload(app: Flask) -> None:
    """Load what the first request would load. Otherwise each worker would do that in memory of its own."""
    app.url_map.update()  # sorts the routes
    app.url_map.bind("localhost")  # imports the codec of host names
    health.required_schema_version()


def configure(app: Flask, settings: Settings) -> None:
    """Let the application serve the data folder of these settings, and open its database.

    Idempotent. Calling it again with other settings replaces the earlier ones. Raises OSError if the data folder is
    missing.
    """
    app.config.update(
        SETTINGS=settings,
        MAX_CONTENT_LENGTH=settings.body_limit,
        MAX_FORM_MEMORY_SIZE=settings.body_limit,
        SESSION_COOKIE_SECURE=settings.public_url.startswith("https:"),
    )
    public_path = settings.public_path if settings.public_url else None
    app.wsgi_app = BelowPrefix(NormalizePaths(partial(Flask.wsgi_app, app)), public_path)  # type: ignore[method-assign]
    if settings.trusted_proxies:
        hops = settings.trusted_proxies
        others = 0 if settings.public_url else hops  # not needed beside a public URL, and often passed on from clients
        app.wsgi_app = ProxyFix(  # type: ignore[method-assign]
            app.wsgi_app, x_for=hops, x_proto=others, x_host=others, x_prefix=others
        )
    open_database(settings.data_dir)
    if EXTENSION in app.extensions:
        app.extensions[EXTENSION].close()
    app.extensions[EXTENSION] = Watcher(settings.followers)
    app.secret_key = None
    load_secret(app)


def _register_blueprints(app: Flask) -> None:
    api = make_api(app)
    for module in (
        all_jobs,  # and the other routes of jobs, which share its blueprint
        sweeps,
        statuses,
        logs,
        log_websocket,
        outputs,
        builds,
        schedules,
        projects,
        archived,  # and the bookmarks, which share its blueprint
        users,
        members,
        tokens,
        audit,
        webhooks,
        secrets,
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
def no_such_api(version: str) -> AnyResponse:
    """Answer 404. Without this route, the path would be the page of a user named `api`."""
    raise NotFound("Not found.")


@requires(Access.OPEN)
def dashboard(page: str = "") -> AnyResponse:
    """Redirect from the address of a page below `/app`, where old clients link to."""
    return redirect(local_path(f"{request.script_root}/{page}"))


# Before and after each view.


def _check_request() -> None:
    endpoint, view_args = request.endpoint, request.view_args or {}
    if endpoint in _ENDPOINTS_WITHOUT_DATABASE:
        return
    fault = health.database_fault()
    if fault is not None:
        raise Unavailable(fault)
    if permissions.is_open(endpoint):
        return
    if _is_api():
        identity = auth.authenticate(takes_token_in_query=log_websocket.is_handshake())
        permissions.check(endpoint, view_args, identity)
        if request.query_string:
            refuse_misspelled(current_app.view_functions.get(endpoint or ""))
    elif endpoint is not None:
        visitor = auth.current_identity()
        if visitor is None:
            raise auth.Unauthenticated(NOT_SIGNED_IN)
        permissions.check(endpoint, view_args, visitor)


def _is_api() -> bool:
    return request.path.startswith(_API_PREFIXES)


class SessionSigner(TimestampSigner):
    """A signer that also accepts signatures from the future.

    If the clock was set back, the sessions that were signed before would otherwise be invalid.
    """

    def unsign(self, signed_value: str | bytes, max_age: int | None = None, return_timestamp: bool = False) -> Any:
        value, signed_at = super().unsign(signed_value, return_timestamp=True)
        if signed_at < now():
            return super().unsign(signed_value, max_age, return_timestamp)  # type: ignore[call-overload]
        return (value, signed_at) if return_timestamp else value


class Sessions(SecureCookieSessionInterface):
    """Sessions that are signed with the installation's secret, which may be created after this process starts."""

    def open_session(self, app: Flask, request: Request) -> SecureCookieSession | None:
        load_secret(app)
        if app.secret_key and "HTTP_COOKIE" not in request.environ:
            return self.session_class()  # without a serializer that nothing would use
        return super().open_session(app, request)

    def save_session(self, app: Flask, session: SessionMixin, response: Any) -> None:
        if session.accessed or session.modified:  # otherwise nothing depends on it, and nothing has to be sent
            super().save_session(app, session, response)

    def get_cookie_path(self, app: Flask) -> str:
        """Return the path below which users reach this server; other servers on its host do not get the cookie."""
        return request.script_root or "/"

    def get_cookie_secure(self, app: Flask) -> bool:
        """Return whether the cookie is for HTTPS only: if the settings say so, or if this request came over HTTPS."""
        return super().get_cookie_secure(app) or request.is_secure

    def get_signing_serializer(self, app: Flask) -> URLSafeTimedSerializer | None:
        serializer = super().get_signing_serializer(app)
        if serializer is not None:
            serializer.signer = SessionSigner
        return serializer


def load_secret(app: Flask) -> None:
    """Load the secret that signs sessions, and name the cookie so that no other polyjob on this host uses the name.

    Does nothing if the secret is already loaded or the database is not ready.
    """
    if app.secret_key is None and health.database_fault() is None:
        meta = {row.key: row.value for row in Meta.select()}
        app.config["SESSION_COOKIE_NAME"] = f"polyjob_{meta['installation'][:8]}"
        app.secret_key = bytes.fromhex(meta["secret"])


def _add_headers(response: AnyResponse) -> AnyResponse:
    if _is_api():
        for name, value in _API_HEADERS:
            if name not in response.headers:
                response.headers.add(name, value)
    return response


# Errors.


def _register_errors(app: Flask) -> None:
    app.register_error_handler(PolyjobError, _handle_refusal)
    app.register_error_handler(HTTPException, _handle_http_error)
    app.register_error_handler(ClientDisconnected, _handle_broken_body)
    app.register_error_handler(ParseException, _handle_broken_body)
    app.register_error_handler(OSError, _handle_fault)
    app.register_error_handler(PeeweeException, _handle_fault)


def _handle_refusal(error: PolyjobError) -> Any:
    return pages.error_page(error) if _wants_page() else problems.refusal_response(error)


def _handle_http_error(error: HTTPException) -> Any:
    return pages.error_page(error) if _wants_page() else problems.http_error_response(error)


def _handle_broken_body(error: Exception) -> Any:
    """Answer a request whose body is not complete: its framing is wrong, or the client stopped sending it."""
    if isinstance(error.__context__, BodyTooSlow):
        return _handle_http_error(RequestTimeout("The body arrives too slowly."))
    if isinstance(error, ParseException):
        return _handle_http_error(BadRequest(f"The body's HTTP/1.1 framing is not valid: {error}."))
    return _handle_http_error(BadRequest("The body is shorter than its `Content-Length`."))


def _handle_fault(error: OSError | PeeweeException) -> Any:
    if not _wants_page():
        return problems.fault_response(error)
    unavailable = problems.as_unavailable(error)
    if unavailable is None:
        problems.log_defect(error)
    return pages.error_page(unavailable or InternalServerError())


def _wants_page() -> bool:
    """Return whether the response is a page: the request accepts HTML first, and its path is not one of the API."""
    return (
        not request.path.startswith("/api/")
        and not _is_api()
        and request.accept_mimetypes.best_match(["application/json", "text/html"]) == "text/html"
    )
