"""Members of projects, and invite links for new users."""

from __future__ import annotations

from typing import Any

from flask import Response, g

from polyjob.api.blueprint import Blueprint
from polyjob.api.paging import page_of_query, root
from polyjob.api.path_prefixes import PROJECT
from polyjob.api.request_body import read_body
from polyjob.api.request_context import empty, find_project, me, project_named
from polyjob.api.schemas.common import load_body
from polyjob.api.schemas.members import InviteBody, InviteSchema, MemberBody, MemberSchema, NewInviteSchema
from polyjob.auth import invites, login, members
from polyjob.auth.permissions import Access, requires
from polyjob.auth.roles import Role
from polyjob.db.models import InviteLink, Member
from polyjob.errors import Invalid, Problem

REQUIRED = "This field is required."

blp = Blueprint("members", __name__, description="Members of projects, and invite links for new users.")


@blp.get(f"{PROJECT}/members")
@blp.page(MemberSchema)
@requires(Access.MANAGE)
def list_members(username: str, project_name: str) -> dict[str, Any]:
    """List the members of a project, by name. The owner is not among them"""
    return page_of_query(members.list_members(find_project(username, project_name)))


@blp.post(f"{PROJECT}/members")
@blp.reads(MemberBody, required=True)
@blp.may_conflict
@blp.response(201, MemberSchema)
@requires(Access.MANAGE)
def add_member(username: str, project_name: str) -> Member:
    """Add a user to a project, or change the role of a member"""
    project = find_project(username, project_name)
    body = load_body(MemberBody(), read_body())
    missing = [name for name in ("username", "role") if body.get(name) is None]
    if missing:
        raise Invalid([Problem(f"/{name}", REQUIRED) for name in missing])
    return members.set_role(project, body["username"], Role(body["role"]))


@blp.delete(f"{PROJECT}/members/<member>")
@blp.may_conflict
@blp.empty(204)
@requires(Access.MANAGE)
def remove_member(username: str, project_name: str, member: str) -> Response:
    """Remove a member from a project: their rights end at once, their jobs go on"""
    members.remove(find_project(username, project_name), member)
    return empty(204)


@blp.get(f"{PROJECT}/invites")
@blp.page(InviteSchema)
@requires(Access.MANAGE)
def list_invites(username: str, project_name: str) -> dict[str, Any]:
    """List the invite links that give a role in a project and can still be used"""
    return page_of_query(invites.list_invites(find_project(username, project_name)))


@blp.delete(f"{PROJECT}/invites/<invite_id>")
@blp.empty(204)
@requires(Access.MANAGE)
def withdraw_invite(username: str, project_name: str, invite_id: str) -> Response:
    """Withdraw an invite link that gives a role in a project"""
    invites.withdraw(invite_id, find_project(username, project_name))
    return empty(204)


@blp.post("/users/invite")
@blp.reads(InviteBody)
@blp.response(201, NewInviteSchema)
@requires(Access.ADMINISTRATOR)
def invite_user() -> InviteLink:
    """Create a link with which one person creates their account, within three days; for administrators"""
    link = create_invite(load_body(InviteBody(), read_body()))
    link.url = invite_url(link)
    return link


@blp.get("/users/invites")
@blp.page(InviteSchema)
@requires(Access.ADMINISTRATOR)
def list_all_invites() -> dict[str, Any]:
    """List the invite links that can still be used; for administrators"""
    return page_of_query(invites.list_invites())


@blp.delete("/users/invites/<invite_id>")
@blp.empty(204)
@requires(Access.ADMINISTRATOR)
def withdraw_any_invite(invite_id: str) -> Response:
    """Withdraw an invite link; for administrators"""
    invites.withdraw(invite_id)
    return empty(204)


def create_invite(body: dict[str, Any]) -> InviteLink:
    """Create the link that the body describes. Raises Invalid, and Forbidden for a token that expires."""
    login.refuse_expiring_token(g.identity)
    project, role = body.get("project"), body.get("role")
    if (project is None) != (role is None):
        raise Invalid([Problem("/role" if role is None else "/project", "Send both `project` and `role`, or neither.")])
    return invites.create_invite(me(), project_named(project), Role(role) if role else None)


def invite_url(link: InviteLink) -> str:
    return f"{root()}/users/invite/{link.token}"
