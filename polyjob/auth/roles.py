"""Roles of users in projects, and what they allow. Every check of a user's access to a project is here.

============================  ===============  ==============
user                          private project  public project
============================  ===============  ==============
its owner, an administrator   manage           manage
a member                      their role       their role
another user                  none (404)       read
not authenticated             none (401)       none (401)
============================  ===============  ==============
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum

from peewee import Expression

from polyjob.db.models import Member, Project, User
from polyjob.db.prepared import Prepared

_ROLES = Prepared(lambda: Member.select(Member.role).where(Member.user == 0, Member.project == 0))
_MEMBERSHIPS = Prepared(lambda: Member.select(Member.project, Member.role).where(Member.user == 0))


class Role(StrEnum):
    """The roles of members. Each includes those before it."""

    READ = "read"
    """Read the jobs and builds, with their logs and outputs."""
    SUBMIT = "submit"
    """Submit, clone, stop and change jobs and builds, and upload files."""
    MANAGE = "manage"
    """Everything that the owner may do: also change and delete the project, and choose its members."""

    def covers(self, other: Role) -> bool:
        return _RANKS[self] >= _RANKS[other]


_RANKS = {role: rank for rank, role in enumerate(Role)}


def role_of(user: User, project: Project) -> Role | None:
    """Return the role of the user in the project, or None if they may not read it."""
    if user.is_admin or project.user_id == user.id:
        return Role.MANAGE
    row = _ROLES.first(user.id, project.id)
    if row is not None:
        return Role(row.role)
    return Role.READ if project.is_public else None


def has_role(user: User, project: Project, role: Role) -> bool:
    """Return whether the user may do in the project what the role allows."""
    if role is Role.READ and project.is_public:
        return True
    present = role_of(user, project)
    return present is not None and present.covers(role)


def may_read(user: User, project: Project) -> bool:
    return has_role(user, project, Role.READ)


def may_write(user: User, project: Project) -> bool:
    return has_role(user, project, Role.SUBMIT)


def writable_ids(user: User, projects: Iterable[Project]) -> list[int]:
    """Return the ids of those of the projects that the user may write to. One query, however many there are."""
    rows = list(projects)
    if user.is_admin or all(row.user_id == user.id for row in rows):
        return [row.id for row in rows]
    roles = {row.project_id: Role(row.role) for row in _MEMBERSHIPS(user.id)}
    return [row.id for row in rows if row.user_id == user.id or roles.get(row.id, Role.READ).covers(Role.SUBMIT)]


def is_joined(user: User) -> Expression:
    """Return the condition on projects that the user owns or is a member of."""
    return (Project.user == user) | Project.id.in_(Member.select(Member.project).where(Member.user == user))
