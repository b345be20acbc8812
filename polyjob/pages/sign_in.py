"""Sign in by password, token or one-time link, and sign out."""

from __future__ import annotations

from flask import Blueprint, Response, make_response, redirect, render_template, request, url_for
from werkzeug.wrappers import Response as AnyResponse

from polyjob.auth import identity, login, sessions, sign_in_links
from polyjob.auth.permissions import Access, requires
from polyjob.auth.throttle import Throttled
from polyjob.errors import Unavailable
from polyjob.pages.forms import Form, done, local_path, read_form
from polyjob.pages.urls import own_path

WRONG_PASSWORD = "Incorrect username or password."
STALE_FORM = "The sign-in page was open for too long, or the browser blocks cookies. Try again."
INVALID_LINK = (
    "It was already used or has expired. The server prints a new link at each start; so does `polyjob token link`."
)

blp = Blueprint("sessions", __name__)


@blp.get("/sign-in")
@requires(Access.OPEN)
def sign_in_form() -> AnyResponse:
    next_path = local_path(request.args.get("next"))
    if identity.current_user() is not None:
        return redirect(next_path, 303)
    return _page(200, next_path=next_path)


@blp.post("/sign-in")
@requires(Access.OPEN)
def sign_in() -> AnyResponse:
    """Sign in by the token, if one was entered, or else by username and password."""
    form = read_form(keep_stale=True)
    if form.is_stale:
        return _page(403, form, {"": [STALE_FORM]})
    token_text = form.word("key")
    missing = [] if token_text else [name for name in ("username", "password") if not form.fields.get(name)]
    if missing:
        return _page(400, form, {name: ["This field is required."] for name in missing})
    try:
        if token_text:
            user, token = login.check_token(token_text)
        else:
            user, token = login.check_password(form.word("username"), form.fields.get("password", "")), None
    except Throttled as error:
        response = _page(429, form, {"": [f"Too many attempts. Try again in {error.retry_after} seconds."]})
        response.headers["Retry-After"] = str(error.retry_after)
        return response
    except login.WrongCredentials as error:
        return _page(401, form, {"key": [str(error)]} if token_text else {"": [WRONG_PASSWORD]})
    sessions.sign_in(user, token)
    return redirect(local_path(form.text("next")), 303)


@blp.post("/sign-out")
@requires(Access.OPEN)
def sign_out() -> AnyResponse:
    read_form()
    sessions.sign_out()
    return done(url_for("pages.sessions.sign_in_form"), "You are signed out.")


@blp.get("/sign-in/<token>", strict_slashes=False)
@requires(Access.OPEN)
def follow_link(token: str) -> AnyResponse:
    """Sign in by a one-time link.

    HEAD requests and browsers that prefetch the link do not use it up. If another site led here, or another user is
    signed in, the page asks for confirmation.
    """
    if request.method == "HEAD":
        return Response()
    if "prefetch" in request.headers.get("Sec-Purpose", ""):
        raise Unavailable("Sign-in links cannot be prefetched.")
    user, signed_in_user = sign_in_links.user_of_sign_in_link(token), identity.current_user()
    from_other_site = request.headers.get("Sec-Fetch-Site", "none") not in ("none", "same-origin")
    if user is None or not (from_other_site or signed_in_user not in (None, user)):
        return _use_link(token)
    page = render_template(
        "confirm.html",
        title=f"Sign in as {user.username}?",
        lines=["This one-time link signs in this browser."],
        path=own_path(),
        label=f"Sign in as {user.username}",
        kind="main",
        back=url_for("pages.all_jobs"),
    )
    return make_response(page)


@blp.post("/sign-in/<token>", strict_slashes=False)
@requires(Access.OPEN)
def confirm_link(token: str) -> AnyResponse:
    read_form()
    return _use_link(token)


def sign_in_required() -> Response:
    """Return the sign-in form as a 401 response. After the sign-in it leads back to the requested page."""
    path = f"{request.script_root}{request.full_path}" if request.method in sessions.SAFE_METHODS else ""
    response = _page(401, next_path=local_path(path.removesuffix("?")))
    response.headers["WWW-Authenticate"] = "Token"
    return response


def _use_link(token: str) -> AnyResponse:
    user = sign_in_links.use_sign_in_link(token)
    if user is None and identity.current_user() is not None:
        return redirect(url_for("pages.all_jobs"), 303)
    if user is None:
        page = render_template("message.html", title="Invalid sign-in link", text=INVALID_LINK)
        return make_response(page, 410)
    sessions.sign_in(user)
    return redirect(url_for("pages.all_jobs"), 303)


def _page(
    status: int, form: Form | None = None, errors: dict[str, list[str]] | None = None, *, next_path: str = ""
) -> Response:
    if form is not None:
        next_path = local_path(form.text("next"))
    username = form.word("username") if form else ""
    page = render_template("sign_in.html", errors=errors or {}, username=username, next=next_path)
    return make_response(page, status)
