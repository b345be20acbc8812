"""Jobs: list, create, get, update, stop, archive, delete, clone, bookmark."""

from __future__ import annotations

from typing import Any

from flask import Response, jsonify, request

from polyjob.api import list_queries, run_events
from polyjob.api.blueprint import Blueprint
from polyjob.api.dependencies import find_dependencies, find_readable_job
from polyjob.api.etags import unchanged
from polyjob.api.idempotency import create_idempotently
from polyjob.api.paging import root
from polyjob.api.params import MAX_WAIT_SECONDS, ParamReader, query_parameter
from polyjob.api.path_prefixes import JOB, JOBS
from polyjob.api.request_body import read_body
from polyjob.api.request_context import config_errors_at, empty, find_job, find_project, may_choose_folder, me, settings
from polyjob.api.schemas.bulk import DeletedSchema, NumbersBody, StoppedSchema, read_ids
from polyjob.api.schemas.job_bodies import (
    JobChangeBody,
    JobCloneBody,
    JobCreateBody,
    read_job_change,
    read_job_clone,
    read_job_create,
)
from polyjob.api.schemas.jobs import JobRowSchema, JobSchema, JobView
from polyjob.auth import permissions
from polyjob.auth.identity import authenticate, current_identity
from polyjob.auth.permissions import Access, requires
from polyjob.db.models import Job
from polyjob.services import bookmarks, cloning, job_queue, jobs, schedule_fires, submission
from polyjob.services.idempotency import IdempotentRequest

WAIT = query_parameter(
    "wait",
    f"Respond when the job is done, or after this many seconds (at most {MAX_WAIT_SECONDS:.0f}).",
    type="number",
    minimum=0,
)

blp = Blueprint("jobs", __name__, description="Jobs: what polyjob runs.")


@blp.get(JOBS)
@blp.page(JobRowSchema, queries=True)
@blp.has_etag
@requires(Access.READ)
def list_jobs(username: str, project_name: str) -> Any:
    """List the jobs of a project, last changed first"""
    project = find_project(username, project_name)
    return unchanged(project, project.jobs_version) or list_queries.page_of_jobs(project)


@blp.post(JOBS)
@blp.reads(JobCreateBody, required=True)
@blp.creates_once(JobSchema)
@requires(Access.SUBMIT)
def create_job(username: str, project_name: str) -> Response:
    """Submit a job

    The response is sent when the job is saved on disk. The job will run, or end with a status that says why not.
    """
    project = find_project(username, project_name)

    def create(idempotent: IdempotentRequest | None) -> Job:
        parsed = read_job_create(read_body())
        parsed.attributes["dependencies"] = find_dependencies(parsed.attributes.get("after"))
        with config_errors_at(parsed.config_pointer):
            return submission.create(
                project,
                me(),
                parsed.attributes,
                settings(),
                idempotent,
                may_choose_folder=may_choose_folder(),
                find_job=find_readable_job,
            )

    return create_idempotently(project, create, new_document)


@blp.get(JOB)
@blp.doc(parameters=[WAIT], responses={400: "BAD_REQUEST"})
@blp.response(200, JobSchema)
@blp.has_etag
@requires(Access.READ, job_token=True)
def get_job(username: str, project_name: str, job_id: int) -> Any:
    """Get a job"""
    seconds = _wait_seconds()
    project = find_project(username, project_name)
    if seconds and not jobs.find(project, job_id).status.is_done:
        run_events.wait_until_done(job_id, seconds)
        authenticate()  # the token may have been revoked meanwhile
        project = find_project(username, project_name)
    return unchanged(project, *jobs.visible_state(project, job_id)) or jsonify(_document(jobs.find(project, job_id)))


@blp.route(JOB, methods=["PATCH", "PUT"])
@blp.reads(JobChangeBody)
@blp.response(200, JobSchema)
@requires(Access.SUBMIT, job_token=True)
def update_job(username: str, project_name: str, job_id: int) -> Response:
    """Update a job's description, name, tags …, or its config while it is queued"""
    job = find_job(username, project_name, job_id)
    parsed = read_job_change(read_body())
    permissions.check_changes(parsed.attributes, current_identity())
    with config_errors_at(parsed.config_pointer):
        job = jobs.update(job, parsed.attributes, settings(), may_choose_folder=may_choose_folder())
    return jsonify(_document(job))


@blp.delete(JOB)
@blp.empty(204)
@requires(Access.MANAGE)
def delete_job(username: str, project_name: str, job_id: int) -> Response:
    """Stop a job, and delete it with its log and outputs"""
    jobs.delete(find_job(username, project_name, job_id), me(), settings())
    return empty(204)


@blp.post(f"{JOB}/stop")
@blp.doc(parameters=[WAIT])
@blp.empty(200)
@requires(Access.SUBMIT)
def stop_job(username: str, project_name: str, job_id: int) -> Response:
    """Stop a job; does nothing if it is done"""
    seconds = _wait_seconds()
    jobs.request_stop(find_job(username, project_name, job_id), me(), settings())
    if seconds:
        run_events.wait_until_done(job_id, seconds)
    return empty(200)


