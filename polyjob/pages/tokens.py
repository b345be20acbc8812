"""The user's own tokens and password."""

from __future__ import annotations

from typing import Any

from flask import Blueprint, make_response, render_template, url_for
from werkzeug.wrappers import Response as AnyResponse

from polyjob.api import tokens
from polyjob.api.paging import root
from polyjob.api.problems import status_of
from polyjob.api.request_context import me
from polyjob.auth import identity as auth
from polyjob.auth import login, sessions, users
from polyjob.auth.permissions import Access, requires
from polyjob.auth.roles import is_joined
from polyjob.auth.scopes import Scope
from polyjob.auth.throttle import Throttled
from polyjob.db.models import Project, Token, User
from polyjob.errors import Conflict, Forbidden, Invalid
from polyjob.pages.forms import STALE_FORM, Form, done, group_by_field, read_form, require_identity
from polyjob.pages.urls import own_path
from polyjob.services import projects

DAY_SECONDS = 86_400
LIFETIMES = [("7", "7 days"), ("30", "30 days"), ("90", "90 days"), ("365", "1 year"), ("", "never")]
SCOPES = [
    (str(Scope.SUBMIT), "submit: submit, stop and view jobs"),
    (str(Scope.READ), "read: view jobs, change nothing"),
    (str(Scope.ADMIN), "admin: everything that you may do"),
]
NEW_TOKEN = {"scope": str(Scope.SUBMIT), "days": "90"}
COMMAND_LINE_TOKEN = {"name": "command line", "scope": str(Scope.ADMIN), "days": "30"}
"""The same as the token that the old command line gets for a password."""
MAX_TOKENS_SHOWN = 200

blp = Blueprint("tokens", __name__)


@blp.get("/keys")
@requires(Access.ACCOUNT)
def list_tokens() -> AnyResponse:
    return _page(Form(NEW_TOKEN))


@blp.get("/app/token")
@requires(Access.ACCOUNT)
def token_for_command_line() -> AnyResponse:
    """Show the page that `polyaxon login` opens. One button creates a token for the command line."""
    return _page(Form(COMMAND_LINE_TOKEN), is_for_command_line=True)


@blp.post("/keys")
@requires(Access.ACCOUNT)
def create_token() -> AnyResponse:
    """Create a token and show it. It is not shown again."""
    form = read_form(keep_stale=True)
    if form.is_stale:
        return _page(form, {"": [STALE_FORM]}, 403)
    days = form.word("days")
    body: dict[str, Any] = {"name": form.word("name") or None, "scope": form.word("scope") or None}
    body |= {"project": form.word("project") or None, "expires_in": None}
    if days:
        is_valid = days.isascii() and days.isdecimal() and len(days) < 6
        body["expires_in"] = int(days) * DAY_SECONDS if is_valid else 0
    try:
        token = tokens.create_from_body(body)
    except (Invalid, Conflict, Forbidden) as error:
        problems = getattr(error, "problems", [])
        errors = group_by_field(problems, _field_of) if problems else {"": [str(error)]}
        return _page(form, errors, status_of(error))
    return _page(Form(NEW_TOKEN), status=201, created=token)


@blp.get("/keys/<int:token_id>/revoke")
@requires(Access.ACCOUNT)
def ask_revoke(token_id: int) -> str:
    token = users.find_token(token_id, me())
    owner = "" if token.user_id == me().id else f" of {token.user.username}"
    return render_template(
        "confirm.html",
        title=f"Revoke token {token.name}{owner}?",
        lines=["Programs that use it lose access at once. This cannot be undone."],
        path=own_path(),
        label="Revoke token",
        back=url_for("pages.tokens.list_tokens"),
    )


@blp.post("/keys/<int:token_id>/revoke")
@requires(Access.ACCOUNT)
def revoke_token(token_id: int) -> AnyResponse:
    read_form()
    token = users.find_token(token_id, me())
    users.revoke_token(token)
    return done(url_for("pages.tokens.list_tokens"), f"Token {token.name} was revoked.")


# The password.


@blp.get("/password")
@requires(Access.ACCOUNT)
def password_form() -> AnyResponse:
    return _password_page()


@blp.post("/password")
@requires(Access.ACCOUNT)
def set_password() -> AnyResponse:
    """Set the user's password. This signs out all other browsers of the user."""
    form = read_form(keep_stale=True)
    if form.is_stale:
        return _password_page({"": [STALE_FORM]}, 403)
    password, repeated = (form.fields.get(name, "") for name in ("password", "again"))
    if password != repeated:
        return _password_page({"again": ["The passwords do not match."]}, 400)
    user, identity = me(), require_identity()
    try:
        login.set_password(user, password, old=form.fields.get("old_password") or None, identity=identity)
    except Throttled as error:
        return _password_page({"": [f"Too many attempts. Try again in {error.retry_after} seconds."]}, 429)
    except Invalid as error:
        return _password_page(group_by_field(error.problems, _field_of), 400)
    sessions.sign_in(User.get_by_id(user.id), identity.token)
    return done(url_for("pages.tokens.list_tokens"), "Your password was changed. All other browsers are signed out.")


def _field_of(pointer: str) -> str:
    name = pointer.strip("/")
    return "days" if name == "expires_in" else name


def _page(
    form: Form,
    errors: dict[str, list[str]] | None = None,
    status: int = 200,
    *,
    created: Token | None = None,
    is_for_command_line: bool = False,
) -> AnyResponse:
    found = projects.list_projects(None).select(Project, User).join(User)
    joined = found.where(auth.readable_projects(me()), is_joined(me()))
    page = render_template(
        "tokens.html",
        form=form,
        errors=errors or {},
        created=created,
        is_for_command_line=is_for_command_line,
        tokens=list(users.list_tokens(me()).limit(MAX_TOKENS_SHOWN)),
        scopes=SCOPES,
        lifetimes=LIFETIMES,
        projects=[("", "all projects")] + [(project.unique_name, project.unique_name) for project in joined],
        root=root(),
    )
    return make_response(page, status)


def _password_page(errors: dict[str, list[str]] | None = None, status: int = 200) -> AnyResponse:
    page = render_template("password.html", has_password=bool(me().password_hash), errors=errors or {})
    return make_response(page, status)
