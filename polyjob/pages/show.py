"""The pages that show: jobs, projects, one job with its outputs, builds, the server, and the API's reference."""

from __future__ import annotations

import json
from typing import Any

from flask import Response, current_app, render_template, request
from werkzeug.wrappers import Response as AnyResponse

from polyjob.api.downloads import attach
from polyjob.api.outputs import readable
from polyjob.api.paging import root
from polyjob.auth import identity
from polyjob.auth.permissions import NOT_ALLOWED, Access, requires
from polyjob.db.models import Job, Project, User
from polyjob.errors import Conflict, Forbidden, NotFound
from polyjob.pages import builds as build_pages
from polyjob.pages import lists, logs, outputs, projects, reference, status
from polyjob.pages.blueprint import blp, may_administer, person, rendered
from polyjob.pages.job_page import about, job_url
from polyjob.services import builds, jobs
from polyjob.storage.output_names import unescape_name
from polyjob.storage.outputs import PathNotFound

PROJECT = "/<username>/<project_name>"
JOB = f"{PROJECT}/jobs/<int:job_id>"
SANDBOX = "default-src 'none'; style-src 'unsafe-inline'; sandbox"
"""What a file of a job's is served under: it is shown, and can do nothing."""


# Lists.


@blp.get("/")
@requires(Access.READ)
def all_jobs() -> AnyResponse:
    return _list(person(), None)


@blp.get(PROJECT, strict_slashes=False)
@requires(Access.READ)
def project_jobs(username: str, project_name: str) -> AnyResponse:
    user = person()
    return _list(user, identity.find_project(user, username, project_name))


@blp.get("/projects", strict_slashes=False)
@requires(Access.READ)
def all_projects() -> AnyResponse:
    user = person()
    return rendered("projects.html", *lists.state(None), shown=lambda: {"page": projects.read_page(user, request.args)})


def _list(user: User, project: Project | None) -> AnyResponse:
    return rendered("jobs.html", *lists.state(project), shown=lambda: _about_list(user, project))


def _about_list(user: User, project: Project | None) -> dict[str, Any]:
    target = project.unique_name if project else f"{user.username}.{_first_project(user)}"
    page = lists.read_page(user, project, lists.Asked.read(request.args))
    filters = [
        ("All", ""),
        ("Running", lists.RUNNING),
        ("Queued", "status:created"),
        ("Failed", lists.FAILED),
        ("Mine", f"user.username:{user.username}"),
    ]
    return {
        "project": project,
        "page": page,
        "filters": filters,
        "base_url": root(),
        "target": target.replace(".", "/", 1),
    }


def _first_project(user: User) -> str:
    project = Project.select(Project.name).where(Project.user == user).order_by(Project.id).first()
    return project.name if project else "PROJECT"


# One job.


@blp.get(JOB, strict_slashes=False)
@requires(Access.READ)
def one_job(username: str, project_name: str, job_id: int) -> AnyResponse:
    user = person()
    project = identity.find_project(user, username, project_name)
    state = jobs.visible_state(project, job_id)
    job = jobs.find(project, job_id)
    return rendered("job.html", *state, *_live_outputs(job), shown=lambda: about(job, user))


def _live_outputs(job: Job) -> tuple[object, ...]:
    """What changes as a job writes, which no version tells."""
    return () if job.status.is_done else (outputs.overview(job).entries,)


@blp.get(f"{JOB}/outputs", strict_slashes=False, defaults={"path": ""})
@blp.get(f"{JOB}/outputs/<path:path>")
@requires(Access.READ)
def job_outputs(username: str, project_name: str, job_id: int, path: str) -> AnyResponse:
    job = _find_job(username, project_name, job_id)
    shown: dict[str, Any] = {"job": job, "path": path.strip("/"), "tree": None, "look": None}
    try:
        kept = readable(job)
        try:
            shown["tree"] = outputs.folder(kept, path)
        except PathNotFound:
            shown["look"] = outputs.look(kept, path)
    except Conflict as error:
        shown["tree"] = outputs.Tree(problem=str(error))
    shown["download"] = f"/api/v1{job_url(job)}/outputs"
    return current_app.make_response(render_template("outputs.html", **shown))


@blp.get(f"{JOB}/raw/<path:path>")
@requires(Access.READ)
def picture(username: str, project_name: str, job_id: int, path: str) -> AnyResponse:
    """A picture of a job's outputs; of anything else there is only the download."""
    job = _find_job(username, project_name, job_id)
    kind = outputs.IMAGES.get(outputs.ending(path))
    if kind is None:
        raise NotFound("Not found.")
    size, content = readable(job).open_file(path)
    response = Response(content, mimetype=kind)
    response.content_length = size
    response.headers["Content-Security-Policy"] = SANDBOX
    if kind == outputs.IMAGES["svg"]:
        attach(response, unescape_name(path).rsplit("/", 1)[-1])
    return response


def _find_job(username: str, project_name: str, job_id: int) -> Job:
    return jobs.find(identity.find_project(person(), username, project_name), job_id)


blp.add_url_rule(f"{JOB}/log", view_func=logs.job_log, strict_slashes=False)


# Builds.


@blp.get(f"{PROJECT}/builds", strict_slashes=False)
@requires(Access.READ)
def project_builds(username: str, project_name: str) -> AnyResponse:
    project = identity.find_project(person(), username, project_name)
    return rendered(
        "builds.html",
        project.builds_version,
        shown=lambda: {"project": project, "builds": build_pages.newest(project)},
    )


@blp.get(f"{PROJECT}/builds/<int:build_id>", strict_slashes=False)
@requires(Access.READ)
def one_build(username: str, project_name: str, build_id: int) -> AnyResponse:
    build = builds.find(identity.find_project(person(), username, project_name), build_id)
    return rendered("build.html", *build_pages.state(build), shown=lambda: build_pages.about(build))


blp.add_url_rule(f"{PROJECT}/builds/<int:build_id>/log", view_func=logs.build_log, strict_slashes=False)


# The server.


@blp.get("/status", strict_slashes=False)
@requires(Access.ADMINISTRATOR)
def server_status() -> AnyResponse:
    if not may_administer():
        raise Forbidden(NOT_ALLOWED)
    asked = request.args.get("hours", "")
    hours = int(asked) if asked in map(str, status.HOURS) else status.HOURS[1]
    return current_app.make_response(
        render_template("status.html", spans=status.HOURS, **status.about(current_app.config["SETTINGS"], hours))
    )


@blp.get("/docs/api", strict_slashes=False)
@requires(Access.OPEN)
def api_reference() -> str:
    """Open to all, as the document is that it shows."""
    document: dict[str, Any] = current_app.extensions["flask-smorest"]["apis"][""]["ext_obj"].spec.to_dict()
    document = json.loads(json.dumps(document))  # statuses as text, as every reader has them
    found = reference.operations(document)
    shapes = reference.shapes(document)
    groups = [(name, [item for item in found if item.group == name]) for name in dict.fromkeys(i.group for i in found)]
    return render_template(
        "reference.html",
        groups=groups,
        shapes=shapes,
        known={shape.name for shape in shapes},
        type_of=reference.type_of,
    )
