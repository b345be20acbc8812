"""The pages for people: lists of jobs and one job, read-only, without script, everything escaped."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from flask import Blueprint, Response, current_app, redirect, render_template, request, url_for
from peewee import Expression
from werkzeug.exceptions import HTTPException
from werkzeug.wrappers import Response as AnyResponse

from polyjob import auth, jobs
from polyjob.api.paging import root
from polyjob.clock import now
from polyjob.errors import Forbidden, NotFound, PolyjobError, Unavailable
from polyjob.models import Project, User
from polyjob.pages import logs, reference, words
from polyjob.pages.lists import of_projects, read_page
from polyjob.pages.parts import about, duration, job_url, project_url

POLICY = (
    "default-src 'none'; style-src 'self'; img-src 'self'; script-src 'self'; connect-src 'self'; frame-src 'self'; "
    "base-uri 'none'; form-action 'self'; frame-ancestors {}"
)
HOW_TO_SIGN_IN = "Each start of the server prints a link that signs you in, once."


def template_folder() -> Path:
    """The installed package's own folder, else the checkout's."""
    packaged = Path(__file__).parent.parent / "templates"
    return packaged if packaged.is_dir() else packaged.parent.parent / "templates"


blp = Blueprint(
    "pages",
    __name__,
    template_folder=str(template_folder()),
    static_folder=str(Path(__file__).parent.parent / "static"),
    static_url_path="/static",
)
blp.add_app_template_filter(words.lasting, "lasting")
blp.add_app_template_filter(words.size, "size")
blp.add_app_template_filter(lambda moment: words.ago(moment, now()), "ago")


@blp.context_processor
def _helpers() -> dict[str, Any]:
    return {"user": None, "job_url": job_url, "project_url": project_url, "duration": duration}


def secure(response: AnyResponse) -> AnyResponse:
    """What every page is served with: nothing but our own files runs, nothing is loaded from elsewhere or kept."""
    response.headers["Content-Security-Policy"] = POLICY.format("'self'" if logs.is_framed() else "'none'")
    response.headers["X-Content-Type-Options"] = "nosniff"
    response.headers["Referrer-Policy"] = "same-origin"
    if request.endpoint != "pages.static":
        response.headers["Cache-Control"] = "private, no-store"
    return response


blp.after_request(secure)


# Pages.


@blp.get("/")
def all_jobs() -> str:
    user = _user()
    return _list(user, None, of_projects(Project.select(Project.id).where(auth.readable(user))))


@blp.get("/<username>/<project_name>", strict_slashes=False)
def project_jobs(username: str, project_name: str) -> str:
    user = _user()
    project = auth.find_project(user, username, project_name)
    return _list(user, project, of_projects(project))


@blp.get("/<username>/<project_name>/jobs/<int:job_id>", strict_slashes=False)
def one_job(username: str, project_name: str, job_id: int) -> str:
    user = _user()
    job = jobs.find(auth.find_project(user, username, project_name), job_id)
    return render_template("job.html", user=user, **about(job))


blp.add_url_rule("/<username>/<project_name>/jobs/<int:job_id>/log", view_func=logs.job_log, strict_slashes=False)
blp.add_url_rule("/<username>/<project_name>/builds/<int:build_id>/log", view_func=logs.build_log, strict_slashes=False)


@blp.get("/docs/api", strict_slashes=False)
def api_reference() -> str:
    """Open to all, as the document is that it shows."""
    document: dict[str, Any] = current_app.extensions["flask-smorest"]["apis"][""]["ext_obj"].spec.to_dict()
    document = json.loads(json.dumps(document))  # statuses as text, as every reader has them
    found = reference.operations(document)
    shapes = reference.shapes(document)
    groups = [(name, [item for item in found if item.group == name]) for name in dict.fromkeys(i.group for i in found)]
    return render_template(
        "reference.html",
        user=auth.current_user(),
        groups=groups,
        shapes=shapes,
        known={shape.name for shape in shapes},
        type_of=reference.type_of,
    )


@blp.get("/sign-in/<key>", strict_slashes=False)
def sign_in(key: str) -> AnyResponse:
    """The one-time link. A person's click uses it up; a HEAD request or a browser that fetches ahead does not."""
    if request.method == "HEAD":
        return Response()
    if "prefetch" in request.headers.get("Sec-Purpose", ""):
        raise Unavailable("A link to sign in is not fetched ahead.")
    user = auth.use_sign_in_link(key)
    if user is None:
        return _message(410, "This link does not sign in", f"It was used already, or is too old. {HOW_TO_SIGN_IN}")
    auth.sign_in(user)
    return redirect(url_for("pages.all_jobs"), 303)


def _list(user: User, project: Project | None, where: Expression) -> str:
    target = project.unique_name if project else f"{user.username}.{_first_project(user)}"
    return render_template(
        "jobs.html",
        user=user,
        project=project,
        page=read_page(where, request.args),
        target=target.replace(".", "/", 1),
        base_url=root(),
    )


def _first_project(user: User) -> str:
    project = Project.select(Project.name).where(Project.user == user).order_by(Project.id).first()
    return project.name if project else "PROJECT"


# Errors, in the same voice.


def _user() -> User:
    user = auth.current_user()
    if user is None:
        raise auth.Unauthenticated("Nobody is signed in.")
    return user


@blp.errorhandler(PolyjobError)
@blp.errorhandler(HTTPException)
def error_page(error: PolyjobError | HTTPException) -> AnyResponse:
    """The page that says what went wrong; for paths of no page, too."""
    if isinstance(error, NotFound) or getattr(error, "code", None) == 404:
        return _message(404, "Not found", "There is nothing here, or nothing that you may see.")
    if isinstance(error, auth.Unauthenticated):
        response = _message(401, "You are not signed in", HOW_TO_SIGN_IN)
        response.headers["WWW-Authenticate"] = "Token"
        return response
    if isinstance(error, HTTPException):
        return _message(error.code or 500, error.name, error.description or "")
    if isinstance(error, Forbidden):
        return _message(403, "Not allowed", str(error))
    if isinstance(error, Unavailable):
        response = _message(503, "Not now", str(error))
        response.headers["Retry-After"] = str(error.retry_after)
        return response
    return _message(400, "That did not work", str(error))


def _message(code: int, title: str, text: str) -> AnyResponse:
    return secure(Response(render_template("message.html", title=title, text=text), code, mimetype="text/html"))
