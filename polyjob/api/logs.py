"""Logs of jobs and builds: whole, by range, the last lines, followed; and what tracking clients send."""

from __future__ import annotations

from pathlib import Path

from flask import Response, request

from polyjob import builds, jobs, watch
from polyjob.api.blueprint import Blueprint
from polyjob.api.context import BUILD, JOB, empty, find_project, settings, store
from polyjob.api.logfiles import answer, append, read_posted, read_query
from polyjob.models import Build, Job

blp = Blueprint("logs", __name__, description="What jobs and builds wrote.")

_TEXT = {"text/plain": {"schema": {"type": "string", "format": "binary"}}}
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
            "description": "Go on with what is written until the job or build is done.",
            "schema": {"type": "boolean", "default": False},
        },
        {
            "name": "Range",
            "in": "header",
            "description": "One range of bytes. With `follow`, one without an end.",
            "schema": {"type": "string"},
        },
    ],
    "responses": {
        200: {"description": "The log's bytes as they are; none where nothing was written yet.", "content": _TEXT},
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
    "responses": {200: {"description": "Taken; dropped where polyjob runs the job itself."}},
}


@blp.get(f"{JOB}/logs")
@blp.doc(**_READ)
def get_job_log(username: str, project_name: str, job_id: int) -> Response:
    """Get a job's log: whole, a range, its last lines, or as it is written"""
    job = jobs.find(find_project(username, project_name), job_id)
    return _serve(job, store().job_log(job.uuid))


@blp.get(f"{BUILD}/logs")
@blp.doc(**_READ)
def get_build_log(username: str, project_name: str, build_id: int) -> Response:
    """Get a build's log: whole, a range, its last lines, or as it is written"""
    build = builds.find(find_project(username, project_name), build_id)
    return _serve(build, store().build_log(build.uuid))


@blp.post(f"{JOB}/logs")
@blp.doc(**_SEND)
def send_job_log(username: str, project_name: str, job_id: int) -> Response:
    """Add to the log of a job that polyjob does not run

    The log of a job that it runs has one writer, the job; what clients send for it is dropped.
    """
    job = jobs.find(find_project(username, project_name), job_id)
    if not job.is_managed:
        data = read_posted()
        store().make_job_folder(job.uuid)
        append(store().job_log(job.uuid), data, settings().log_limit)
    return empty(200)


def _serve(run: Job | Build, log: Path) -> Response:
    return answer(
        log,
        read_query(request.args),
        name=f"{run.unique_name.replace('.', '_')}.log",
        identity=run.uuid,
        is_done=run.status.is_done,
        follow=lambda start: watch.follow(run, log, start, request.environ.get("gunicorn.socket")),
    )
