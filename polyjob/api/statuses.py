"""The history of a job, and what a client inside one reports: statuses, heartbeats, code references."""

from __future__ import annotations

from typing import Any

from flask import Response

from polyjob.api.blueprint import Blueprint
from polyjob.api.etags import unchanged
from polyjob.api.paging import limit, offset, page
from polyjob.api.request_body import read_body
from polyjob.api.request_context import empty, find_project, me, settings
from polyjob.api.routes import JOB
from polyjob.api.schemas.statuses import (
    CodeReferenceBody,
    CodeReferenceSchema,
    JobStatusSchema,
    StatusBody,
    read_status,
)
from polyjob.auth import identity
from polyjob.auth.permissions import Access, requires
from polyjob.db.models import Build, Job, JobStatus
from polyjob.errors import NotFound
from polyjob.jobconfig.checks import check_values, deserialize
from polyjob.services import jobs

BRANCH = "master"
RECONCILED = "Status was reconciled."
REFERENCE_LENGTH = 200

blp = Blueprint("statuses", __name__, description="What became of a job, and what it reports of itself.")


@blp.get(f"{JOB}/statuses")
@blp.page(JobStatusSchema)
@blp.has_etag
@requires(Access.READ, job_token=True)
def list_statuses(username: str, project_name: str, job_id: int) -> Any:
    """List the statuses of a job, oldest first"""
    project = find_project(username, project_name)
    version, *_ = jobs.visible_state(project, job_id)
    query = jobs.list_statuses(job_id)
    return unchanged(project, version) or page(list(query.limit(limit()).offset(offset())), query.count())


@blp.get(f"{JOB}/statuses/<uuid>")
@blp.response(200, JobStatusSchema)
@requires(Access.READ, job_token=True)
def get_status(username: str, project_name: str, job_id: int, uuid: str) -> JobStatus:
    """Get one status of a job"""
    query = jobs.list_statuses(jobs.find(find_project(username, project_name), job_id))
    status: JobStatus | None = query.where(JobStatus.uuid == uuid.replace("-", "").lower()).first()
    if status is None:
        raise NotFound("Not found.")
    return status


@blp.post(f"{JOB}/statuses")
@blp.reads(StatusBody)
@blp.response(201, JobStatusSchema)
@requires(Access.SUBMIT, job_token=True)
def post_status(username: str, project_name: str, job_id: int) -> JobStatus:
    """Report a status

    A job that polyjob runs keeps it as a note, and the answer is its latest status; only `stopped` from a person is a
    wish to stop it. Any other job takes it as its status, where it may follow.
    """
    job = jobs.find(find_project(username, project_name), job_id)
    sent = read_status(read_body())
    return jobs.post_status(job, **sent, user=me() if identity.is_person() else None, settings=settings())


@blp.post(f"{JOB}/_reconcile")
@blp.reads(StatusBody)
@blp.empty(200)
@requires(Access.SUBMIT)
def reconcile(username: str, project_name: str, job_id: int) -> Response:
    """Report what became of a job that polyjob does not run; of one that it runs, it knows better"""
    job = jobs.find(find_project(username, project_name), job_id)
    sent = read_status(read_body()) | {"message": RECONCILED}
    jobs.post_status(job, **sent, user=None, settings=settings())
    return empty(200)


@blp.post(f"{JOB}/_heartbeat")
@blp.empty(200)
@requires(Access.SUBMIT, job_token=True)
def heartbeat(username: str, project_name: str, job_id: int) -> Response:
    """Say that the job lives; polyjob asks the system itself, and keeps nothing of this"""
    jobs.find(find_project(username, project_name), job_id)
    return empty(200)


@blp.get(f"{JOB}/coderef")
@blp.response(200, CodeReferenceSchema)
@requires(Access.READ, job_token=True)
def get_code_reference(username: str, project_name: str, job_id: int) -> dict[str, Any]:
    """Get the code that a job runs with"""
    return code_reference(jobs.find(find_project(username, project_name), job_id))


@blp.post(f"{JOB}/coderef")
@blp.reads(CodeReferenceBody)
@blp.response(201, CodeReferenceSchema)
@requires(Access.SUBMIT, job_token=True)
def post_code_reference(username: str, project_name: str, job_id: int) -> dict[str, Any]:
    """Report where the job's code came from; kept as a note on the job"""
    job = jobs.find(find_project(username, project_name), job_id)
    sent, text = read_code_reference("job")
    jobs.set_note(job, "code", text)
    return code_reference(job) | sent


def read_code_reference(kind: str) -> tuple[dict[str, Any], str | None]:
    """Return the code reference that the request reports, and the note about it that a run of this kind keeps. Raises
    Invalid."""
    body = read_body()
    check_values(body)
    sent = {name: value for name, value in deserialize(CodeReferenceBody(), body, "").items() if value is not None}
    words = [str(sent[name])[:REFERENCE_LENGTH] for name in ("git_url", "branch", "commit") if sent.get(name)]
    return sent, f"The {kind} reported its code: {', '.join(words)}." if words else None


def code_reference(run: Job | Build) -> dict[str, Any]:
    """The code of a job or build; nulls where it has none, as clients expect it."""
    nothing: dict[str, Any] = dict.fromkeys(CodeReferenceSchema().fields)
    if run.code is None:
        return nothing
    known = {"id": run.code.id, "commit": run.code.digest, "head": run.code.digest, "branch": BRANCH}
    return nothing | known | {"is_dirty": False, "repo": run.project.unique_name}
