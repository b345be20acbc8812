"""The pages for people: what there is, and what can be done with it; everything escaped, and usable without script."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from flask import Blueprint, Response, current_app, render_template, request
from flask.blueprints import BlueprintSetupState
from peewee import Expression
from werkzeug.exceptions import HTTPException
from werkzeug.wrappers import Response as AnyResponse

from polyjob import auth, browsers, jobs
from polyjob.api.paging import root
from polyjob.api.problems import status_of
from polyjob.clock import now
from polyjob.errors import Forbidden, NotFound, PolyjobError, Unavailable
from polyjob.models import Project, User
from polyjob.pages import actions, cloning, forms, keys, reference, sessions, submitting, words
from polyjob.pages.lists import of_projects, read_page
from polyjob.pages.parts import about, duration, job_url, project_url

POLICY = (
    "default-src 'none'; style-src 'self'; img-src 'self'; script-src 'self'; connect-src 'self'; base-uri 'none'; "
    "form-action 'self'; frame-ancestors 'none'"
)


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


blp.before_request(browsers.renew)
for part in (sessions, actions, cloning, submitting, keys):
    blp.register_blueprint(part.blp)


@blp.record_once
def _add_globals(state: BlueprintSetupState) -> None:
    state.app.jinja_env.globals.update(forms.globals_of_templates() | actions.globals_of_templates())


@blp.context_processor
def _helpers() -> dict[str, Any]:
    return {"user": None, "job_url": job_url, "project_url": project_url, "duration": duration}


def secure(response: AnyResponse) -> AnyResponse:
    """What every page is served with: nothing runs, nothing is loaded from elsewhere, nothing is kept."""
    response.headers["Content-Security-Policy"] = POLICY
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
        return secure(sessions.ask())
    if isinstance(error, browsers.Stale):
        return _message(
            403, "This page was not up to date", "Nothing was done. Go back, load the page again, and try again."
        )
    if isinstance(error, HTTPException):
        return _message(error.code or 500, error.name, error.description or "")
    if isinstance(error, Forbidden):
        return _message(403, "Not allowed", str(error))
    if isinstance(error, Unavailable):
        response = _message(503, "Not now", str(error))
        response.headers["Retry-After"] = str(error.retry_after)
        return response
    return _message(status_of(error), "That did not work", str(error))


def _message(code: int, title: str, text: str) -> AnyResponse:
    page = render_template("message.html", title=title, text=text, user=auth.current_user())
    return secure(Response(page, code, mimetype="text/html"))
