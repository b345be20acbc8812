"""Logs of jobs and builds: whole, by range, followed, some lines, searched; and what tracking clients send."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from flask import Response, request

from polyjob.api.blueprint import Blueprint
from polyjob.api.log_download import answer, append, log_length, read_posted, read_query
from polyjob.api.log_params import LINES, SEARCH, SEARCH_SECONDS, LineQuery, read_line_query, read_search
from polyjob.api.log_sse import MIMETYPE, PATIENCE, encode_events
from polyjob.api.params import parse_digits
from polyjob.api.request_context import empty, find_project, settings, store
from polyjob.api.routes import BUILD, JOB
from polyjob.api.run_events import follow_run, wait_for_log
from polyjob.api.schemas.logs import LogLinesSchema, LogSearchSchema
from polyjob.auth.identity import authenticate
from polyjob.auth.permissions import Access, requires
from polyjob.db.models import Build, Job
from polyjob.errors import Invalid, Problem
from polyjob.logs.line_index import Lines
from polyjob.logs.lines import find_lines, read_lines
from polyjob.services import builds, jobs

blp = Blueprint("logs", __name__, description="What jobs and builds wrote.")

_TEXT = {"text/plain": {"schema": {"type": "string", "format": "binary"}}}
_SSE = {"text/event-stream": {"schema": {"type": "string"}}}
_READ = {
    "parameters": [
        {
            "name": "tail",
            "in": "query",
            "description": "Start with the last so many lines. Not together with `offset`.",
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
            "description": "Go on with what is written until the job or build is done; `sse` (or `Accept: "
            "text/event-stream`) as Server-Sent Events.",
            "schema": {"type": "string", "enum": ["true", "false", "sse"], "default": "false"},
        },
        {
            "name": "Last-Event-ID",
            "in": "header",
            "description": "Of Server-Sent Events: go on behind this one.",
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
            "description": "The log's bytes as they are; none where nothing was written yet.",
            "content": _TEXT | _SSE,
        },
        206: {"description": "The range of them that was asked for.", "content": _TEXT},
        304: {"description": "Nothing was added since the ETag in `If-None-Match`."},
        400: "BAD_REQUEST",
        416: {"description": "The log has no byte of that range."},
    },
}
_SEND = {
    "requestBody": {
        "description": "Text as it is, or a JSON string or list of them, each made whole lines.",
        "content": {
            "text/plain": {"schema": {"type": "string", "format": "binary"}},
            "application/json": {
                "schema": {"oneOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]}
            },
        },
    },
    "responses": {200: {"description": "Taken; dropped where polyjob runs the job or build itself."}},
}


@blp.get(f"{JOB}/logs")
@blp.doc(**_READ)
@requires(Access.READ, job_token=True)
def get_job_log(username: str, project_name: str, job_id: int) -> Response:
    """Get a job's log: whole, a range, its last lines, or as it is written"""
    job = jobs.find(find_project(username, project_name), job_id)
    return _serve(job, store().job_log(job.uuid))


@blp.get(f"{BUILD}/logs")
@blp.doc(**_READ)
@requires(Access.READ)
def get_build_log(username: str, project_name: str, build_id: int) -> Response:
    """Get a build's log: whole, a range, its last lines, or as it is written"""
    build = builds.find(find_project(username, project_name), build_id)
    return _serve(build, store().build_log(build.uuid))


@blp.post(f"{JOB}/logs")
@blp.doc(**_SEND)
@requires(Access.SUBMIT, job_token=True)
def send_job_log(username: str, project_name: str, job_id: int) -> Response:
    """Add to the log of a job that polyjob does not run

    The log of a job that it runs has one writer, the job; what clients send for it is dropped, and so is what comes
    for a job that is done.
    """
    job = jobs.find(find_project(username, project_name), job_id)
    return _append(job, store().make_job_folder, store().job_log)


@blp.post(f"{BUILD}/logs")
@blp.doc(**_SEND)
@requires(Access.SUBMIT)
def send_build_log(username: str, project_name: str, build_id: int) -> Response:
    """Add to the log of a build that polyjob does not run

    What clients send for a build that it runs, or that is done, is dropped.
    """
    build = builds.find(find_project(username, project_name), build_id)
    return _append(build, store().make_build_folder, store().build_log)


