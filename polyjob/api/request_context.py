"""The settings, store, user and project of the current request."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from flask import Response, current_app, request

from polyjob.auth import identity, permissions
from polyjob.auth.roles import Role
from polyjob.db.models import Build, Job, Project, User
from polyjob.errors import Invalid, NotFound, Problem
from polyjob.jobconfig.checks import move_pointers
from polyjob.services import builds, jobs
from polyjob.settings import Settings
from polyjob.storage.store import Store


def settings() -> Settings:
    current: Settings = current_app.config["SETTINGS"]
    return current


def store() -> Store:
    return Store(settings().data_dir)


def me() -> User:
    """Return the current user. Raises Unauthenticated."""
    user = identity.current_user()
    if user is None:
        raise identity.Unauthenticated(identity.NO_CREDENTIALS)
    return user


def may_choose_folder() -> bool:
    """Return whether the sender may set the working folder of a job."""
    return permissions.may_choose_folder(identity.current_identity())


def find_project(username: str, project_name: str, *, archived: bool = False) -> Project:
    """Return the project in the path, if the user has the access to it that the view declares.

    An archived project counts as missing, unless `archived` is set. Raises NotFound if the user may not read the
    project either, and Forbidden if the user has a lower role.
    """
    role = permissions.role_for(request.endpoint) if request.endpoint else Role.READ
    return identity.find_project(me(), username, project_name, role=role, archived=archived)


def project_named(name: str | None) -> Project | None:
    """Return the project that a body names by `user.project`, or by the name of one of the user's own; None for None.

    Raises Invalid if there is none that the user may read.
    """
    if name is None:
        return None
    owner, dot, project = name.replace("/", ".").partition(".")
    try:
        return identity.find_project(me(), owner if dot else me().username, project if dot else owner)
    except NotFound:
        raise Invalid([Problem("/project", f"There is no project `{name}`.")]) from None


def find_job(username: str, project_name: str, job_id: int) -> Job:
    """Return the job in the path. Raises as `find_project`, and NotFound for an archived job."""
    return jobs.find(find_project(username, project_name), job_id)


def find_build(username: str, project_name: str, build_id: int) -> Build:
    """Return the build in the path. Raises as `find_project`, and NotFound for an archived build."""
    return builds.find(find_project(username, project_name), build_id)


def empty(status: int) -> Response:
    return Response(status=status, mimetype="text/plain")


@contextmanager
def config_errors_at(pointer: str, old: str = "/config") -> Iterator[None]:
    """Point the problems of a config to where the config is in the body: `pointer`, instead of `old`."""
    try:
        yield
    except Invalid as error:
        raise Invalid(move_pointers(error.problems, old, pointer)) from None
