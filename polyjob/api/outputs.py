"""A job's outputs as one archive: sealed, or of a job that is not done as they are now."""

from __future__ import annotations

import io
from typing import Any

from flask import Response, request, send_file

from polyjob import jobs
from polyjob.api.blueprint import Blueprint
from polyjob.api.context import JOB, find_project, store
from polyjob.archives import EMPTY, LiveOutputs, Outputs
from polyjob.errors import Conflict, Invalid, Problem
from polyjob.models import Job
from polyjob.schemas.wire import OutputsTreeSchema
from polyjob.statuses import Status

MIMETYPE = "application/gzip"
PATH = {
    "name": "path",
    "in": "query",
    "description": "Path below the outputs folder, with or without slashes around it.",
    "schema": {"type": "string"},
}
RETRY_AFTER = 10

_BINARY = {"schema": {"type": "string", "format": "binary"}}
_ARCHIVE = {
    "responses": {
        206: {"description": "The range that was asked for.", "content": {MIMETYPE: _BINARY}},
        304: {"description": "It is as the ETag in `If-None-Match` says."},
        409: "CONFLICT",
        416: {"description": "The archive has no byte of that range."},
    }
}
_CONTENT = {"responses": {400: "BAD_REQUEST", 409: "CONFLICT"}}

blp = Blueprint("outputs", __name__, description="The files that jobs leave.")


@blp.get(f"{JOB}/outputs")
@blp.doc(**_ARCHIVE)
@blp.response(200, {"type": "string", "format": "binary"}, content_type=MIMETYPE)
def get_outputs(username: str, project_name: str, job_id: int) -> Response:
    """Download a job's outputs, a tar.gz with one folder of the job's number

    Of a job that is done, the archive has an `ETag` and takes `Range`, `If-Range` and `If-None-Match`.
    """
    return _answer(jobs.find(find_project(username, project_name), job_id))


@blp.get(f"{JOB}/outputs/download")
@blp.doc(**_ARCHIVE)
@blp.response(200, {"type": "string", "format": "binary"}, content_type=MIMETYPE)
def download_outputs(username: str, project_name: str, job_id: int) -> Response:
    """The same by its other name"""
    return _answer(jobs.find(find_project(username, project_name), job_id))


@blp.get(f"{JOB}/outputs/tree")
@blp.doc(parameters=[PATH], **_CONTENT)
@blp.response(200, OutputsTreeSchema)
def tree_of_outputs(username: str, project_name: str, job_id: int) -> dict[str, Any]:
    """List one folder of a job's outputs"""
    outputs = readable(jobs.find(find_project(username, project_name), job_id))
    files, folders = outputs.tree(request.args.get("path", ""))
    return {"files": [[shown_name(name), size] for name, size in files], "dirs": [shown_name(name) for name in folders]}


@blp.get(f"{JOB}/outputs/files")
@blp.doc(parameters=[PATH | {"required": True}], **_CONTENT)
@blp.response(200, {"type": "string", "format": "binary"}, content_type="application/octet-stream")
def file_of_outputs(username: str, project_name: str, job_id: int) -> Response:
    """Download one file of a job's outputs"""
    outputs = readable(jobs.find(find_project(username, project_name), job_id))
    path = request.args.get("path")
    if not path:
        raise Invalid([Problem("path", "Files view expect a path to the file.")])
    size, content = outputs.open_file(path)
    response = Response(content, mimetype="application/octet-stream")
    response.content_length = size
    name = path.rstrip("/").rsplit("/", 1)[-1]
    response.headers.set("Content-Disposition", "attachment", filename=name)
    return response


def readable(job: Job) -> Outputs | LiveOutputs:
    """The sealed outputs, or those that a local job writes right now. Raises Conflict while they are elsewhere."""
    sealed = store().outputs(job.uuid)
    if job.status.is_done or not sealed.is_empty:
        return sealed
    live = store().live_outputs(job.uuid)
    if live.folder.is_dir():
        return live
    if job.status is Status.RUNNING:
        raise Conflict("The outputs of this job are with its runner until it is done.", RETRY_AFTER)
    return sealed


def shown_name(name: str) -> str:
    """A name that is no text, as it can be shown; the archive has it as it is."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def _answer(job: Job) -> Response:
    name = f"{job.unique_name.replace('.', '_')}.tar.gz"
    outputs = readable(job)
    if isinstance(outputs, Outputs):
        return _sealed(outputs, name)
    response = Response(outputs.archive(str(job.id)), mimetype=MIMETYPE)
    response.headers["Content-Disposition"] = f'attachment; filename="{name}"'
    response.headers["Cache-Control"] = "no-store"
    return response


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
