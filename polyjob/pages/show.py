"""The routes of the pages that show something: lists, jobs, builds, the server's status, and the API reference."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import quote

from flask import Response, current_app, render_template, request
from werkzeug.wrappers import Response as AnyResponse

from polyjob.api.downloads import attach
from polyjob.api.outputs import readable_outputs
from polyjob.api.paging import root
from polyjob.api.path_prefixes import BUILD, BUILDS, JOB, PROJECT
from polyjob.api.request_context import find_build, find_job, find_project, me
from polyjob.auth.permissions import Access, requires
from polyjob.db.models import Job, Project, User
from polyjob.errors import Conflict, NotFound
from polyjob.pages import builds as build_pages
from polyjob.pages import job_list, logs, outputs, projects, reference, status
from polyjob.pages.blueprint import blp, render_with_etag
from polyjob.pages.job_page import job_context
from polyjob.pages.urls import api_url, job_url
from polyjob.services import jobs
from polyjob.storage.output_names import unescape_name
from polyjob.storage.outputs import PathNotFound

OUTPUT_FILE_POLICY = "default-src 'none'; style-src 'unsafe-inline'; sandbox"
"""The Content Security Policy of files that jobs wrote: browsers display them, and run nothing of them."""


# Lists.


@blp.get("/")
@requires(Access.READ)
def all_jobs() -> AnyResponse:
    return _job_list(me(), None)


@blp.get(PROJECT, strict_slashes=False)
@requires(Access.READ)
def project_jobs(username: str, project_name: str) -> AnyResponse:
    return _job_list(me(), find_project(username, project_name))


@blp.get("/projects", strict_slashes=False)
@requires(Access.READ)
def all_projects() -> AnyResponse:
    user = me()
    return render_with_etag(
        "projects.html", *job_list.state(None), context=lambda: {"page": projects.read_page(user, request.args)}
    )


def _job_list(user: User, project: Project | None) -> AnyResponse:
    return render_with_etag("jobs.html", *job_list.state(project), context=lambda: _list_context(user, project))


def _list_context(user: User, project: Project | None) -> dict[str, Any]:
    page = job_list.read_page(user, project, job_list.ListRequest.parse(request.args))
    filters = [
        ("All", ""),
        ("Running", job_list.RUNNING),
        ("Queued", "status:queued"),
        ("Failed", job_list.FAILED),
        ("Mine", f"user.username:{user.username}"),
    ]
    return {
        "project": project,
        "page": page,
        "filters": filters,
        "base_url": root(),
        "example_project": None if page.jobs else _example_project(user, project),
    }


def _example_project(user: User, project: Project | None) -> str:
    """Return `USER/PROJECT` for the command that an empty list shows."""
    if project is not None:
        return f"{project.user.username}/{project.name}"
    project = Project.select(Project.name).where(Project.user == user).order_by(Project.id).first()
    return f"{user.username}/{project.name if project else 'PROJECT'}"


# One job.


@blp.get(JOB, strict_slashes=False)
@requires(Access.READ)
def one_job(username: str, project_name: str, job_id: int) -> AnyResponse:
    user = me()
    project = find_project(username, project_name)
    state = jobs.visible_state(project, job_id)
    job = jobs.find(project, job_id)
    return render_with_etag("job.html", *state, *_live_outputs(job), context=lambda: job_context(job, user))


def _live_outputs(job: Job) -> tuple[object, ...]:
    """Return the outputs of a running job, for the ETag: they change without a new version of the job."""
    return () if job.status.is_done else (outputs.overview(job).entries,)


@blp.get(f"{JOB}/outputs", strict_slashes=False, defaults={"path": ""})
@blp.get(f"{JOB}/outputs/<path:path>")
@requires(Access.READ)
def job_outputs(username: str, project_name: str, job_id: int, path: str) -> AnyResponse:
    """Show a folder of the outputs, or a preview of a file."""
    job = find_job(username, project_name, job_id)
    context: dict[str, Any] = {"job": job, "path": path.strip("/"), "tree": None, "preview": None}
    try:
        job_files = readable_outputs(job)
        try:
            context["tree"] = outputs.folder(job_files, path)
        except PathNotFound:
            context["preview"] = outputs.preview(
                job_files,
                path,
                lambda image: f"{job_url(job)}/raw/{quote(image)}",
                shows_source="source" in request.args,
            )
    except Conflict as error:
        context["tree"] = outputs.Tree(problem=str(error))
    context["download"] = f"{api_url(job)}/outputs"
    return current_app.make_response(render_template("outputs.html", **context))


@blp.get(f"{JOB}/raw/<path:path>")
@requires(Access.READ)
def picture(username: str, project_name: str, job_id: int, path: str) -> AnyResponse:
    """Serve an image of a job's outputs. Other files can only be downloaded through the API."""
    job = find_job(username, project_name, job_id)
    media_type = outputs.IMAGES.get(outputs.file_extension(path))
    if media_type is None:
        raise NotFound("Not found.")
    size, content = readable_outputs(job).open_file(path)
    response = Response(content, mimetype=media_type)
    response.content_length = size
    response.headers["Content-Security-Policy"] = OUTPUT_FILE_POLICY
    if media_type == outputs.IMAGES["svg"]:
        attach(response, unescape_name(path).rsplit("/", 1)[-1])
    return response


blp.add_url_rule(f"{JOB}/log", view_func=logs.job_log, strict_slashes=False)


# Builds.


@blp.get(BUILDS, strict_slashes=False)
@requires(Access.READ)
def project_builds(username: str, project_name: str) -> AnyResponse:
    project = find_project(username, project_name)
    return render_with_etag(
        "builds.html",
        project.builds_version,
        context=lambda: {"project": project, "builds": build_pages.latest_builds(project)},
    )


@blp.get(BUILD, strict_slashes=False)
@requires(Access.READ)
def one_build(username: str, project_name: str, build_id: int) -> AnyResponse:
    build = find_build(username, project_name, build_id)
    return render_with_etag("build.html", *build_pages.state(build), context=lambda: build_pages.build_context(build))


blp.add_url_rule(f"{BUILD}/log", view_func=logs.build_log, strict_slashes=False)


# The server.


@blp.get("/status", strict_slashes=False)
@requires(Access.ADMINISTRATOR)
def server_status() -> AnyResponse:
    requested = request.args.get("hours", "")
    hours = int(requested) if requested in map(str, status.CHART_HOURS) else status.DEFAULT_CHART_HOURS
    context = status.status_context(current_app.config["SETTINGS"], hours)
    return current_app.make_response(render_template("status.html", chart_hours=status.CHART_HOURS, **context))


@blp.get("/docs/api", strict_slashes=False)
@requires(Access.OPEN)
def api_reference() -> str:
    """Show the API reference. It needs no sign-in, like the OpenAPI document that it is made from."""
    document: dict[str, Any] = current_app.extensions["flask-smorest"]["apis"][""]["ext_obj"].document()
    document = json.loads(json.dumps(document))  # turns HTTP statuses into strings, as in `openapi.json`
    operations = reference.operations(document)
    schemas = reference.schemas(document)
    tags = dict.fromkeys(operation.tag for operation in operations)
    groups = [(tag, [operation for operation in operations if operation.tag == tag]) for tag in tags]
    return render_template(
        "reference.html",
        groups=groups,
        schemas=schemas,
        schema_names={schema.name for schema in schemas},
        type_of=reference.type_of,
    )
