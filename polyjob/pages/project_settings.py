"""The settings of a project: its name, description and visibility, its members, open invites and its secrets."""

from __future__ import annotations

from functools import partial
from typing import Any

from flask import Blueprint, make_response, render_template
from werkzeug.wrappers import Response as AnyResponse

from polyjob.api.path_prefixes import PROJECT
from polyjob.api.problems import status_of
from polyjob.api.request_context import find_project, me, settings
from polyjob.api.schemas.common import load_body
from polyjob.api.schemas.members import MemberBody
from polyjob.api.schemas.projects import ProjectChangeBody
from polyjob.auth import identity as auth
from polyjob.auth import invites, members, permissions
from polyjob.auth.permissions import Access, requires
from polyjob.auth.roles import Role
from polyjob.db.models import Project
from polyjob.errors import Conflict, Invalid
from polyjob.pages.forms import STALE_FORM, Form, done, group_by_field, read_form
from polyjob.pages.secrets import answer_secret_form
from polyjob.pages.urls import own_path, page_url, project_url
from polyjob.services import job_secrets, projects

ROLES = [
    (str(Role.SUBMIT), "submit: submit, stop and view jobs"),
    (str(Role.READ), "read: view jobs, change nothing"),
    (str(Role.MANAGE), "manage: everything that the owner may do"),
]
SETTINGS = f"{PROJECT}/settings"

blp = Blueprint("project_settings", __name__)


@blp.app_template_global()
def may_manage(project: Project) -> bool:
    identity = auth.current_identity()
    return identity is not None and permissions.may("members.add_member", identity, project)


@blp.get(SETTINGS)
@requires(Access.MANAGE)
def project_settings(username: str, project_name: str) -> AnyResponse:
    return _page(find_project(username, project_name))


@blp.post(SETTINGS)
@requires(Access.MANAGE)
def change_project(username: str, project_name: str) -> AnyResponse:
    project, form = find_project(username, project_name), read_form(keep_stale=True)
    if form.is_stale:
        return _page(project, form, {"": [STALE_FORM]}, 403)
    body = {
        "name": form.word("name") or None,
        "description": form.text("description").strip() or None,
        "is_public": form.text("access") == "public",
    }
    try:
        changed = projects.update(project, load_body(ProjectChangeBody(), body))
    except Invalid as error:
        return _page(find_project(username, project_name), form, _errors(error), 400)
    return done(f"{project_url(changed)}/settings", "The project was changed.")


@blp.post(f"{SETTINGS}/members")
@requires(Access.MANAGE)
def add_member(username: str, project_name: str) -> AnyResponse:
    """Add a user, or change the role of a member."""
    project, form = find_project(username, project_name), read_form(keep_stale=True)
    if form.is_stale:
        return _page(project, form, {"": [STALE_FORM]}, 403)
    try:
        body = load_body(MemberBody(), {"username": form.word("username"), "role": form.word("role")})
        member = members.set_role(project, body["username"], Role(body["role"]))
    except (Invalid, Conflict) as error:
        errors = _errors(error) if isinstance(error, Invalid) else {"username": [str(error)]}
        return _page(project, form, errors, status_of(error))
    message = f"{member.user.username} has the role {member.role} now."
    return done(f"{project_url(project)}/settings", message)


@blp.post(f"{SETTINGS}/members/<member>/remove")
@requires(Access.MANAGE)
def remove_member(username: str, project_name: str, member: str) -> AnyResponse:
    project = find_project(username, project_name)
    read_form()
    members.remove(project, member)
    path = f"{project_url(project)}/settings" if may_manage(project) else page_url("pages.all_jobs")
    return done(path, f"{member} is not a member any more.")


@blp.post(f"{SETTINGS}/invites/<invite_id>/withdraw")
@requires(Access.MANAGE)
def withdraw_project_invite(username: str, project_name: str, invite_id: str) -> AnyResponse:
    project = find_project(username, project_name)
    read_form()
    invites.withdraw(invite_id, project)
    return done(f"{project_url(project)}/settings", "The invite link was withdrawn.")


@blp.post(f"{SETTINGS}/secrets")
@requires(Access.MANAGE)
def set_secret(username: str, project_name: str) -> AnyResponse:
    project = find_project(username, project_name)
    return answer_secret_form(project, f"{project_url(project)}/settings", partial(_page, project))


@blp.post(f"{SETTINGS}/secrets/<name>/remove")
@requires(Access.MANAGE)
def remove_secret(username: str, project_name: str, name: str) -> AnyResponse:
    project = find_project(username, project_name)
    read_form()
    job_secrets.delete(project, name)
    return done(f"{project_url(project)}/settings", f"The secret {name} was removed.")


@blp.post(f"{SETTINGS}/archive")
@requires(Access.MANAGE)
def archive_project(username: str, project_name: str) -> AnyResponse:
    project = find_project(username, project_name)
    read_form()
    projects.archive(project, me(), settings())
    message = f"Project {project.name} was archived, and its jobs are being stopped."
    return done(page_url("pages.all_projects"), message, undo=f"{project_url(project)}/settings/restore")


@blp.post(f"{SETTINGS}/restore")
@requires(Access.MANAGE)
def restore_project(username: str, project_name: str) -> AnyResponse:
    project = find_project(username, project_name, archived=True)
    read_form()
    projects.restore(project)
    return done(project_url(project), f"Project {project.name} was restored.")


@blp.get(f"{SETTINGS}/delete")
@requires(Access.MANAGE)
def ask_delete_project(username: str, project_name: str) -> str:
    project = find_project(username, project_name)
    counts = f"{project.job_count:,} jobs and {project.build_count:,} builds"
    return render_template(
        "confirm.html",
        title=f"Delete project {project.user.username}/{project.name}?",
        lines=[
            f"Its {counts} are stopped and deleted, with their logs and outputs, and also its uploads.",
            "This cannot be undone.",
        ],
        path=own_path(),
        label=f"Delete project {project.name}",
        back=f"{project_url(project)}/settings",
    )


@blp.post(f"{SETTINGS}/delete")
@requires(Access.MANAGE)
def delete_project(username: str, project_name: str) -> AnyResponse:
    project = find_project(username, project_name)
    read_form()
    projects.delete(project, me(), settings())
    return done(page_url("pages.all_projects"), f"Project {project.name} was deleted.")


def _errors(error: Invalid) -> dict[str, list[str]]:
    return group_by_field(error.problems, lambda pointer: pointer.strip("/").partition("/")[0])


def _page(
    project: Project, form: Form | None = None, errors: dict[str, list[str]] | None = None, status: int = 200
) -> AnyResponse:
    page = render_template(
        "project_settings.html",
        project=project,
        form=form or Form(_fields(project)),
        errors=errors or {},
        members=list(members.list_members(project)),
        invites=list(invites.list_invites(project)),
        secrets=list(job_secrets.list_secrets(project)),
        roles=ROLES,
    )
    return make_response(page, status)


def _fields(project: Project) -> dict[str, Any]:
    access = "public" if project.is_public else "private"
    return {"name": project.name, "description": project.description or "", "access": access}