@blp.post(f"{JOB}/archive")
@blp.empty(200)
@requires(Access.SUBMIT)
def archive_job(username: str, project_name: str, job_id: int) -> Response:
    """Archive a job: stop it if it is not done, and hide it from lists"""
    jobs.archive(find_job(username, project_name, job_id), me(), settings())
    return empty(200)


@blp.post(f"{JOB}/restore")
@blp.empty(200)
@requires(Access.SUBMIT)
def restore_job(username: str, project_name: str, job_id: int) -> Response:
    """Restore an archived job"""
    jobs.restore(find_project(username, project_name), job_id)
    return empty(200)


# Bulk operations.


@blp.post(f"{JOBS}/stop")
@blp.reads(NumbersBody, required=True)
@blp.response(200, StoppedSchema)
@requires(Access.SUBMIT)
def stop_jobs(username: str, project_name: str) -> dict[str, list[int]]:
    """Stop several jobs; skips those that are done or do not exist"""
    project, ids = find_project(username, project_name), read_ids(read_body())
    stopped = jobs.stop_many(project, ids, me(), settings())
    return {"stopped": stopped, "skipped": [job_id for job_id in ids if job_id not in stopped]}


@blp.route(f"{JOBS}/delete", methods=["POST", "DELETE"])
@blp.reads(NumbersBody, required=True)
@blp.response(200, DeletedSchema)
@requires(Access.MANAGE)
def delete_jobs(username: str, project_name: str) -> dict[str, list[int]]:
    """Delete several jobs; skips those that do not exist"""
    project, ids = find_project(username, project_name), read_ids(read_body())
    deleted = jobs.delete_many(project, ids, me(), settings())
    return {"deleted": deleted, "skipped": [job_id for job_id in ids if job_id not in deleted]}


# Clones.


@blp.post(f"{JOB}/restart")
@blp.reads(JobCloneBody)
@blp.creates_once(JobSchema)
@requires(Access.SUBMIT)
def restart_job(username: str, project_name: str, job_id: int) -> Response:
    """Restart: create a new job with the same config, and with empty outputs"""
    return _clone(username, project_name, job_id, "restart")


@blp.post(f"{JOB}/resume")
@blp.reads(JobCloneBody)
@blp.creates_once(JobSchema)
@requires(Access.SUBMIT)
def resume_job(username: str, project_name: str, job_id: int) -> Response:
    """Resume: create a new job with the same config, which continues with the outputs"""
    return _clone(username, project_name, job_id, "resume")


@blp.post(f"{JOB}/copy")
@blp.reads(JobCloneBody)
@blp.creates_once(JobSchema)
@requires(Access.SUBMIT)
def copy_job(username: str, project_name: str, job_id: int) -> Response:
    """Copy: create a new job with the same config, and with a copy of the outputs"""
    return _clone(username, project_name, job_id, "copy")


def _clone(username: str, project_name: str, job_id: int, strategy: str) -> Response:
    project = find_project(username, project_name)

    def create(idempotent: IdempotentRequest | None) -> Job:
        job = jobs.find(project, job_id)
        parsed = read_job_clone(read_body())
        with config_errors_at(parsed.config_pointer):
            return cloning.clone(
                job,
                me(),
                strategy,
                parsed.attributes,
                settings(),
                idempotent,
                may_choose_folder=may_choose_folder(),
                find_job=find_readable_job,
            )

    return create_idempotently(project, create, new_document)


# Bookmarks.


@blp.post(f"{JOB}/bookmark")
@blp.empty(201)
@requires(Access.BOOKMARK)
def bookmark_job(username: str, project_name: str, job_id: int) -> Response:
    """Bookmark a job"""
    bookmarks.add(find_job(username, project_name, job_id), me())
    return empty(201)


@blp.delete(f"{JOB}/unbookmark")
@blp.empty(204)
@requires(Access.BOOKMARK)
def unbookmark_job(username: str, project_name: str, job_id: int) -> Response:
    """Remove a bookmark"""
    bookmarks.remove(find_job(username, project_name, job_id), me())
    return empty(204)


def _document(job: Job) -> dict[str, Any]:
    """Return the job with all its fields, as the current user sees it."""
    schedule_id = schedule_fires.schedule_id_of(job)
    return _compose(job, bookmarked=bookmarks.is_bookmarked(job, me()), schedule_id=schedule_id)


def new_document(job: Job, schedule_id: int | None = None) -> dict[str, Any]:
    """Return a job that was just created, with all its fields. `schedule_id` is the schedule that submitted it."""
    document = _compose(job, bookmarked=False, schedule_id=schedule_id)
    return document | {"notify_secret": job.notify_secret} if job.notify_secret else document


def _compose(job: Job, *, bookmarked: bool, schedule_id: int | None) -> dict[str, Any]:
    state = job.queue_state
    position = state.position if state and job_queue.is_queued(job) else job_queue.queue_position(job)
    return JobView.from_job(
        job,
        bookmarked=bookmarked,
        queue_position=position,
        waiting_reason=job_queue.waiting_reason(job, position, state),
        schedule_id=schedule_id,
        root=root(),
    ).to_document()


def _wait_seconds() -> float:
    reader = ParamReader(request.args)
    seconds = reader.wait_seconds()
    reader.check()
    return seconds
