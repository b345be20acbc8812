"""Builds: list, detail, history."""

from __future__ import annotations

from typing import Any

from polyjob import builds
from polyjob.api import rows
from polyjob.api.blueprint import Blueprint
from polyjob.api.context import BUILD, BUILDS, find_project
from polyjob.api.paging import limit, offset, page
from polyjob.errors import NotFound
from polyjob.models import BuildStatus, Job
from polyjob.schemas.builds import BuildRowSchema, BuildSchema, BuildStatusSchema, BuildView

blp = Blueprint("builds", __name__, description="Builds: what jobs need made before they run.")


@blp.get(BUILDS)
@blp.page(BuildRowSchema, queries=True)
def list_builds(username: str, project_name: str) -> dict[str, Any]:
    """List the builds of a project, last changed first"""
    found, count = rows.page_of_builds(find_project(username, project_name))
    return page([BuildView(build) for build in found], count)


@blp.get(BUILD)
@blp.response(200, BuildSchema)
def get_build(username: str, project_name: str, build_id: int) -> BuildView:
    """Get a build"""
    build = builds.find(find_project(username, project_name), build_id)
    return BuildView(build, Job.select().where(Job.build == build, Job.deleted_at.is_null()).count())


@blp.get(f"{BUILD}/statuses")
@blp.page(BuildStatusSchema)
def list_build_statuses(username: str, project_name: str, build_id: int) -> dict[str, Any]:
    """List the statuses of a build, oldest first"""
    query = builds.list_statuses(builds.find(find_project(username, project_name), build_id))
    return page(list(query.limit(limit()).offset(offset())), query.count())


@blp.get(f"{BUILD}/statuses/<uuid>")
@blp.response(200, BuildStatusSchema)
def get_build_status(username: str, project_name: str, build_id: int, uuid: str) -> BuildStatus:
    """Get one status of a build"""
    query = builds.list_statuses(builds.find(find_project(username, project_name), build_id))
    status: BuildStatus | None = query.where(BuildStatus.uuid == uuid.replace("-", "").lower()).first()
    if status is None:
        raise NotFound("Not found.")
    return status
