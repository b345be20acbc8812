"""Jobs: list, create, look at and wait for, change, stop, delete, clone, bookmark."""

from __future__ import annotations

from typing import Any

from flask import Response, request

from polyjob import bookmarks, jobs, watch
from polyjob.api import rows
from polyjob.api.blueprint import Blueprint
from polyjob.api.bodies import read_body
from polyjob.api.context import JOB, JOBS, config_stood_at, empty, find_project, me, settings
from polyjob.api.paging import page, root
from polyjob.errors import Invalid, Problem
from polyjob.models import Job
from polyjob.schemas.jobs import (
    JobChangeBody,
    JobCloneBody,
    JobCreateBody,
    JobRowSchema,
    JobSchema,
    JobView,
    read_change,
    read_clone,
    read_create,
)

LONGEST_WAIT = 60.0

blp = Blueprint("jobs", __name__, description="Jobs: what polyjob runs.")


@blp.get(JOBS)
@blp.page(JobRowSchema, queries=True)
def list_jobs(username: str, project_name: str) -> dict[str, Any]:
    """List the jobs of a project, last changed first"""
    found, count = rows.page_of_jobs(find_project(username, project_name))
    marked = bookmarks.marked(me(), Job, [job.id for job in found]) if found else set()
    return page([JobView(job, job.id in marked) for job in found], count)


@blp.post(JOBS)
@blp.takes(JobCreateBody, required=True)
@blp.response(201, JobSchema)
def create_job(username: str, project_name: str) -> JobView:
    """Submit a job

    Answered once the job is on disk: it will run, or end with a status that says why not.
    """
    project = find_project(username, project_name)
    sent = read_create(read_body())
    with config_stood_at(sent.pointer):
        return shown(jobs.create(project, me(), sent.attributes, settings()))


@blp.get(JOB)
@blp.doc(
    parameters=[
        {
            "name": "wait",
            "in": "query",
            "description": f"Answer once the job is done, or after so many seconds (at most {LONGEST_WAIT:.0f}).",
            "schema": {"type": "number", "minimum": 0},
        }
    ]
)
@blp.response(200, JobSchema)
def get_job(username: str, project_name: str, job_id: int) -> JobView:
    """Get a job"""
    seconds = _asked_wait()
    job = jobs.find(find_project(username, project_name), job_id)
    if seconds and not job.status.is_done:
        watch.wait_until_done(job.id, seconds, request.environ.get("gunicorn.socket"))
        job = jobs.find(job.project, job_id)
    return shown(job)


@blp.route(JOB, methods=["PATCH", "PUT"])
@blp.takes(JobChangeBody)
@blp.response(200, JobSchema)
def update_job(username: str, project_name: str, job_id: int) -> JobView:
    """Change a job's description, name, tags …, or its config while it waits in the queue"""
    job = jobs.find(find_project(username, project_name), job_id)
    sent = read_change(read_body())
    with config_stood_at(sent.pointer):
        return shown(jobs.update(job, sent.attributes, settings()))


@blp.delete(JOB)
@blp.nothing(204)
def delete_job(username: str, project_name: str, job_id: int) -> Response:
    """Stop a job and remove it with all that it wrote"""
    jobs.delete(jobs.find(find_project(username, project_name), job_id), me(), settings())
    return empty(204)


@blp.post(f"{JOB}/stop")
@blp.nothing(200)
def stop_job(username: str, project_name: str, job_id: int) -> Response:
    """Stop a job; one that is done stays as it is"""
    jobs.request_stop(jobs.find(find_project(username, project_name), job_id), me(), settings())
    return empty(200)


# Clones.


@blp.post(f"{JOB}/restart")
@blp.takes(JobCloneBody)
@blp.response(201, JobSchema)
def restart_job(username: str, project_name: str, job_id: int) -> JobView:
    """Run a job's config again, in a new job with empty outputs"""
    return _clone(username, project_name, job_id, "restart")


@blp.post(f"{JOB}/resume")
@blp.takes(JobCloneBody)
@blp.response(201, JobSchema)
def resume_job(username: str, project_name: str, job_id: int) -> JobView:
    """Run a job's config again, in a new job that goes on with the outputs"""
    return _clone(username, project_name, job_id, "resume")


@blp.post(f"{JOB}/copy")
@blp.takes(JobCloneBody)
@blp.response(201, JobSchema)
def copy_job(username: str, project_name: str, job_id: int) -> JobView:
    """Run a job's config again, in a new job with a copy of the outputs"""
    return _clone(username, project_name, job_id, "copy")


def _clone(username: str, project_name: str, job_id: int, strategy: str) -> JobView:
    job = jobs.find(find_project(username, project_name), job_id)
    sent = read_clone(read_body())
    with config_stood_at(sent.pointer):
        return shown(jobs.clone(job, me(), strategy, sent.attributes, settings()))


# Bookmarks.


@blp.post(f"{JOB}/bookmark")
@blp.nothing(201)
def bookmark_job(username: str, project_name: str, job_id: int) -> Response:
    """Bookmark a job; who may read it may do so"""
    bookmarks.add(jobs.find(find_project(username, project_name, to_write=False), job_id), me())
    return empty(201)


@blp.delete(f"{JOB}/unbookmark")
@blp.nothing(204)
def unbookmark_job(username: str, project_name: str, job_id: int) -> Response:
    """Remove a bookmark"""
    bookmarks.remove(jobs.find(find_project(username, project_name, to_write=False), job_id), me())
    return empty(204)


def shown(job: Job) -> JobView:
    """The job as whoever asks sees it."""
    return JobView(
        job,
        bookmarked=bookmarks.is_marked(job, me()),
        queue_position=jobs.queue_position(job),
        waiting=jobs.waiting_reason(job),
        root=root(),
    )


def _asked_wait() -> float:
    text = request.args.get("wait", "0")
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not seconds >= 0:
        raise Invalid([Problem("wait", "`wait` takes a number of seconds, 0 or more.")])
    return min(seconds, LONGEST_WAIT)
