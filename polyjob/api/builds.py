"""Builds: list, make, look at, change, stop, invalidate, archive, delete, bookmark; their history."""

from __future__ import annotations

from typing import Any

from flask import Response

from polyjob.api import list_queries
from polyjob.api.blueprint import Blueprint
from polyjob.api.etags import unchanged
from polyjob.api.idempotency import create_idempotently
from polyjob.api.paging import limit, offset, page
from polyjob.api.request_body import read_body
from polyjob.api.request_context import config_errors_at, empty, find_project, me, settings, store
from polyjob.api.routes import BUILD, BUILDS
from polyjob.api.schemas.builds import (
    BuildChangeBody,
    BuildCreateBody,
    BuildRow,
    BuildRowSchema,
    BuildSchema,
    BuildView,
    read_build_create,
)
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
from polyjob.jobconfig.checks import check_values, deserialize
from polyjob.services import bookmarks, builds, specs
from polyjob.services.idempotency import IdempotentRequest

_SCHEMA, _CHANGE = BuildSchema(), BuildChangeBody()

blp = Blueprint("builds", __name__, description="Builds: what jobs need made before they run.")


@blp.get(BUILDS)
@blp.page(BuildRowSchema, queries=True)
@blp.has_etag
@requires(Access.READ)
def list_builds(username: str, project_name: str) -> Any:
    """List the builds of a project, last changed first"""
    project = find_project(username, project_name)
    return unchanged(project, project.builds_version) or list_queries.page_of_builds(project, build_rows)


@blp.post(BUILDS)
@blp.reads(BuildCreateBody, required=True)
@blp.creates_once(BuildSchema)
@requires(Access.SUBMIT)
def create_build(username: str, project_name: str) -> Response:
    """Make a build, although no job needs it yet"""
    project = find_project(username, project_name)

    def make(once: IdempotentRequest | None) -> Build:
        parsed = read_build_create(read_body())
        with config_errors_at(parsed.config_pointer):
            return builds.create(project, me(), parsed.attributes, settings(), once)

    return create_idempotently(project, make, _document)


@blp.post(f"{BUILDS}/invalidate")
@blp.empty(200)
@requires(Access.SUBMIT)
def invalidate_builds(username: str, project_name: str) -> Response:
    """Have no new job use any build that there is now"""
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
    """Change a build's name, description or tags"""
    build = builds.find(find_project(username, project_name), build_id)
    body = read_body()
    check_values(body)
    return build_view(builds.update(build, deserialize(_CHANGE, body, "")))


@blp.delete(BUILD)
@blp.empty(204)
@blp.may_conflict
@requires(Access.MANAGE)
def delete_build(username: str, project_name: str, build_id: int) -> Response:
    """Remove a build with all that it made; 409 while a job needs it"""
    builds.delete(builds.find(find_project(username, project_name), build_id), settings())
    return empty(204)


@blp.post(f"{BUILD}/stop")
@blp.empty(200)
@requires(Access.SUBMIT)
def stop_build(username: str, project_name: str, build_id: int) -> Response:
    """Stop a build, and with it the jobs that wait for it; one that is done stays as it is"""
    builds.request_stop(builds.find(find_project(username, project_name), build_id), settings())
    return empty(200)


@blp.post(f"{BUILD}/invalidate")
@blp.empty(200)
@requires(Access.SUBMIT)
def invalidate_build(username: str, project_name: str, build_id: int) -> Response:
    """Have no new job use a build; those that do go on"""
    builds.invalidate(builds.find(find_project(username, project_name), build_id))
    return empty(200)


@blp.post(f"{BUILD}/archive")
@blp.empty(200)
@blp.may_conflict
@requires(Access.SUBMIT)
def archive_build(username: str, project_name: str, build_id: int) -> Response:
    """Hide a build, which no new job uses then; 409 while a job needs it"""
    builds.archive(builds.find(find_project(username, project_name), build_id), settings())
    return empty(200)


@blp.post(f"{BUILD}/restore")
@blp.empty(200)
@requires(Access.SUBMIT)
def restore_build(username: str, project_name: str, build_id: int) -> Response:
    """Show an archived build again"""
    builds.restore(find_project(username, project_name), build_id)
    return empty(200)


