"""The statuses of a job, and the reports of clients inside it: statuses, heartbeats, code references."""

from __future__ import annotations

from typing import Any

from flask import Response

from polyjob.api.blueprint import Blueprint
from polyjob.api.etags import unchanged
from polyjob.api.paging import page_of_query
from polyjob.api.path_prefixes import JOB
from polyjob.api.request_body import read_body
from polyjob.api.request_context import empty, find_job, find_project, me, settings
from polyjob.api.schemas.common import load_body
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
from polyjob.services import jobs

BRANCH = "master"
RECONCILED = "Status was reconciled."
MAX_REFERENCE_LENGTH = 200

blp = Blueprint("statuses", __name__, description="Statuses of a job, and reports from inside it.")


@blp.get(f"{JOB}/statuses")
@blp.page(JobStatusSchema)
@blp.has_etag
@requires(Access.READ, job_token=True)
def list_statuses(username: str, project_name: str, job_id: int) -> Any:
    """List the statuses of a job, oldest first"""
    project = find_project(username, project_name)
    version, *_ = jobs.visible_state(project, job_id)
    query = jobs.list_statuses(job_id)
    return unchanged(project, version) or page_of_query(query)


@blp.get(f"{JOB}/statuses/<uuid>")
@blp.response(200, JobStatusSchema)
@requires(Access.READ, job_token=True)
def get_status(username: str, project_name: str, job_id: int, uuid: str) -> JobStatus:
    """Get one status of a job"""
    query = jobs.list_statuses(find_job(username, project_name, job_id))
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

    A managed job stores the report, and the response is its latest status; but `stopped`, reported by a person, stops
    the job. An unmanaged job changes to this status, if the transition is allowed.
    """
    job = find_job(username, project_name, job_id)
    report = read_status(read_body())
    return jobs.post_status(job, **report, user=me() if identity.is_person() else None, settings=settings())


@blp.post(f"{JOB}/_reconcile")
@blp.reads(StatusBody)
@blp.empty(200)
@requires(Access.SUBMIT)
def reconcile(username: str, project_name: str, job_id: int) -> Response:
    """Report the status of an unmanaged job; a managed job ignores it"""
    job = find_job(username, project_name, job_id)
    report = read_status(read_body()) | {"message": RECONCILED}
    jobs.post_status(job, **report, user=None, settings=settings())
    return empty(200)


@blp.post(f"{JOB}/_heartbeat")
@blp.empty(200)
@requires(Access.SUBMIT, job_token=True)
def heartbeat(username: str, project_name: str, job_id: int) -> Response:
    """Accept a heartbeat of a job; it has no effect"""
    find_job(username, project_name, job_id)
    return empty(200)


@blp.get(f"{JOB}/coderef")
@blp.response(200, CodeReferenceSchema)
@requires(Access.READ, job_token=True)
def get_code_reference(username: str, project_name: str, job_id: int) -> dict[str, Any]:
    """Get the upload that a job runs with"""
    return code_reference(find_job(username, project_name, job_id))


@blp.post(f"{JOB}/coderef")
@blp.reads(CodeReferenceBody)
@blp.response(201, CodeReferenceSchema)
@requires(Access.SUBMIT, job_token=True)
def post_code_reference(username: str, project_name: str, job_id: int) -> dict[str, Any]:
    """Report where the job's code comes from; saved as a note on the job"""
    job = find_job(username, project_name, job_id)
    reference, text = read_code_reference("job")
    jobs.set_note(job, "code", text)
    return code_reference(job) | reference


def read_code_reference(kind: str) -> tuple[dict[str, Any], str | None]:
    """Return the reported code reference, and the text of the note that a job or build (`kind`) stores about it.

    Raises Invalid.
    """
    body = load_body(CodeReferenceBody(), read_body())
    reference = {name: value for name, value in body.items() if value is not None}
    words = [
        str(reference[name])[:MAX_REFERENCE_LENGTH] for name in ("git_url", "branch", "commit") if reference.get(name)
    ]
    return reference, f"The {kind} reported its code: {', '.join(words)}." if words else None


def code_reference(run: Job | Build) -> dict[str, Any]:
    """Return the upload of a run as a code reference. All members are null without an upload, as clients expect."""
    reference: dict[str, Any] = dict.fromkeys(CodeReferenceSchema().fields)
    if run.code is None:
        return reference
    upload = {"id": run.code.id, "commit": run.code.digest, "head": run.code.digest, "branch": BRANCH}
    return reference | upload | {"is_dirty": False, "repo": run.project.unique_name}
