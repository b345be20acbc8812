"""Builds: list, create, get, update, stop, invalidate, archive, delete, bookmark; their statuses."""

from __future__ import annotations

from typing import Any

from flask import Response

from polyjob.api import list_queries
from polyjob.api.blueprint import Blueprint
from polyjob.api.etags import unchanged
from polyjob.api.idempotency import create_idempotently
from polyjob.api.paging import page_of_query
from polyjob.api.path_prefixes import BUILD, BUILDS
from polyjob.api.request_body import read_body
from polyjob.api.request_context import config_errors_at, empty, find_build, find_project, me, settings, store
from polyjob.api.schemas.builds import (
    BuildChangeBody,
    BuildCreateBody,
    BuildRowSchema,
    BuildSchema,
    BuildView,
    read_build_create,
)
from polyjob.api.schemas.common import load_body
from polyjob.api.schemas.statuses import (
    BuildStatusSchema,
    CodeReferenceBody,
    CodeReferenceSchema,
    StatusBody,
    read_status,
)
from polyjob.api.statuses import RECONCILED, code_reference, read_code_reference
from polyjob.auth import identity
from polyjob.auth.permissions import Access, requires
from polyjob.db.models import Build, BuildStatus
from polyjob.errors import NotFound
from polyjob.services import bookmarks, builds, specs
from polyjob.services.idempotency import IdempotentRequest

_SCHEMA, _CHANGE = BuildSchema(), BuildChangeBody()

blp = Blueprint("builds", __name__, description="Builds: environments and images that jobs run in.")


@blp.get(BUILDS)
@blp.page(BuildRowSchema, queries=True)
@blp.has_etag
@requires(Access.READ)
def list_builds(username: str, project_name: str) -> Any:
    """List the builds of a project, last changed first"""
    project = find_project(username, project_name)
    return unchanged(project, project.builds_version) or list_queries.page_of_builds(project)


@blp.post(BUILDS)
@blp.reads(BuildCreateBody, required=True)
@blp.creates_once(BuildSchema)
@requires(Access.SUBMIT)
def create_build(username: str, project_name: str) -> Response:
    """Create a build before any job needs it"""
    project = find_project(username, project_name)

    def create(idempotent: IdempotentRequest | None) -> Build:
        parsed = read_build_create(read_body())
        with config_errors_at(parsed.config_pointer):
            return builds.create(project, me(), parsed.attributes, settings(), idempotent)

    return create_idempotently(project, create, _document)


@blp.post(f"{BUILDS}/invalidate")
@blp.empty(200)
@requires(Access.SUBMIT)
def invalidate_builds(username: str, project_name: str) -> Response:
    """Invalidate all builds of a project: new jobs do not use them"""
    builds.invalidate_all(find_project(username, project_name))
    return empty(200)


@blp.get(BUILD)
@blp.response(200, BuildSchema)
@blp.has_etag
@requires(Access.READ)
def get_build(username: str, project_name: str, build_id: int) -> Any:
    """Get a build"""
    project = find_project(username, project_name)
    build = builds.find(project, build_id)
    return unchanged(project, build.version, project.jobs_version) or build_view(build)


@blp.route(BUILD, methods=["PATCH", "PUT"])
@blp.reads(BuildChangeBody)
@blp.response(200, BuildSchema)
@requires(Access.SUBMIT)
def update_build(username: str, project_name: str, build_id: int) -> BuildView:
    """Update a build's name, description or tags"""
    build = find_build(username, project_name, build_id)
    return build_view(builds.update(build, load_body(_CHANGE, read_body())))


@blp.delete(BUILD)
@blp.empty(204)
@blp.may_conflict
@requires(Access.MANAGE)
def delete_build(username: str, project_name: str, build_id: int) -> Response:
    """Delete a build with what it made; 409 while a job needs it"""
    builds.delete(find_build(username, project_name, build_id), settings())
    return empty(204)


@blp.post(f"{BUILD}/stop")
@blp.empty(200)
@requires(Access.SUBMIT)
def stop_build(username: str, project_name: str, build_id: int) -> Response:
    """Stop a build and the jobs that wait for it; does nothing if it is done"""
    builds.request_stop(find_build(username, project_name, build_id), settings())
    return empty(200)


@blp.post(f"{BUILD}/invalidate")
@blp.empty(200)
@requires(Access.SUBMIT)
def invalidate_build(username: str, project_name: str, build_id: int) -> Response:
    """Invalidate a build: new jobs do not use it; jobs that use it go on"""
    builds.invalidate(find_build(username, project_name, build_id))
    return empty(200)


