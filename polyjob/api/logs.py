"""Logs of jobs and builds: whole, by range, the last lines, followed; and what tracking clients send."""

from __future__ import annotations

from pathlib import Path

from flask import Response, current_app, request
from flask_smorest import Blueprint

from polyjob import auth, builds, jobs, watch
from polyjob.api.logfiles import answer, append, read_posted, read_query
from polyjob.models import Build, Job
from polyjob.settings import Settings
from polyjob.store import Store

blp = Blueprint("logs", __name__, description="What jobs and builds wrote.")


@blp.get("/<username>/<project_name>/jobs/<int:job_id>/logs")
def job_log(username: str, project_name: str, job_id: int) -> Response:
    job = jobs.find(auth.find_project(auth.current_user(), username, project_name), job_id)
    return _serve(job, _store().job_log(job.uuid))


@blp.get("/<username>/<project_name>/builds/<int:build_id>/logs")
def build_log(username: str, project_name: str, build_id: int) -> Response:
    build = builds.find(auth.find_project(auth.current_user(), username, project_name), build_id)
    return _serve(build, _store().build_log(build.uuid))


@blp.post("/<username>/<project_name>/jobs/<int:job_id>/logs")
def send_job_log(username: str, project_name: str, job_id: int) -> Response:
    """The log of a job that polyjob runs has one writer, the job; what clients send for it is dropped."""
    job = jobs.find(auth.find_project(auth.current_user(), username, project_name), job_id)
    if not job.is_managed:
        _store().make_job_folder(job.uuid)
        append(_store().job_log(job.uuid), read_posted(), _settings().log_limit)
    return Response(status=200)


def _serve(run: Job | Build, log: Path) -> Response:
    return answer(
        log,
        read_query(request.args),
        name=f"{run.unique_name.replace('.', '_')}.log",
        identity=run.uuid,
        is_done=run.status.is_done,
        follow=lambda start: watch.follow(run, log, start, request.environ.get("gunicorn.socket")),
    )


def _settings() -> Settings:
    return current_app.config["SETTINGS"]


def _store() -> Store:
    return Store(_settings().data_dir)
