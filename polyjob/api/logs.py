"""Logs of jobs and builds: downloads, ranges, following, lines, searches, and text from tracking clients."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from flask import Response, request

from polyjob.api.blueprint import Blueprint
from polyjob.api.log_download import (
    HEARTBEAT_SECONDS,
    log_response,
    read_log_params,
    read_sent_text,
    wants_frames,
)
from polyjob.api.log_params import LINES, SEARCH, SEARCH_SECONDS, LineParams, read_line_params, read_search_params
from polyjob.api.log_sse import EVENT_SCHEMA, KEEPALIVE_SECONDS, MIMETYPE, encode_events
from polyjob.api.params import parse_digits
from polyjob.api.path_prefixes import BUILD, JOB
from polyjob.api.request_context import empty, find_build, find_job, settings, store
from polyjob.api.run_events import follow_run, wait_for_log
from polyjob.api.schemas.logs import LogLinesSchema, LogSearchSchema
from polyjob.auth.identity import authenticate
from polyjob.auth.permissions import Access, requires
from polyjob.db.models import Build, Job
from polyjob.errors import Invalid, Problem
from polyjob.formatting import LOG_FRAMES
from polyjob.logs.files import append_to_log, log_length
from polyjob.logs.line_index import LogLines
from polyjob.logs.lines import find_lines, read_lines
from polyjob.logs.times import LineTimes

blp = Blueprint("logs", __name__, description="The output of jobs and builds.")

_TEXT = {"text/plain": {"schema": {"type": "string", "format": "binary"}}}
_FRAMES = {LOG_FRAMES: {"schema": {"type": "string", "format": "binary"}}}
_SSE = {"text/event-stream": {"schema": EVENT_SCHEMA}}
_READ = {
    "parameters": [
        {
            "name": "tail",
            "in": "query",
            "description": "Start with this many of the last lines. Not together with `offset`.",
            "schema": {"type": "integer", "minimum": 0},
        },
        {
            "name": "offset",
            "in": "query",
            "description": "Start with this byte, counted from 0.",
            "schema": {"type": "integer", "minimum": 0},
        },
        {
            "name": "follow",
            "in": "query",
            "description": "Continue as the log is written, until the job or build is done; `sse` (or `Accept: "
            "text/event-stream`) sends Server-Sent Events.",
            "schema": {"type": "string", "enum": ["true", "false", "sse"], "default": "false"},
        },
        {
            "name": "times",
            "in": "query",
            "description": "Begin each line with the time at which it was written, and a blank. Not with "
            "`follow=sse`; a range is ignored.",
            "schema": {"type": "boolean", "default": False},
        },
        {
            "name": "Last-Event-ID",
            "in": "header",
            "description": "Continue Server-Sent Events after this one.",
            "schema": {"type": "string"},
        },
        {
            "name": "Range",
            "in": "header",
            "description": "One range of bytes. With `follow`, one without an end.",
            "schema": {"type": "string"},
        },
    ],
    "responses": {
        200: {
            "description": "The bytes of the log; none if nothing was written yet.",
            "content": _TEXT | _SSE | _FRAMES,
        },
        206: {"description": "The requested range of them.", "content": _TEXT},
        304: {"description": "Nothing was added since the state of the ETag in `If-None-Match`."},
        400: "BAD_REQUEST",
        416: {"description": "The log has no byte in that range."},
    },
}
_SEND = {
    "requestBody": {
        "description": "Plain text, or a JSON string or list of strings, each of which gets a line feed at its end.",
        "content": {
            "text/plain": {"schema": {"type": "string", "format": "binary"}},
            "application/json": {
                "schema": {"oneOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]}
            },
        },
    },
    "responses": {200: {"description": "Appended; dropped if polyjob runs the job or build itself, or if it is done."}},
}


@blp.get(f"{JOB}/logs")
@blp.doc(**_READ)
@requires(Access.READ, job_token=True)
def get_job_log(username: str, project_name: str, job_id: int) -> Response:
    """Get a job's log: all of it, a range, its last lines, or as it is written"""
    job = find_job(username, project_name, job_id)
    return _serve(job, store().job_log(job.uuid))


@blp.get(f"{BUILD}/logs")
@blp.doc(**_READ)
@requires(Access.READ)
def get_build_log(username: str, project_name: str, build_id: int) -> Response:
    """Get a build's log: all of it, a range, its last lines, or as it is written"""
    build = find_build(username, project_name, build_id)
    return _serve(build, store().build_log(build.uuid))


@blp.post(f"{JOB}/logs")
@blp.doc(**_SEND)
@requires(Access.SUBMIT, job_token=True)
def send_job_log(username: str, project_name: str, job_id: int) -> Response:
    """Append to the log of a job that polyjob does not run

    The log of a job that polyjob runs has one writer, the job: text from clients is dropped. It is also dropped if the
    job is done.
    """
    job = find_job(username, project_name, job_id)
    return _append(job, store().make_job_folder, store().job_log)


@blp.post(f"{BUILD}/logs")
@blp.doc(**_SEND)
@requires(Access.SUBMIT)
def send_build_log(username: str, project_name: str, build_id: int) -> Response:
    """Append to the log of a build that polyjob does not run

    Text for a build that polyjob runs, or that is done, is dropped.
    """
    build = find_build(username, project_name, build_id)
    return _append(build, store().make_build_folder, store().build_log)


