"""Invite links: each lets a person create one account, within three days. Only the digest of a link's token is stored.

A link stops working if it is withdrawn, or if the administrator who created it is deleted, deactivated, or loses the
administrator rights.
"""

from __future__ import annotations

import datetime

from peewee import JOIN, ModelSelect

from polyjob.auth import members, users
from polyjob.auth.roles import Role
from polyjob.auth.tokens import digest, new_token
from polyjob.clock import now
from polyjob.db.database import write
from polyjob.db.models import InviteLink, Project, User
from polyjob.errors import NotFound
from polyjob.services import audit
from polyjob.services.audit import Actor

INVITE_LIFETIME = datetime.timedelta(days=3)


def create_invite(creator: User, project: Project | None = None, role: Role | None = None) -> InviteLink:
    """Create a link, optionally with a role in a project, and return it. It has its token as `token`.

    Expired links are deleted.
    """
    token, moment = new_token(), now()
    with write("invite"):
        InviteLink.delete().where(InviteLink.expires_at <= moment).execute()
        columns = {"creator": creator, "project": project, "role": role, "expires_at": moment + INVITE_LIFETIME}
        link = InviteLink.create(digest=digest(token), **columns)
        details = {"project": project.unique_name, "role": str(role)} if project else {}
        audit.record("invite", audit.SERVER, **details)
    link.token = token
    return link


def list_invites(project: Project | None = None) -> ModelSelect[InviteLink]:
    """Return the links that can still be used, of one project or of all, sorted by expiry.

    Each has its creator and its project loaded.
    """
    links = (
        InviteLink.select(InviteLink, User, Project)
        .join(User)
        .switch(InviteLink)
        .join(Project, JOIN.LEFT_OUTER)
        .where(InviteLink.expires_at > now(), User.is_active, User.is_admin, Project.deleted_at.is_null())
        .order_by(InviteLink.expires_at, InviteLink.digest)
    )
    return links if project is None else links.where(InviteLink.project == project)


def withdraw(invite_id: str, project: Project | None = None) -> None:
    """Withdraw a link; with `project`, one of that project. Raises NotFound if there is no such link to use."""
    with write("withdraw-invite"):
        links = list_invites(project).where(InviteLink.digest.startswith(invite_id))
        link = next((link for link in links if link.id == invite_id), None)
        if link is None:
            raise NotFound("There is no such open invite.")
        InviteLink.delete().where(InviteLink.digest == link.digest).execute()
        details = {"project": link.project.unique_name, "role": link.role} if link.project else {}
        audit.record("withdraw invite", audit.SERVER, invited_by=link.creator.username, **details)


def find_invite(token: str) -> InviteLink | None:
    """Return a valid link, without using it up; None if it is unknown, used, expired or withdrawn."""
    link = InviteLink.get_or_none(InviteLink.digest == digest(token), InviteLink.expires_at > now())
    if link is None or not (link.creator.is_active and link.creator.is_admin):
        return None
    return link if link.project is None or link.project.deleted_at is None else None


def accept_invite(token: str, username: str, password: str, address: str | None) -> User:
    """Use the link up: create the user, with the role of the link. Return the user.

    Of several concurrent calls, only one creates a user. Raises NotFound if the link is not valid, and Invalid as
    `users.create` does; then the link stays valid.
    """
    if find_invite(token) is None:  # before the password is hashed, which takes time
        raise NotFound("Not found.")
    password_hash = users.hash_new_password(username, password)
    with write("accept-invite"):
        link = find_invite(token)
        if link is None:
            raise NotFound("Not found.")
        InviteLink.delete().where(InviteLink.digest == link.digest).execute()
        user = users.insert(username, password_hash)
        actor = Actor(user, None, address)
        audit.record_as(actor, "create", user, {"invited_by": link.creator.username})
        if link.project is not None and link.role is not None:
            members.add(link.project, user, Role(link.role))
            audit.record_as(actor, "add member", link.project, {"user": username, "role": link.role})
    return user
