"""Browser sessions in a signed cookie, and protection against cross-site request forgery (CSRF)."""

from __future__ import annotations

import datetime
import hmac
import re
import secrets
import time
from dataclasses import dataclass

from flask import current_app, g, request, session

from polyjob.auth.tokens import digest, is_expired
from polyjob.clock import now
from polyjob.db.database import write
from polyjob.db.models import EndedSession, Token, User
from polyjob.db.prepared import Prepared
from polyjob.errors import Forbidden
from polyjob.services.audit import Actor, record_as

SESSION_LIFETIME = datetime.timedelta(days=14)
"""A browser that sends no request for so long is signed out."""
SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
CSRF_HEADER = "X-CSRF-Token"
CSRF_FIELD = "csrf_token"
RENEWAL_INTERVAL_SECONDS = 86_400
"""Time after which a cookie in use is sent again. It is not sent with each response: the response to a request from
before a sign-out may arrive after it."""

_HOST = re.compile(r"(?:\[[0-9A-Za-z:.%]+\]|[-0-9A-Za-z._~%]+)(?::\d{1,5})?")
"""Matches hosts, including names that DNS does not allow but machines have, such as `job_server`, and IPv6 zones."""
_SECRET_BYTES = 16
_DEFAULT_PORTS = {"http": ":80", "https": ":443"}
_USER = Prepared(lambda: User.select().where(User.id == 0, User.is_active))
_ENDED_SESSION = Prepared(lambda: EndedSession.select().where(EndedSession.digest == ""))


class ForeignOrigin(Forbidden):
    """The request does not come from a page of this server."""


class WrongCsrfToken(Forbidden):
    """The request comes from a page of this server, but without the CSRF token of the browser's session."""


def own_origin() -> str:
    """Return the origin that this request was sent to, such as `https://example.com`; empty for an invalid host."""
    environ = request.environ
    scheme = environ["wsgi.url_scheme"]
    host = environ.get("HTTP_HOST") or f"{environ['SERVER_NAME']}:{environ['SERVER_PORT']}"
    host = host.removesuffix(_DEFAULT_PORTS.get(scheme, "")).lower()
    return f"{scheme}://{host}" if _HOST.fullmatch(host) else ""


def _host() -> str:
    """Return the host that a session is bound to."""
    return own_origin().partition("://")[2]


def sign_in(user: User, token: Token | None = None) -> None:
    """Start a session of the user in the browser that sends this request, valid at this host.

    A session started with a token has the token's scope and expiry.
    """
    session.clear()
    session.permanent = True
    g.pop("csrf_token", None)
    session.update(user=user.id, host=_host(), csrf=secrets.token_hex(_SECRET_BYTES), version=user.session_version)
    session.update(id=secrets.token_hex(16), at=int(time.time()))
    if token is not None:
        session["token"] = token.id
    with write("sign-in"):
        record_as(Actor(user, token.name if token else None, request.remote_addr), "sign-in", user, {})


def sign_out() -> None:
    """End the session of the browser that sends this request, and make all copies of its cookie invalid."""
    if "id" in session:
        moment = now()
        with write("sign-out"):
            EndedSession.delete().where(EndedSession.expires_at <= moment).execute()
            EndedSession.insert(
                digest=digest(session["id"]), expires_at=moment + SESSION_LIFETIME
            ).on_conflict_ignore().execute()
    session.clear()


@dataclass(frozen=True)
class BrowserSession:
    """A valid session of a browser."""

    user: User
    token: Token | None
    """The token that the browser was signed in with, if any."""
    id: str


def browser_session() -> BrowserSession | None:
    """Return the session of the browser that sends this request; None if there is no valid one."""
    if not session.get("user") or "id" not in session or session.get("host") != _host():
        return None
    user = _USER.first(session["user"])
    if user is None or session.get("version") != user.session_version or is_signed_out(session["id"]):
        return None
    if "token" not in session:
        return BrowserSession(user, None, session["id"])
    token = Token.get_or_none(Token.id == session["token"], Token.user == user)
    if token is None or is_expired(token.expires_at):
        return None
    return BrowserSession(user, token, session["id"])


def is_signed_out(session_id: str) -> bool:
    """Return whether the session was signed out."""
    return _ENDED_SESSION.first(digest(session_id)) is not None


def renew_cookie() -> None:
    """Send the session's cookie again, with a new expiry, if it was not sent for a day."""
    if session.get("user") and time.time() - session.get("at", 0) > RENEWAL_INTERVAL_SECONDS:
        session["at"] = int(time.time())


def csrf_token() -> str:
    """Return the CSRF token that pages in this browser send with each change.

    A browser that is not signed in gets one, too. Otherwise a page of another server could sign it in. Each response
    has another mask over the secret of the session: from the lengths of many compressed pages, a listener could find
    out a text that all of them contain.
    """
    if "csrf" not in session:
        session["csrf"] = secrets.token_hex(_SECRET_BYTES)
    if "csrf_token" not in g:
        g.csrf_token = mask_secret(session["csrf"])
    token: str = g.csrf_token
    return token


def mask_secret(secret: str) -> str:
    """Return a CSRF token for the secret of a session. Each call returns another one."""
    mask = secrets.token_bytes(_SECRET_BYTES)
    return mask.hex() + _xor(mask, bytes.fromhex(secret)).hex()


def _is_csrf_token(sent: str) -> bool:
    """Return whether a page of this session contained the token."""
    try:
        token, secret = bytes.fromhex(sent), bytes.fromhex(session.get("csrf", ""))
    except ValueError:
        return False
    mask, masked = token[:_SECRET_BYTES], token[_SECRET_BYTES:]
    return len(mask) == len(masked) == _SECRET_BYTES and hmac.compare_digest(_xor(mask, masked), secret)


def _xor(first: bytes, second: bytes) -> bytes:
    return bytes(a ^ b for a, b in zip(first, second, strict=True))


def require_own_origin(is_change: bool | None = None) -> None:
    """Raise ForeignOrigin for a request of another server's page, and for a change without an `Origin`.

    `is_change`: whether the request changes something. None decides by its method.
    """
    origin = request.headers.get("Origin")
    if origin is None and _is_change(is_change):
        raise ForeignOrigin(f"CSRF Failed: send `Origin`, and the page's token as `{CSRF_HEADER}`.")
    if origin is not None and origin not in _own_origins():
        raise ForeignOrigin("Requests from pages of other servers are refused.")


def require_csrf_token(sent: str, is_change: bool | None = None) -> None:
    """Check that a change was `sent` with the session's CSRF token. A browser sends its cookie for any page.

    Raises ForeignOrigin as `require_own_origin` does, and WrongCsrfToken if only the token is wrong.
    """
    require_own_origin(is_change)
    if not _is_change(is_change):
        return
    if not _is_csrf_token(sent):
        raise WrongCsrfToken(f"CSRF Failed: send `Origin`, and the page's token as `{CSRF_HEADER}`.")


def _is_change(is_change: bool | None) -> bool:
    return request.method not in SAFE_METHODS if is_change is None else is_change


def _own_origins() -> set[str]:
    """Return the origin of this request, and the public one, which differs behind some proxies."""
    public: str = current_app.config["SETTINGS"].public_origin
    return {origin for origin in (own_origin(), public) if origin}