@blp.post(f"{BUILD}/archive")
@blp.empty(200)
@blp.may_conflict
@requires(Access.SUBMIT)
def archive_build(username: str, project_name: str, build_id: int) -> Response:
    """Archive a build: hide it, and do not use it for new jobs; 409 while a job needs it"""
    builds.archive(find_build(username, project_name, build_id), settings())
    return empty(200)


@blp.post(f"{BUILD}/restore")
@blp.empty(200)
@requires(Access.SUBMIT)
def restore_build(username: str, project_name: str, build_id: int) -> Response:
    """Restore an archived build"""
    builds.restore(find_project(username, project_name), build_id)
    return empty(200)


@blp.post(f"{BUILD}/bookmark")
@blp.empty(201)
@requires(Access.BOOKMARK)
def bookmark_build(username: str, project_name: str, build_id: int) -> Response:
    """Bookmark a build"""
    bookmarks.add(find_build(username, project_name, build_id), me())
    return empty(201)


@blp.delete(f"{BUILD}/unbookmark")
@blp.empty(204)
@requires(Access.BOOKMARK)
def unbookmark_build(username: str, project_name: str, build_id: int) -> Response:
    """Remove a bookmark"""
    bookmarks.remove(find_build(username, project_name, build_id), me())
    return empty(204)


@blp.post(f"{BUILD}/_heartbeat")
@blp.empty(200)
@requires(Access.SUBMIT)
def build_heartbeat(username: str, project_name: str, build_id: int) -> Response:
    """Accept a heartbeat of a build; it has no effect"""
    find_build(username, project_name, build_id)
    return empty(200)


@blp.get(f"{BUILD}/coderef")
@blp.response(200, CodeReferenceSchema)
@requires(Access.READ)
def get_build_code_reference(username: str, project_name: str, build_id: int) -> dict[str, Any]:
    """Get the upload that a build takes its requirement files from"""
    return code_reference(find_build(username, project_name, build_id))


@blp.post(f"{BUILD}/coderef")
@blp.reads(CodeReferenceBody)
@blp.response(201, CodeReferenceSchema)
@requires(Access.SUBMIT)
def post_build_code_reference(username: str, project_name: str, build_id: int) -> dict[str, Any]:
    """Report where the build's code comes from; saved as a note on the build"""
    build = find_build(username, project_name, build_id)
    reference, text = read_code_reference("build")
    builds.set_note(build, "code", text)
    return code_reference(build) | reference


@blp.post(f"{BUILD}/statuses")
@blp.reads(StatusBody)
@blp.response(201, BuildStatusSchema)
@requires(Access.SUBMIT)
def post_build_status(username: str, project_name: str, build_id: int) -> BuildStatus:
    """Report a status

    An unmanaged build changes to this status, if the transition is allowed. A managed build ignores the report, and the
    response is its latest status; but `stopped`, reported by a person, stops the build.
    """
    build = find_build(username, project_name, build_id)
    report = read_status(read_body())
    return builds.post_status(build, **report, user=me() if identity.is_person() else None, settings=settings())


@blp.post(f"{BUILD}/_reconcile")
@blp.reads(StatusBody)
@blp.empty(200)
@requires(Access.SUBMIT)
def reconcile_build(username: str, project_name: str, build_id: int) -> Response:
    """Report the status of an unmanaged build; a managed build ignores it"""
    build = find_build(username, project_name, build_id)
    report = read_status(read_body()) | {"message": RECONCILED}
    builds.post_status(build, **report, user=None, settings=settings())
    return empty(200)


@blp.get(f"{BUILD}/statuses")
@blp.page(BuildStatusSchema)
@blp.has_etag
@requires(Access.READ)
def list_build_statuses(username: str, project_name: str, build_id: int) -> Any:
    """List the statuses of a build, oldest first"""
    project = find_project(username, project_name)
    build = builds.find(project, build_id)
    query = builds.list_statuses(build)
    return unchanged(project, build.version) or page_of_query(query)


@blp.get(f"{BUILD}/statuses/<uuid>")
@blp.response(200, BuildStatusSchema)
@requires(Access.READ)
def get_build_status(username: str, project_name: str, build_id: int, uuid: str) -> BuildStatus:
    """Get one status of a build"""
    query = builds.list_statuses(find_build(username, project_name, build_id))
    status: BuildStatus | None = query.where(BuildStatus.uuid == uuid.replace("-", "").lower()).first()
    if status is None:
        raise NotFound("Not found.")
    return status


def build_view(build: Build) -> BuildView:
    """Return the build with all its fields, as the current user sees it."""
    return BuildView.from_build(
        build,
        bookmarked=bookmarks.is_bookmarked(build, me()),
        num_jobs=builds.count_jobs(build),
        dockerfile=specs.build_dockerfile(build, store(), settings()),
    )


def _document(build: Build) -> dict[str, Any]:
    document: dict[str, Any] = _SCHEMA.dump(build_view(build))
    return document
