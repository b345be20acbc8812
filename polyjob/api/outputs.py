"""A job's outputs as one archive: sealed, or of a job that is not done as they are now."""

from __future__ import annotations

import hashlib
import io
from typing import Any

from flask import Response, request, send_file

from polyjob.api.blueprint import Blueprint
from polyjob.api.downloads import attach, name_from_query, quote_name
from polyjob.api.paging import root
from polyjob.api.request_context import find_job, store
from polyjob.api.routes import JOB
from polyjob.api.schemas.common import OutputsTreeSchema
from polyjob.auth.permissions import Access, requires
from polyjob.db.models import Job
from polyjob.errors import Conflict, Invalid, Problem
from polyjob.statuses import Status
from polyjob.storage.live_outputs import LiveOutputs
from polyjob.storage.output_names import escape_name, unescape_name
from polyjob.storage.outputs import EMPTY, Outputs

MIMETYPE = "application/gzip"
PATH = {
    "name": "path",
    "in": "query",
    "description": "Path below the outputs folder, with or without slashes around it. Takes names as they are listed, "
    "and also their bytes.",
    "schema": {"type": "string"},
}
AFTER = {
    "name": "after",
    "in": "query",
    "description": "Only names behind this one; `next` of the answer before has it.",
    "schema": {"type": "string"},
}
MAX_LISTED = 5000
"""Names in one answer."""
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
_UNCHANGED = {304: {"description": "It is as the ETag in `If-None-Match` says."}}

blp = Blueprint("outputs", __name__, description="The files that jobs leave.")


@blp.get(f"{JOB}/outputs")
@blp.doc(**_ARCHIVE)
@blp.response(200, {"type": "string", "format": "binary"}, content_type=MIMETYPE)
@requires(Access.READ)
def get_outputs(username: str, project_name: str, job_id: int) -> Response:
    """Download a job's outputs, a tar.gz with one folder of the job's number

    Of a job that is done, the archive has an `ETag` and takes `Range`, `If-Range` and `If-None-Match`.
    """
    return _answer(find_job(username, project_name, job_id))


@blp.get(f"{JOB}/outputs/download")
@blp.doc(**_ARCHIVE)
@blp.response(200, {"type": "string", "format": "binary"}, content_type=MIMETYPE)
@requires(Access.READ)
def download_outputs(username: str, project_name: str, job_id: int) -> Response:
    """The same by its other name"""
    return _answer(find_job(username, project_name, job_id))


@blp.get(f"{JOB}/outputs/tree")
@blp.doc(parameters=[PATH, AFTER], **_CONTENT)
@blp.response(200, OutputsTreeSchema)
@requires(Access.READ)
def tree_of_outputs(username: str, project_name: str, job_id: int) -> dict[str, Any]:
    """List one folder of a job's outputs, in order of name

    A large folder comes in parts: `next` is the address of the next one, and is left out of the last. In names, control
    characters and bytes that are not UTF-8 are `%` and two hex digits; a `%` before such digits of the name's own is
    `%25`. Each name can be asked for as it is listed.
    """
    outputs = readable(find_job(username, project_name, job_id))
    path, after = name_from_query("path"), name_from_query("after")
    files, folders = outputs.tree(path, after, MAX_LISTED + 1)
    names = sorted([*folders, *(name for name, _ in files)])
    listed: dict[str, Any] = {}
    if len(names) > MAX_LISTED:
        last = names[MAX_LISTED - 1]
        files, folders = [file for file in files if file[0] <= last], [name for name in folders if name <= last]
        query = f"path={quote_name(path)}&after={quote_name(last)}"
        listed["next"] = f"{root()}{request.path}?{query}"
    listed["files"] = [[escape_name(name), size] for name, size in files]
    listed["dirs"] = [escape_name(name) for name in folders]
    return listed


@blp.get(f"{JOB}/outputs/files")
@blp.doc(parameters=[PATH | {"required": True}], responses=_CONTENT["responses"] | _UNCHANGED)
@blp.response(200, {"type": "string", "format": "binary"}, content_type="application/octet-stream")
@requires(Access.READ)
def file_of_outputs(username: str, project_name: str, job_id: int) -> Response:
    """Download one file of a job's outputs

    Of a job that is done, the file has an `ETag` and takes `If-None-Match`.
    """
    outputs = readable(find_job(username, project_name, job_id))
    path = name_from_query("path")
    if not path:
        raise Invalid([Problem("path", "Files view expect a path to the file.")])
    size, content = outputs.open_file(path)
    response = Response(content, mimetype="application/octet-stream")
    response.content_length = size
    attach(response, unescape_name(path).rstrip("/").rsplit("/", 1)[-1])
    if isinstance(outputs, LiveOutputs):
        return response
    name = path.strip("/").encode("utf-8", "surrogateescape")
    response.set_etag(hashlib.sha256(outputs.etag.encode() + b"/" + name).hexdigest()[:32])
    response.headers["Cache-Control"] = "private, no-cache"
    response.make_conditional(request)
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


def _answer(job: Job) -> Response:
    name = f"{job.unique_name.replace('.', '_')}.tar.gz"
    outputs = readable(job)
    if isinstance(outputs, Outputs):
        return _sealed(outputs, name)
    response = Response(outputs.archive(str(job.id)), mimetype=MIMETYPE)
    response.headers["Cache-Control"] = "no-store"
    return attach(response, name)


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
