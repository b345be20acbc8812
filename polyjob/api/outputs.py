"""A job's outputs as one archive: sealed, or of a job that is not done as they are now."""

from __future__ import annotations

import io

from flask import Response, request, send_file

from polyjob import jobs
from polyjob.api.blueprint import Blueprint
from polyjob.api.context import JOB, find_project, store
from polyjob.archives import EMPTY, Outputs
from polyjob.errors import Conflict
from polyjob.models import Job
from polyjob.statuses import Status

MIMETYPE = "application/gzip"
RETRY_AFTER = 10

blp = Blueprint("outputs", __name__, description="The files that jobs leave.")


@blp.get(f"{JOB}/outputs")
@blp.response(200, {"type": "string", "format": "binary"}, content_type=MIMETYPE)
def get_outputs(username: str, project_name: str, job_id: int) -> Response:
    """Download a job's outputs, a tar.gz with one folder of the job's number

    Of a job that is done, the archive has an `ETag` and takes `Range`, `If-Range` and `If-None-Match`.
    """
    return _answer(jobs.find(find_project(username, project_name), job_id))


@blp.get(f"{JOB}/outputs/download")
@blp.response(200, {"type": "string", "format": "binary"}, content_type=MIMETYPE)
def download_outputs(username: str, project_name: str, job_id: int) -> Response:
    """The same by its other name"""
    return _answer(jobs.find(find_project(username, project_name), job_id))


def _answer(job: Job) -> Response:
    name = f"{job.unique_name.replace('.', '_')}.tar.gz"
    sealed = store().outputs(job.uuid)
    if job.status.is_done or not sealed.is_empty:
        return _sealed(sealed, name)
    live = store().live_outputs(job.uuid)
    if live.folder.is_dir():
        response = Response(live.archive(str(job.id)), mimetype=MIMETYPE)
        response.headers["Content-Disposition"] = f'attachment; filename="{name}"'
        response.headers["Cache-Control"] = "no-store"
        return response
    if job.status is not Status.RUNNING:
        return _sealed(sealed, name)  # nothing has run, so there is nothing
    raise Conflict("The outputs of this job are with its runner until it is done.", RETRY_AFTER)


def _sealed(outputs: Outputs, name: str) -> Response:
    size = len(EMPTY) if outputs.is_empty else outputs.path.stat().st_size
    _forget_odd_ranges(size)
    return send_file(
        io.BytesIO(EMPTY) if outputs.is_empty else outputs.path,
        mimetype=MIMETYPE,
        as_attachment=True,
        download_name=name,
        etag=outputs.etag,
        conditional=True,
    )


def _forget_odd_ranges(size: int) -> None:
    """Several ranges, another unit, or more of the end than there is: the answer is the whole."""
    asked = request.range
    if asked is None or asked.units != "bytes" or len(asked.ranges) != 1 or asked.ranges[0][0] < -size:
        request.environ.pop("HTTP_RANGE", None)
