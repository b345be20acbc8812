"""Members of projects: list, add, change, remove.

The owner of a project is not a member, and always manages it. So no project is left without a manager.
"""

from __future__ import annotations

from peewee import ModelSelect

from polyjob.auth.roles import Role
from polyjob.clock import now
from polyjob.db.database import write
from polyjob.db.models import Member, Project, User
from polyjob.errors import Conflict, Invalid, NotFound, Problem
from polyjob.services import audit

MAX_MEMBERS = 500
"""Members of one project."""


def list_members(project: Project) -> ModelSelect[Member]:
    """Return the members, sorted by name, each with its user loaded."""
    members = Member.select(Member, User).join(User).where(Member.project == project)
    return members.order_by(User.username)


def set_role(project: Project, username: str, role: Role) -> Member:
    """Add the user to the project, or change the role of a member. Idempotent.

    Raises Invalid if there is no such active user or if they own the project, and Conflict beyond `MAX_MEMBERS`.
    """
    with write("member"):
        user = User.get_or_none(User.username == username, User.is_active, User.deleted_at.is_null())
        if user is None:
            raise Invalid([Problem("/username", f"There is no active user `{username}`.")])
        project = _reload(project)
        existing = _find(project, user)
        if existing is not None and existing.role == role:
            return existing
        member = add(project, user, role, existing)
        verb = "change member" if existing else "add member"
        audit.record(verb, project, user=user.username, role=str(role))
    return member


def add(project: Project, user: User, role: Role, existing: Member | None = None) -> Member:
    """Add the user, or change the `existing` member. Raises as `set_role`. Must be called inside `database.write`."""
    if user.id == project.user_id:
        raise Invalid([Problem("/username", f"`{user.username}` owns the project, and may do everything in it.")])
    if existing is None and Member.select().where(Member.project == project).count() >= MAX_MEMBERS:
        raise Conflict(f"A project has at most {MAX_MEMBERS} members; remove some first.")
    created_at = existing.created_at if existing else now()
    Member.replace(user=user, project=project, role=role, created_at=created_at).execute()
    _touch(project)
    return Member(user=user, project=project, role=role, created_at=created_at)


def remove(project: Project, username: str) -> None:
    """Remove the member. Their rights end at once, their jobs go on.

    Raises NotFound if they are not a member, and Conflict for the owner.
    """
    with write("member"):
        project = _reload(project)
        user = User.get_or_none(User.username == username, User.deleted_at.is_null())
        if user is not None and user.id == project.user_id:
            raise Conflict(f"`{username}` owns the project, and cannot be removed.")
        if user is None or _find(project, user) is None:
            raise NotFound(f"`{username}` is not a member of this project.")
        Member.delete().where(Member.project == project, Member.user == user).execute()
        audit.record("remove member", project, user=username)
        _touch(project)


def _find(project: Project, user: User) -> Member | None:
    return Member.get_or_none(Member.project == project, Member.user == user)


def _reload(project: Project) -> Project:
    reloaded = Project.get_or_none(Project.id == project.id, Project.deleted_at.is_null())
    if reloaded is None:
        raise NotFound("The project was deleted.")
    return reloaded


def _touch(project: Project) -> None:
    """Change the ETags of the lists that show the project to its members."""
    Project.update(updated_at=max(now(), project.updated_at)).where(Project.id == project.id).execute()