@blp.post(f"{BUILD}/bookmark")
@blp.empty(201)
@requires(Access.BOOKMARK)
def bookmark_build(username: str, project_name: str, build_id: int) -> Response:
    """Bookmark a build; who may read it may do so"""
    bookmarks.add(builds.find(find_project(username, project_name), build_id), me())
    return empty(201)


@blp.delete(f"{BUILD}/unbookmark")
@blp.empty(204)
@requires(Access.BOOKMARK)
def unbookmark_build(username: str, project_name: str, build_id: int) -> Response:
    """Remove a bookmark"""
    bookmarks.remove(builds.find(find_project(username, project_name), build_id), me())
    return empty(204)


@blp.post(f"{BUILD}/_heartbeat")
@blp.empty(200)
@requires(Access.SUBMIT)
def build_heartbeat(username: str, project_name: str, build_id: int) -> Response:
    """Say that the build lives; polyjob knows by itself, and keeps nothing of this"""
    builds.find(find_project(username, project_name), build_id)
    return empty(200)


@blp.get(f"{BUILD}/coderef")
@blp.response(200, CodeReferenceSchema)
@requires(Access.READ)
def get_build_code_reference(username: str, project_name: str, build_id: int) -> dict[str, Any]:
    """Get the code that a build sees the requirement files of"""
    return code_reference(builds.find(find_project(username, project_name), build_id))


@blp.post(f"{BUILD}/coderef")
@blp.reads(CodeReferenceBody)
@blp.response(201, CodeReferenceSchema)
@requires(Access.SUBMIT)
def post_build_code_reference(username: str, project_name: str, build_id: int) -> dict[str, Any]:
    """Report where the build's code came from; kept as a note on the build"""
    build = builds.find(find_project(username, project_name), build_id)
    sent, text = read_code_reference("build")
    builds.set_note(build, "code", text)
    return code_reference(build) | sent


@blp.post(f"{BUILD}/statuses")
@blp.reads(StatusBody)
@blp.response(201, BuildStatusSchema)
@requires(Access.SUBMIT)
def post_build_status(username: str, project_name: str, build_id: int) -> BuildStatus:
    """Report a status

    A build that polyjob does not run takes it as its status, where it may follow. Of one that polyjob runs, nothing is
    kept and the answer is its latest status; only `stopped` from a person is a wish to stop it.
    """
    build = builds.find(find_project(username, project_name), build_id)
    sent = read_status(read_body())
    return builds.post_status(build, **sent, user=me() if identity.is_person() else None, settings=settings())


@blp.post(f"{BUILD}/_reconcile")
@blp.reads(StatusBody)
@blp.empty(200)
@requires(Access.SUBMIT)
def reconcile_build(username: str, project_name: str, build_id: int) -> Response:
    """Report what became of a build that polyjob does not run; of one that it runs, it knows better"""
    build = builds.find(find_project(username, project_name), build_id)
    sent = read_status(read_body()) | {"message": RECONCILED}
    builds.post_status(build, **sent, user=None, settings=settings())
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
    return unchanged(project, build.version) or page(list(query.limit(limit()).offset(offset())), query.count())


@blp.get(f"{BUILD}/statuses/<uuid>")
@blp.response(200, BuildStatusSchema)
@requires(Access.READ)
def get_build_status(username: str, project_name: str, build_id: int, uuid: str) -> BuildStatus:
    """Get one status of a build"""
    query = builds.list_statuses(builds.find(find_project(username, project_name), build_id))
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


def build_rows(rows: list[Build]) -> list[BuildRow]:
    """Return the builds as a list shows them to the current user."""
    bookmarked_ids = bookmarks.bookmarked_ids(me(), Build, [build.id for build in rows]) if rows else set()
    return [BuildRow.from_row(build, bookmarked=build.id in bookmarked_ids) for build in rows]


def _document(build: Build) -> dict[str, Any]:
    document: dict[str, Any] = _SCHEMA.dump(build_view(build))
    return document
