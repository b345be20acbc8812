"""Browsers: whom one is signed in as, by a signed cookie; and that what it sends comes from a page of this server."""

from __future__ import annotations

import datetime
import hmac
import re
import secrets
import time
from dataclasses import dataclass

from flask import current_app, request, session

from polyjob.auth.tokens import digest
from polyjob.clock import now
from polyjob.db.database import write
from polyjob.db.models import EndedSession, Token, User
from polyjob.errors import Forbidden
from polyjob.services.audit import Actor, record_as

SESSION_LIFETIME = datetime.timedelta(days=14)
"""A browser that sends nothing for so long is signed out."""
SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
CSRF_HEADER = "X-CSRF-Token"
CSRF_FIELD = "csrf_token"
RENEWED_AFTER = 86_400
"""Seconds after which a cookie in use is sent anew. Not at each answer: one that was asked for before a sign-out may
come after it."""


_HOST = re.compile(r"(?:\[[0-9A-Za-z:.%]+\]|[-0-9A-Za-z._~%]+)(?::\d{1,5})?")
"""Any host that browsers and machines are known by, in more names than DNS allows: `job_server`, an IPv6 zone."""
_DEFAULT_PORTS = {"http": ":80", "https": ":443"}


class ForeignOrigin(Forbidden):
    """What was sent does not come from a page of this server."""


class WrongCsrfToken(Forbidden):
    """What was sent comes from this server's address, but not with the token of this browser's session."""


def own_origin() -> str:
    """The scheme and host that this request was sent to, as it names them. Empty where that could be no host."""
    environ = request.environ
    host = environ.get("HTTP_HOST") or f"{environ['SERVER_NAME']}:{environ['SERVER_PORT']}"
    host = host.removesuffix(_DEFAULT_PORTS.get(request.scheme, "")).lower()
    return f"{request.scheme}://{host}" if _HOST.fullmatch(host) else ""


def _host() -> str:
    """The values that a session is bound to."""
    return own_origin().partition("://")[2]


def sign_in(user: User, token: Token | None = None) -> None:
    """Have the browser that sends this request be the user's from now on, at this host. Signed in by a key, it may do
    no more than the key, and no longer."""
    session.clear()
    session.permanent = True
    session.update(user=user.id, host=_host(), csrf=secrets.token_hex(16), version=user.session_version)
    session.update(id=secrets.token_hex(16), at=int(time.time()))
    if token is not None:
        session["token"] = token.id
    with write("sign-in"):
        record_as(Actor(user, token.name if token else None, request.remote_addr), "sign-in", user, {})


def sign_out() -> None:
    """End the session of the browser that sends this request, with all copies of its cookie."""
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
    """A browser's session that is good."""

    user: User
    token: Token | None
    """The key that the browser was signed in by, if any."""
    id: str


def browser_session() -> BrowserSession | None:
    """The session of the browser that sends this request; None where nobody is signed in, or not any more."""
    if not session.get("user") or "id" not in session or session.get("host") != _host():
        return None
    user = User.get_or_none(User.id == session["user"], User.is_active)
    if user is None or session.get("version") != user.session_version or is_signed_out(session["id"]):
        return None
    if "token" not in session:
        return BrowserSession(user, None, session["id"])
    token = Token.get_or_none(Token.id == session["token"], Token.user == user)
    if token is None or (token.expires_at is not None and token.expires_at <= now()):
        return None
    return BrowserSession(user, token, session["id"])


def is_signed_out(session_id: str) -> bool:
    """Whether the session was signed out."""
    return bool(EndedSession.select().where(EndedSession.digest == digest(session_id)).exists())


def renew_cookie() -> None:
    """Have a cookie that is in use last from now on, if it has not been sent for a day."""
    if session.get("user") and time.time() - session.get("at", 0) > RENEWED_AFTER:
        session["at"] = int(time.time())


def csrf_token() -> str:
    """What a page of this browser sends along with what it changes. A visitor gets one, too: nobody else's page may
    sign them in."""
    if "csrf" not in session:
        session["csrf"] = secrets.token_hex(16)
    token: str = session["csrf"]
    return token


def require_own_origin(is_change: bool | None = None) -> None:
    """Raises Foreign for what the page of another server sends, and for a change that does not say whose page it comes
    from. `is_change`: None = where the request's method says so."""
    origin = request.headers.get("Origin")
    if origin is None and _is_change(is_change):
        raise ForeignOrigin(f"CSRF Failed: send `Origin`, and the page's token as `{CSRF_HEADER}`.")
    if origin is not None and origin not in _own_origins():
        raise ForeignOrigin("Requests of pages of other servers are not answered.")


def require_csrf_token(sent: str, is_change: bool | None = None) -> None:
    """A browser sends its cookie whoever's page made it ask; so what changes something must show the session's token.

    Raises as `require_own_origin`, and Stale where only the token is wrong.
    """
    require_own_origin(is_change)
    if not _is_change(is_change):
        return
    if not sent or not hmac.compare_digest(sent.encode(), str(session.get("csrf", "")).encode()):
        raise WrongCsrfToken(f"CSRF Failed: send `Origin`, and the page's token as `{CSRF_HEADER}`.")


def _is_change(said: bool | None) -> bool:
    return request.method not in SAFE_METHODS if said is None else said


def _own_origins() -> set[str]:
    """The address that was asked, and the one that users know where a proxy stands before the server."""
    public: str = current_app.config["SETTINGS"].public_url
    return {address for address in (own_origin(), public) if address}