@blp.get(f"{JOB}/logs/lines")
@blp.doc(parameters=LINES, responses={400: "BAD_REQUEST"})
@blp.response(200, LogLinesSchema)
@requires(Access.READ, job_token=True)
def get_job_log_lines(username: str, project_name: str, job_id: int) -> dict[str, Any]:
    """Get some lines of a job's log, as a terminal would show them"""
    return _lines(lambda: find_job(username, project_name, job_id), store().job_log)


@blp.get(f"{BUILD}/logs/lines")
@blp.doc(parameters=LINES, responses={400: "BAD_REQUEST"})
@blp.response(200, LogLinesSchema)
@requires(Access.READ)
def get_build_log_lines(username: str, project_name: str, build_id: int) -> dict[str, Any]:
    """Get some lines of a build's log, as a terminal would show them"""
    return _lines(lambda: find_build(username, project_name, build_id), store().build_log)


@blp.get(f"{JOB}/logs/search")
@blp.doc(parameters=SEARCH, responses={400: "BAD_REQUEST"})
@blp.response(200, LogSearchSchema)
@requires(Access.READ, job_token=True)
def search_job_log(username: str, project_name: str, job_id: int) -> Any:
    """Find the lines of a job's log that contain a text"""
    job = find_job(username, project_name, job_id)
    return _search(store().job_log(job.uuid))


@blp.get(f"{BUILD}/logs/search")
@blp.doc(parameters=SEARCH, responses={400: "BAD_REQUEST"})
@blp.response(200, LogSearchSchema)
@requires(Access.READ)
def search_build_log(username: str, project_name: str, build_id: int) -> Any:
    """Find the lines of a build's log that contain a text"""
    build = find_build(username, project_name, build_id)
    return _search(store().build_log(build.uuid))


def _append(run: Job | Build, make_folder: Callable[[str], object], log_of: Callable[[str], Path]) -> Response:
    if not run.is_managed and not run.status.is_done:
        store().check_free_space(settings().disk_low)
        data = read_sent_text()
        make_folder(run.uuid)
        append_to_log(log_of(run.uuid), data, settings().log_limit)
    return empty(200)


def _lines(find: Callable[[], Job | Build], log_of: Callable[[str], Path]) -> dict[str, Any]:
    query = read_line_params(request.args)
    run = find()
    log = log_of(run.uuid)
    if query.wait and not run.status.is_done:
        wait_for_log(run, log, query.after, query.wait)
        authenticate()  # the token may be revoked by now
        run = find()  # before the log is read: a log is complete before its row is done
    with LogLines(log) as lines:
        return {
            "total": lines.total,
            "bytes": lines.length,
            "status": run.status,
            "is_done": run.status.is_done,
            "lines": _line_objects(lines, query, log),
        }


def _line_objects(lines: LogLines, query: LineParams, log: Path) -> list[dict[str, Any]]:
    with LineTimes(log) as times:
        return [
            {"number": line.number, "offset": line.offset, "bytes": line.bytes, "is_cut": line.is_cut}
            | ({"spans": line.spans} if query.styled else {"text": line.text})
            | ({"time": times.at(line.offset)} if query.times else {})
            for line in read_lines(lines, query.first, query.count)
        ]


def _search(log: Path) -> Any:
    query = read_search_params(request.args)
    with LogLines(log) as lines:
        return find_lines(lines, query.text, query.after, query.count, SEARCH_SECONDS)


def _serve(run: Job | Build, log: Path) -> Response:
    if _wants_events():
        return _events(run, log)
    idle_after = HEARTBEAT_SECONDS if wants_frames() else None
    return log_response(
        log,
        read_log_params(request.args),
        name=f"{run.unique_name.replace('.', '_')}.log",
        identity=run.uuid,
        is_done=run.status.is_done,
        follow=lambda start: follow_run(run, log, start, idle_after=idle_after),
    )


def _wants_events() -> bool:
    return request.args.get("follow") == "sse" or request.accept_mimetypes.best == MIMETYPE


def _events(run: Job | Build, log: Path) -> Response:
    """Return the run's events as Server-Sent Events."""
    last_id = request.headers.get("Last-Event-ID")
    offset = parse_digits(last_id) if last_id is not None else None
    if last_id is not None and offset is None:
        raise Invalid([Problem("Last-Event-ID", "`Last-Event-ID` must be the id of an event of this log.")])
    query = read_log_params({name: value for name, value in request.args.items() if name != "follow"})
    if query.times:
        raise Invalid([Problem("times", "`times` cannot be given together with `follow=sse`.")])
    start = offset if offset is not None else query.start(log, log_length(log))
    response = Response(mimetype=MIMETYPE)
    response.headers["Cache-Control"] = "no-store"
    response.headers["X-Accel-Buffering"] = "no"
    if request.method != "HEAD":
        events = follow_run(run, log, start, idle_after=KEEPALIVE_SECONDS)
        response.response = encode_events(events)
        response.call_on_close(events.close)
    return response