@blp.get(f"{JOB}/logs/lines")
@blp.doc(parameters=LINES, responses={400: "BAD_REQUEST"})
@blp.response(200, LogLinesSchema)
@requires(Access.READ, job_token=True)
def get_job_log_lines(username: str, project_name: str, job_id: int) -> dict[str, Any]:
    """Get some lines of a job's log, as a terminal would show them"""
    return _lines(lambda: jobs.find(find_project(username, project_name), job_id), store().job_log)


@blp.get(f"{BUILD}/logs/lines")
@blp.doc(parameters=LINES, responses={400: "BAD_REQUEST"})
@blp.response(200, LogLinesSchema)
@requires(Access.READ)
def get_build_log_lines(username: str, project_name: str, build_id: int) -> dict[str, Any]:
    """Get some lines of a build's log, as a terminal would show them"""
    return _lines(lambda: builds.find(find_project(username, project_name), build_id), store().build_log)


@blp.get(f"{JOB}/logs/search")
@blp.doc(parameters=SEARCH, responses={400: "BAD_REQUEST"})
@blp.response(200, LogSearchSchema)
@requires(Access.READ, job_token=True)
def search_job_log(username: str, project_name: str, job_id: int) -> Any:
    """Find the lines of a job's log that show a text"""
    job = jobs.find(find_project(username, project_name), job_id)
    return _found(store().job_log(job.uuid))


@blp.get(f"{BUILD}/logs/search")
@blp.doc(parameters=SEARCH, responses={400: "BAD_REQUEST"})
@blp.response(200, LogSearchSchema)
@requires(Access.READ)
def search_build_log(username: str, project_name: str, build_id: int) -> Any:
    """Find the lines of a build's log that show a text"""
    build = builds.find(find_project(username, project_name), build_id)
    return _found(store().build_log(build.uuid))


def _append(run: Job | Build, make_folder: Callable[[str], object], log_of: Callable[[str], Path]) -> Response:
    if not run.is_managed and not run.status.is_done:
        store().check_free_space(settings().disk_low)
        data = read_posted()
        make_folder(run.uuid)
        append(log_of(run.uuid), data, settings().log_limit)
    return empty(200)


def _lines(find: Callable[[], Job | Build], log_of: Callable[[str], Path]) -> dict[str, Any]:
    query = read_line_query(request.args)
    run = find()
    log = log_of(run.uuid)
    if query.wait and not run.status.is_done:
        wait_for_log(run, log, query.after, query.wait)
        authenticate()  # the key may be gone by now
        run = find()  # asked before the read: a log is complete before its row says so
    with Lines(log) as lines:
        return {
            "total": lines.total,
            "bytes": lines.length,
            "status": run.status,
            "is_done": run.status.is_done,
            "lines": _shown_lines(lines, query),
        }


def _shown_lines(log: Lines, query: LineQuery) -> list[dict[str, Any]]:
    return [
        {"number": line.number, "offset": line.offset, "bytes": line.bytes, "is_cut": line.is_cut}
        | ({"spans": line.spans} if query.styled else {"text": line.text})
        for line in read_lines(log, query.first, query.count)
    ]


def _found(log: Path) -> Any:
    query = read_search(request.args)
    with Lines(log) as lines:
        return find_lines(lines, query.text, query.after, query.count, SEARCH_SECONDS)


def _serve(run: Job | Build, log: Path) -> Response:
    if _wants_events():
        return _events(run, log)
    return answer(
        log,
        read_query(request.args),
        name=f"{run.unique_name.replace('.', '_')}.log",
        identity=run.uuid,
        is_done=run.status.is_done,
        follow=lambda start: follow_run(run, log, start),
    )


def _wants_events() -> bool:
    return request.args.get("follow") == "sse" or request.accept_mimetypes.best == MIMETYPE


def _events(run: Job | Build, log: Path) -> Response:
    """Server-Sent Events; see `polyjob.api.log_sse`."""
    last = request.headers.get("Last-Event-ID")
    offset = parse_digits(last) if last is not None else None
    if last is not None and offset is None:
        raise Invalid([Problem("Last-Event-ID", "`Last-Event-ID` must be the id of an event of this log.")])
    query = read_query({name: value for name, value in request.args.items() if name != "follow"})
    start = offset if offset is not None else query.start(log, log_length(log))
    response = Response(mimetype=MIMETYPE)
    response.headers["Cache-Control"] = "no-store"
    response.headers["X-Accel-Buffering"] = "no"
    if request.method != "HEAD":
        events = follow_run(run, log, start, idle_after=PATIENCE)
        response.response = encode_events(events)
        response.call_on_close(events.close)
    return response
