"""A job's outputs: as one tarball, as a tree of folders, and file by file.

The outputs of a job that is done are sealed and never change. Those of a running job are read live.
"""

from __future__ import annotations

import hashlib
import io
from typing import Any

from flask import Response, request, send_file

from polyjob.api.blueprint import Blueprint
from polyjob.api.downloads import attach, name_from_query, quote_name
from polyjob.api.paging import root
from polyjob.api.path_prefixes import JOB
from polyjob.api.request_context import find_job, store
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
    "description": "Path below the outputs folder, with or without slashes around it. Names are taken as the tree "
    "lists them, or as their bytes.",
    "schema": {"type": "string"},
}
AFTER = {
    "name": "after",
    "in": "query",
    "description": "Only names after this one. The `next` of a response includes it.",
    "schema": {"type": "string"},
}
MAX_LISTED = 5000
"""Names in one response."""
RETRY_AFTER_SECONDS = 10

_BINARY = {"schema": {"type": "string", "format": "binary"}}
_TARBALL = {
    "responses": {
        206: {"description": "The requested range.", "content": {MIMETYPE: _BINARY}},
        304: {"description": "Unchanged since the ETag in `If-None-Match`."},
        409: "CONFLICT",
        416: {"description": "The range is beyond the end of the tarball."},
    }
}
_CONTENT = {"responses": {400: "BAD_REQUEST", 409: "CONFLICT"}}
_UNCHANGED = {304: {"description": "Unchanged since the ETag in `If-None-Match`."}}

blp = Blueprint("outputs", __name__, description="Outputs: the files that jobs write.")


@blp.get(f"{JOB}/outputs")
@blp.doc(**_TARBALL)
@blp.response(200, {"type": "string", "format": "binary"}, content_type=MIMETYPE)
@requires(Access.READ)
def get_outputs(username: str, project_name: str, job_id: int) -> Response:
    """Download a job's outputs, a .tar.gz file with one folder named by the job's id

    If the job is done, the response has an `ETag`, and `Range`, `If-Range` and `If-None-Match` work.
    """
    return _tarball_response(find_job(username, project_name, job_id))


@blp.get(f"{JOB}/outputs/download")
@blp.doc(**_TARBALL)
@blp.response(200, {"type": "string", "format": "binary"}, content_type=MIMETYPE)
@requires(Access.READ)
def download_outputs(username: str, project_name: str, job_id: int) -> Response:
    """Download a job's outputs, by another path"""
    return _tarball_response(find_job(username, project_name, job_id))


@blp.get(f"{JOB}/outputs/tree")
@blp.doc(parameters=[PATH, AFTER], **_CONTENT)
@blp.response(200, OutputsTreeSchema)
@requires(Access.READ)
def tree_of_outputs(username: str, project_name: str, job_id: int) -> dict[str, Any]:
    """List one folder of a job's outputs, sorted by name

    A large folder is listed in parts: `next` is the address of the next part, and is missing in the last one. In names,
    control characters and bytes that are not UTF-8 are written as `%` and two hex digits. A `%` that precedes two hex
    digits in the name itself is written as `%25`. Names are valid in `path` as they are listed.
    """
    outputs = readable_outputs(find_job(username, project_name, job_id))
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

    If the job is done, the response has an `ETag`, and `If-None-Match` works.
    """
    outputs = readable_outputs(find_job(username, project_name, job_id))
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


def readable_outputs(job: Job) -> Outputs | LiveOutputs:
    """Return the sealed outputs, or the live ones of a local job. Raises Conflict while only the runner has them."""
    sealed = store().outputs(job.uuid)
    if job.status.is_done or not sealed.is_empty:
        return sealed
    live = store().live_outputs(job.uuid)
    if live.folder.is_dir():
        return live
    if job.status is Status.RUNNING:
        raise Conflict("The outputs of this job are available when it is done.", RETRY_AFTER_SECONDS)
    return sealed


def _tarball_response(job: Job) -> Response:
    name = f"{job.unique_name.replace('.', '_')}.tar.gz"
    outputs = readable_outputs(job)
    if isinstance(outputs, Outputs):
        return _sealed_response(outputs, name)
    response = Response(outputs.tarball(str(job.id)), mimetype=MIMETYPE)
    response.headers["Cache-Control"] = "no-store"
    return attach(response, name)


def _sealed_response(outputs: Outputs, name: str) -> Response:
    size = len(EMPTY) if outputs.is_empty else outputs.path.stat().st_size
    _ignore_unsupported_range(size)
    return send_file(
        io.BytesIO(EMPTY) if outputs.is_empty else outputs.path,
        mimetype=MIMETYPE,
        as_attachment=True,
        download_name=name,
        etag=outputs.etag,
        conditional=True,
    )


def _ignore_unsupported_range(size: int) -> None:
    """Serve everything if the request has several ranges, another unit, or a suffix longer than the tarball."""
    header = request.range
    if header is None or header.units != "bytes" or len(header.ranges) != 1 or header.ranges[0][0] < -size:
        request.environ.pop("HTTP_RANGE", None)
