"""Signing in by password, key or one-time link, and signing out."""

from __future__ import annotations

from flask import Blueprint, Response, make_response, redirect, render_template, request, url_for
from werkzeug.wrappers import Response as AnyResponse

from polyjob.auth import identity, login, sessions
from polyjob.auth.permissions import Access, requires
from polyjob.auth.throttle import Throttled
from polyjob.db.models import User
from polyjob.errors import Unavailable
from polyjob.pages.forms import Form, done, local_path, read_form

HOW_TO_SIGN_IN = "Each start of the server prints a link that signs you in, once."
STALE = "This page was open for too long, or the browser keeps no cookies. Try again."

blp = Blueprint("sessions", __name__)


@blp.get("/sign-in")
@requires(Access.OPEN)
def sign_in_form() -> AnyResponse:
    next_path = local_path(request.args.get("next"))
    if identity.current_user() is not None:
        return redirect(next_path, 303)
    return _form(200, next_path=next_path)


@blp.post("/sign-in")
@requires(Access.OPEN)
def sign_in() -> AnyResponse:
    """A key counts where one is given, else user and password."""
    form = read_form(keep_stale=True)
    if form.is_stale:
        return _form(403, form, {"": [STALE]})
    key = form.word("key")
    names = [] if key else [name for name in ("username", "password") if not form.fields.get(name)]
    if names:
        return _form(400, form, {name: ["Fill this in."] for name in names})
    try:
        user, token = login.check_key(key) if key else (_checked(form), None)
    except Throttled as error:
        answer = _form(429, form, {"": [f"Too many tries. The next may come in {error.retry_after} seconds."]})
        answer.headers["Retry-After"] = str(error.retry_after)
        return answer
    except login.WrongCredentials as error:
        return _form(401, form, {"key": [str(error)]} if key else {"": ["This is no user's name and password."]})
    sessions.sign_in(user, token)
    return redirect(local_path(form.text("next")), 303)


@blp.post("/sign-out")
@requires(Access.OPEN)
def sign_out() -> AnyResponse:
    read_form()
    sessions.sign_out()
    return done(url_for("pages.sessions.sign_in_form"), "You are signed out.")


@blp.get("/sign-in/<key>", strict_slashes=False)
@requires(Access.OPEN)
def follow_link(key: str) -> AnyResponse:
    """The one-time link. A person's click uses it up; a HEAD request or a browser that fetches ahead does not. Where
    another site's page led here, or somebody else is signed in, it is asked first."""
    if request.method == "HEAD":
        return Response()
    if "prefetch" in request.headers.get("Sec-Purpose", ""):
        raise Unavailable("A link to sign in is not fetched ahead.")
    user, signed_in = identity.user_of_link(key), identity.current_user()
    is_led = request.headers.get("Sec-Fetch-Site", "none") not in ("none", "same-origin")
    if user is None or not (is_led or signed_in not in (None, user)):
        return _use_link(key)
    page = render_template(
        "confirm.html",
        title=f"Sign in as {user.username}?",
        lines=["The link that you have opened signs this browser in, once."],
        path=request.path,
        label=f"Sign in as {user.username}",
        kind="main",
        back=url_for("pages.all_jobs"),
    )
    return make_response(page)


@blp.post("/sign-in/<key>", strict_slashes=False)
@requires(Access.OPEN)
def confirm_link(key: str) -> AnyResponse:
    read_form()
    return _use_link(key)


def ask(why: str = "") -> Response:
    """The form to sign in, as the answer to a request that needs it: 401. It leads back to the page asked for."""
    path = request.full_path.removesuffix("?") if request.method in sessions.SAFE_METHODS else "/"
    response = _form(401, next_path=local_path(path), why=why)
    response.headers["WWW-Authenticate"] = "Token"
    return response


def _checked(form: Form) -> User:
    return login.check_password(form.word("username"), form.fields.get("password", ""))


def _use_link(key: str) -> AnyResponse:
    user = identity.use_sign_in_link(key)
    if user is None:
        text = f"It was used already, or is too old. {HOW_TO_SIGN_IN}"
        page = render_template("message.html", title="This link does not sign in", text=text)
        return make_response(page, 410)
    sessions.sign_in(user)
    return redirect(url_for("pages.all_jobs"), 303)


def _form(
    status: int,
    form: Form | None = None,
    errors: dict[str, list[str]] | None = None,
    *,
    next_path: str = "/",
    why: str = "",
) -> Response:
    if form is not None:
        next_path = local_path(form.text("next"))
    page = render_template(
        "sign_in.html",
        errors=errors or {},
        username=form.word("username") if form else "",
        next=next_path,
        why=why,
    )
    return make_response(page, status)
