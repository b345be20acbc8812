"""Keys of one's own: shown, made, revoked; and one's password."""

from __future__ import annotations

from typing import Any

from flask import Blueprint, make_response, render_template, request, url_for
from werkzeug.wrappers import Response as AnyResponse

from polyjob.api import tokens
from polyjob.api.paging import root
from polyjob.api.problems import status_of
from polyjob.api.request_context import me
from polyjob.auth import identity as auth
from polyjob.auth import login, permissions, sessions, users
from polyjob.auth.permissions import Access, requires
from polyjob.auth.scopes import Scope
from polyjob.auth.throttle import Throttled
from polyjob.db.models import Token, User
from polyjob.errors import Conflict, Forbidden, Invalid
from polyjob.pages.forms import STALE, Form, by_field, done, read_form, who_asks
from polyjob.services import projects

DAY = 86_400
LIVES = [("7", "7 days"), ("30", "30 days"), ("90", "90 days"), ("365", "a year"), ("", "never")]
SCOPES = [
    (str(Scope.SUBMIT), "submit: submit, stop and look at jobs"),
    (str(Scope.READ), "read: look at jobs, change nothing"),
    (str(Scope.ADMIN), "admin: everything that you may do"),
]
COMMAND_LINE = {"name": "command line", "scope": str(Scope.ADMIN), "days": "30"}
"""As the key that the documented command line gets for a password."""
MOST_SHOWN = 200

blp = Blueprint("keys", __name__)


@blp.get("/keys")
@requires(Access.ACCOUNT)
def list_keys() -> AnyResponse:
    _permit("tokens.list_tokens")
    return _page(Form({"scope": str(Scope.SUBMIT), "days": "90"}))


@blp.get("/app/token")
@requires(Access.ACCOUNT)
def key_for_command_line() -> AnyResponse:
    """Where `polyaxon login` leads: a key for it, at one press."""
    _permit("tokens.list_tokens")
    return _page(Form(COMMAND_LINE), is_for_command_line=True)


@blp.post("/keys")
@requires(Access.ACCOUNT)
def make_key() -> AnyResponse:
    """The answer shows the key, this once."""
    _permit("tokens.create_token")
    form = read_form(keep_stale=True)
    if form.is_stale:
        return _page(form, {"": [STALE]}, 403)
    days = form.word("days")
    body: dict[str, Any] = {"name": form.word("name") or None, "scope": form.word("scope") or None}
    body |= {"project": form.word("project") or None, "expires_in": None}
    try:
        if days:
            body["expires_in"] = int(days) * DAY if days.isascii() and days.isdecimal() and len(days) < 6 else 0
        made = tokens.make(body)
    except (Invalid, Conflict, Forbidden) as error:
        problems = getattr(error, "problems", [])
        errors = by_field(problems, _field_of) if problems else {"": [str(error)]}
        return _page(form, errors, status_of(error))
    return _page(Form({"scope": str(Scope.SUBMIT), "days": "90"}), status=201, made=made)


@blp.get("/keys/<int:number>/revoke")
@requires(Access.ACCOUNT)
def ask_revoke(number: int) -> str:
    _permit("tokens.revoke_token")
    token = users.find_token(number, me())
    whose = "" if token.user_id == me().id else f" of {token.user.username}"
    return render_template(
        "confirm.html",
        title=f"Revoke the key {token.name}{whose}?",
        lines=["Whatever uses it is refused at once. It cannot be brought back."],
        path=request.path,
        label="Revoke it",
        back=url_for("pages.keys.list_keys"),
    )


@blp.post("/keys/<int:number>/revoke")
@requires(Access.ACCOUNT)
def revoke_key(number: int) -> AnyResponse:
    _permit("tokens.revoke_token")
    read_form()
    token = users.find_token(number, me())
    users.revoke_token(token)
    return done(url_for("pages.keys.list_keys"), f"The key {token.name} is revoked.")


# The password.


@blp.get("/password")
@requires(Access.ACCOUNT)
def password_form() -> AnyResponse:
    _permit("users.set_password")
    return _password_page()


@blp.post("/password")
@requires(Access.ACCOUNT)
def set_password() -> AnyResponse:
    """Every other browser of the user's is signed out; this one goes on."""
    _permit("users.set_password")
    form = read_form(keep_stale=True)
    if form.is_stale:
        return _password_page({"": [STALE]}, 403)
    new, again = (form.fields.get(name, "") for name in ("password", "again"))
    if new != again:
        return _password_page({"again": ["It is not the same as the one above."]}, 400)
    user, identity = me(), who_asks()
    try:
        login.set_password(user, new, old=form.fields.get("old_password") or None, identity=identity)
    except Throttled as error:
        return _password_page({"": [f"Too many tries. The next may come in {error.retry_after} seconds."]}, 429)
    except Invalid as error:
        return _password_page(by_field(error.problems, _field_of), 400)
    sessions.sign_in(User.get_by_id(user.id), identity.token)
    return done(url_for("pages.keys.list_keys"), "Your password is changed. Every other browser is signed out.")


def _permit(operation: str) -> None:
    permissions.check(operation, {}, who_asks())


def _field_of(pointer: str) -> str:
    name = pointer.strip("/")
    return "days" if name == "expires_in" else name


def _page(
    form: Form,
    errors: dict[str, list[str]] | None = None,
    status: int = 200,
    *,
    made: Token | None = None,
    is_for_command_line: bool = False,
) -> AnyResponse:
    found = list(users.list_tokens(me()).limit(MOST_SHOWN))
    owned = projects.list_projects(me()).where(auth.readable(me()))
    page = render_template(
        "keys.html",
        form=form,
        errors=errors or {},
        made=made,
        is_for_command_line=is_for_command_line,
        tokens=found,
        scopes=SCOPES,
        lives=LIVES,
        projects=[("", "all of them")] + [(project.unique_name, project.name) for project in owned],
        root=root(),
    )
    return make_response(page, status)


def _password_page(errors: dict[str, list[str]] | None = None, status: int = 200) -> AnyResponse:
    page = render_template("password.html", has_password=bool(me().password_hash), errors=errors or {})
    return make_response(page, status)
