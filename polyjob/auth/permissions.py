"""Permissions: what each route requires of the token or browser session that calls it.

Each view declares its permission with `@requires(...)`. The application checks it before the view runs and before it
reads a body, and does not start while a route declares none. `docs/permissions.md` shows the declarations as tables.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, TypeVar

from flask import Flask, current_app

from polyjob.auth.identity import Identity
from polyjob.auth.roles import Role, has_role
from polyjob.auth.scopes import Scope
from polyjob.db.models import Project
from polyjob.errors import Forbidden

View = TypeVar("View", bound=Callable[..., Any])

OWN_JOB_FIELDS = frozenset({"name", "description", "tags", "data_refs", "params", "merge"})
"""Fields of a job that its own token may change."""
NOT_ALLOWED = "You do not have permission to perform this action."
_ATTRIBUTE = "polyjob_permission"
_API = "/api/v1"
_ROUTES_BESIDE_THE_API = frozenset({"api-docs.openapi_json", "no_such_api", "dashboard"})
"""Redirects and the OpenAPI document; the docs list them with the pages."""


class Access(StrEnum):
    """The levels of access that a route can require."""

    OPEN = "open"
    READ = "read"
    SUBMIT = "submit"
    BOOKMARK = "bookmark"
    MANAGE = "manage"
    ACCOUNT = "account"
    ADMINISTRATOR = "administrator"

    @property
    def scope(self) -> Scope:
        """The least scope of a token that has this access."""
        return _SCOPES.get(self, Scope.ADMIN)

    @property
    def role(self) -> Role:
        """The least role that a user needs in a project for this access to it and its content."""
        return {Access.SUBMIT: Role.SUBMIT, Access.MANAGE: Role.MANAGE}.get(self, Role.READ)

    @property
    def is_for_all_projects(self) -> bool:
        """True if a token that is bound to one project is refused."""
        return self in (Access.ACCOUNT, Access.ADMINISTRATOR)


_SCOPES = {Access.READ: Scope.READ, Access.SUBMIT: Scope.SUBMIT, Access.BOOKMARK: Scope.SUBMIT}


@dataclass(frozen=True)
class Permission:
    """The permission that a view declares."""

    access: Access
    job_token: bool
    """True if a job's own token is enough for its own job."""

    def __str__(self) -> str:
        return f"{self.access}, job" if self.job_token else str(self.access)


def requires(access: Access, *, job_token: bool = False) -> Callable[[View], View]:
    """Declare the permission of a view. With `job_token`, a job's own token is enough for its own job."""

    def declare(view: View) -> View:
        setattr(view, _ATTRIBUTE, Permission(access, job_token))
        return view

    return declare


def declared(view: Callable[..., Any] | None) -> Permission | None:
    """Return the permission that a view declares, or None."""
    permission: Permission | None = getattr(view, _ATTRIBUTE, None)
    return permission


def refuse_undeclared(app: Flask) -> None:
    """Raise RuntimeError if a route's view declares no permission."""
    missing = sorted(name for name, view in app.view_functions.items() if declared(view) is None)
    if missing:
        raise RuntimeError(f"Declare a permission with @requires(...) on: {', '.join(missing)}")


# Checks. An endpoint is a view's name in the application, such as `jobs.stop_job`.


def permission_of(endpoint: str) -> Permission:
    permission = declared(current_app.view_functions[endpoint])
    if permission is None:
        raise LookupError(f"{endpoint} declares no permission")
    return permission


def is_open(endpoint: str | None) -> bool:
    """Return whether the endpoint takes requests without credentials.

    A path without a view is not open: its 401 does not tell strangers which paths exist.
    """
    return endpoint is not None and permission_of(endpoint).access is Access.OPEN


def check(endpoint: str | None, arguments: Mapping[str, Any], identity: Identity) -> None:
    """Raise Forbidden unless the token or session has the endpoint's permission. `arguments` are those of its path.

    Whether the user may read or write the project in the path is checked when the view looks the project up.
    """
    if endpoint is None:
        return
    permission = permission_of(endpoint)
    if identity.job is not None:
        if not permission.job_token or arguments.get("job_id") != identity.job.id:
            raise Forbidden("A job's own token can only read its own job, update its description and report on it.")
        return
    _check_access(permission.access, identity)


def _check_access(access: Access, identity: Identity) -> None:
    if not identity.scope.covers(access.scope):
        raise Forbidden(f"This token has the scope `{identity.scope}`, but `{access.scope}` is required.")
    if access.is_for_all_projects and identity.project_id is not None:
        raise Forbidden("This token is valid for one project only.")
    if access is Access.ADMINISTRATOR and not identity.user.is_admin:
        raise Forbidden(NOT_ALLOWED)


def check_changes(fields: Iterable[str], identity: Identity | None) -> None:
    """Raise Forbidden if the sender is a job and any of these fields is not in `OWN_JOB_FIELDS`."""
    refused = sorted(set(fields) - OWN_JOB_FIELDS)
    if identity is not None and identity.job is not None and refused:
        allowed = ", ".join(f"`{name}`" for name in sorted(OWN_JOB_FIELDS - {"merge"}))
        raise Forbidden(f"A job's own token can only change {allowed} of its job, not `{refused[0]}`.")


def may_choose_folder(identity: Identity | None) -> bool:
    """Return whether the sender may set the working folder of a job: an administrator, by a token of scope `admin`."""
    if identity is None or identity.job is not None:
        return False
    try:
        _check_access(Access.ADMINISTRATOR, identity)
    except Forbidden:
        return False
    return True


def allows(endpoint: str, identity: Identity) -> bool:
    """Return whether the token or session has the endpoint's permission."""
    try:
        check(endpoint, {}, identity)
    except Forbidden:
        return False
    return True


def may(endpoint: str, identity: Identity, project: Project) -> bool:
    """Return whether the token or session, and also its user, may call the endpoint for this project."""
    if not allows(endpoint, identity):
        return False
    if identity.project_id not in (None, project.id):
        return False
    return has_role(identity.user, project, role_for(endpoint))


def role_for(endpoint: str) -> Role:
    """Return the least role that a user needs in a project to call the endpoint for it."""
    return permission_of(endpoint).access.role


# The tables of docs/permissions.md.


def api_table(app: Flask) -> list[str]:
    """Return the rows of the API's routes: method and path below `/api/v1`, and the permission."""
    return _table(app, lambda endpoint: not _is_page(endpoint))


def pages_table(app: Flask) -> list[str]:
    """Return the rows of the pages' routes."""
    return _table(app, _is_page)


def _table(app: Flask, is_listed: Callable[[str], bool]) -> list[str]:
    return [f"| `{route}` | {permission} |" for endpoint, route, permission in _routes(app) if is_listed(endpoint)]


def _routes(app: Flask) -> Iterator[tuple[str, str, Permission | None]]:
    for rule in app.url_map.iter_rules():
        path = re.sub(r"<(?:[^<>]+:)?(\w+)>", r"{\1}", rule.rule.removeprefix(_API))
        for method in sorted(rule.methods or ()):
            if method not in ("HEAD", "OPTIONS"):
                yield rule.endpoint, f"{method} {path}", declared(app.view_functions[rule.endpoint])


def _is_page(endpoint: str) -> bool:
    return endpoint.startswith("pages.") or endpoint in _ROUTES_BESIDE_THE_API
