"""The users of the server, for administrators; and the page of an invite link, on which a person creates an account."""

from __future__ import annotations

from flask import Blueprint, make_response, render_template, request
from werkzeug.wrappers import Response as AnyResponse

from polyjob.api.members import create_invite, invite_url
from polyjob.api.params import parse_digits
from polyjob.api.problems import status_of
from polyjob.api.schemas.common import load_body
from polyjob.api.schemas.members import InviteBody
from polyjob.auth import invites, sessions, users
from polyjob.auth.permissions import Access, requires
from polyjob.db.models import InviteLink
from polyjob.errors import Forbidden, Invalid, NotFound
from polyjob.pages.forms import STALE_FORM, Form, done, group_by_field, read_form
from polyjob.pages.project_settings import ROLES
from polyjob.pages.urls import own_path, page_url, project_url

PAGE_SIZE = 100
MAX_PAGE = 10_000
INVALID_INVITE = "It was already used, has expired, or was withdrawn. Ask the administrator for another one."

blp = Blueprint("users", __name__)


@blp.get("/users")
@requires(Access.ADMINISTRATOR)
def list_users() -> AnyResponse:
    return _page(Form())


@blp.post("/users/invite")
@requires(Access.ADMINISTRATOR)
def invite_user() -> AnyResponse:
    """Create an invite link and show it. It is not shown again."""
    form = read_form(keep_stale=True)
    if form.is_stale:
        return _page(form, {"": [STALE_FORM]}, 403)
    project = form.word("project") or None
    try:
        body = {"project": project, "role": form.word("role") or None if project else None}
        link = create_invite(load_body(InviteBody(), body))
    except (Invalid, Forbidden) as error:
        problems = getattr(error, "problems", [])
        errors = group_by_field(problems, lambda pointer: pointer.strip("/")) if problems else {"": [str(error)]}
        return _page(form, errors, status_of(error))
    return _page(Form(), status=201, link=link)


@blp.post("/users/invites/<invite_id>/withdraw")
@requires(Access.ADMINISTRATOR)
def withdraw_invite(invite_id: str) -> AnyResponse:
    read_form()
    invites.withdraw(invite_id)
    return done(page_url("pages.users.list_users"), "The invite link was withdrawn.")


def _page(
    form: Form, errors: dict[str, list[str]] | None = None, status: int = 200, *, link: InviteLink | None = None
) -> AnyResponse:
    number = min(max(1, parse_digits(request.args.get("page", "")) or 1), MAX_PAGE)
    accounts = list(users.list_users().limit(PAGE_SIZE + 1).offset((number - 1) * PAGE_SIZE))
    page = render_template(
        "users.html",
        form=form,
        errors=errors or {},
        users=accounts[:PAGE_SIZE],
        previous=_url(number - 1) if number > 1 else None,
        next_page=_url(number + 1) if len(accounts) > PAGE_SIZE and number < MAX_PAGE else None,
        invites=list(invites.list_invites()),
        roles=ROLES,
        link=link,
        invite_url=invite_url(link) if link else None,
    )
    return make_response(page, status)


def _url(page: int) -> str:
    return page_url("pages.users.list_users") + (f"?page={page}" if page > 1 else "")


# Changes of one user.

_CHANGES = {
    "activate": (lambda user: users.set_active(user, True), "can sign in again"),
    "deactivate": (lambda user: users.set_active(user, False), "is locked out"),
    "grant": (lambda user: users.set_admin(user, True), "is an administrator now"),
    "revoke": (lambda user: users.set_admin(user, False), "is not an administrator any more"),
    "delete": (users.delete, "was deleted"),
}
"""Last part of the path → the operation, and the message after it. They are those of the API."""


@blp.get("/users/account/<username>/delete")
@requires(Access.ADMINISTRATOR)
def ask_delete_user(username: str) -> str:
    user = users.find(username)
    return render_template(
        "confirm.html",
        title=f"Delete user {user.username}?",
        lines=[
            "Tokens and roles in projects are deleted, too.",
            "Jobs in the projects of others stay. Schedules there submit nothing any more.",
        ],
        path=own_path(),
        label=f"Delete {user.username}",
        back=page_url("pages.users.list_users"),
    )


@blp.post("/users/account/<username>/<any(activate, deactivate, grant, revoke, delete):verb>")
@requires(Access.ADMINISTRATOR)
def change_user(username: str, verb: str) -> AnyResponse:
    """Raises Conflict for the last administrator, and for the deletion of a user who owns projects."""
    read_form()
    change, message = _CHANGES[verb]
    change(users.find(username))
    return done(page_url("pages.users.list_users"), f"{username} {message}.")


# The page of an invite link.


@blp.get("/users/invite/<token>")
@requires(Access.OPEN)
def invite_form(token: str) -> AnyResponse:
    """Show the form for a new account. Opening a link does not use it up."""
    return _invite_page(token, Form())


@blp.post("/users/invite/<token>")
@requires(Access.OPEN)
def accept_invite(token: str) -> AnyResponse:
    """Create the account, and sign the person in."""
    form = read_form(keep_stale=True)
    if form.is_stale:
        return _invite_page(token, form, {"": [STALE_FORM]}, 403)
    password, repeated = (form.fields.get(name, "") for name in ("password", "again"))
    missing = [name for name in ("username", "password") if not form.fields.get(name)]
    if missing:
        return _invite_page(token, form, {name: ["This field is required."] for name in missing}, 400)
    if password != repeated:
        return _invite_page(token, form, {"again": ["The passwords do not match."]}, 400)
    link = invites.find_invite(token)
    try:
        user = invites.accept_invite(token, form.word("username"), password, request.remote_addr)
    except NotFound:
        return _invite_page(token, form)
    except Invalid as error:
        errors = group_by_field(error.problems, lambda pointer: pointer.strip("/"))
        return _invite_page(token, form, errors, 400)
    sessions.sign_in(user)
    path = project_url(link.project) if link and link.project else page_url("pages.all_jobs")
    return done(path, f"Welcome, {user.username}. Your account was created.")


def _invite_page(token: str, form: Form, errors: dict[str, list[str]] | None = None, status: int = 200) -> AnyResponse:
    link = invites.find_invite(token)
    if link is None:
        page = render_template("message.html", title="Invalid invite link", text=INVALID_INVITE)
        return make_response(page, 410 if status == 200 else status)
    page = render_template("invite.html", link=link, form=form, errors=errors or {}, next="")
    return make_response(page, status)
