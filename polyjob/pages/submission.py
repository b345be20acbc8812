"""A job by form: its fields and files, and the lines of a terminal that do the same; and a project to put it in."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from flask import Blueprint, make_response, redirect, render_template, request, url_for
from werkzeug.wrappers import Response as AnyResponse

from polyjob.api.paging import root
from polyjob.api.problems import status_of
from polyjob.api.request_context import PROJECT, config_errors_at, me, settings
from polyjob.api.schemas.projects import ProjectBody
from polyjob.auth import identity as auth
from polyjob.auth import permissions, sessions
from polyjob.auth.permissions import Access, requires
from polyjob.db.models import Project
from polyjob.errors import Invalid, Problem, TooLarge, Unavailable
from polyjob.jobconfig.checks import check_values, deserialize
from polyjob.pages.form_upload import Received, receive
from polyjob.pages.forms import (
    STALE,
    Form,
    by_field,
    checked,
    create_idempotently,
    done,
    new_once,
    project_for,
    read_form,
    who_asks,
)
from polyjob.pages.job_form import LABELS, curl_lines, errors_of, read_job, run_line
from polyjob.pages.job_page import project_url
from polyjob.services import projects, specs, submission
from polyjob.storage.uploads import Limits

FRAMING = 1 << 20
"""Bytes of a form around its files."""
FILES_GONE = "Browsers forget the files that were chosen. Choose them again."

blp = Blueprint("submitting", __name__)


@blp.app_template_global()
def may_submit(project: Project) -> bool:
    identity = auth.current_identity()
    return identity is not None and permissions.may("jobs.create_job", identity, project)


@blp.app_template_global()
def may_make_projects() -> bool:
    identity = auth.current_identity()
    return identity is not None and permissions.allows("projects.create_project", identity)


@blp.get("/submit")
@requires(Access.READ)
def choose_project() -> AnyResponse:
    """Where a person has one project alone, its form at once; where none, the form that makes one."""
    who_asks()
    found = [project for project in _own_projects() if may_submit(project)]
    if not found:
        return redirect(url_for("pages.submitting.new_project"), 303)
    if len(found) == 1:
        return redirect(f"{project_url(found[0])}/submit", 303)
    return make_response(render_template("choose_project.html", projects=found))


def _own_projects() -> list[Project]:
    return list(projects.list_projects(me()).where(auth.readable(me())))


@blp.get(f"{PROJECT}/submit")
@requires(Access.SUBMIT)
def submit_form(username: str, project_name: str) -> AnyResponse:
    return _page(project_for("jobs.create_job", username, project_name), Form())


@blp.post(f"{PROJECT}/submit")
@requires(Access.SUBMIT)
def submit(username: str, project_name: str) -> AnyResponse:
    project = project_for("jobs.create_job", username, project_name)
    with _received() as received:
        form = checked(received.fields, keep_stale=True)
        has_upload = received.has_files
        if form.is_stale:
            return _page(project, form, {"": [STALE]} | ({"upload": [FILES_GONE]} if has_upload else {}), 403)
        try:
            body, parsed = read_job(form)
            if form.text("do") == "show":
                return _page(project, form, commands=_commands(project, form, body))
            if received.fault is not None:
                raise received.fault
            with config_errors_at(parsed.config_pointer):
                number = _make(project, form, parsed.attributes, received)
        except (Invalid, TooLarge, Unavailable) as error:
            problems = getattr(error, "problems", None) or [Problem("", str(error))]
            errors = errors_of(problems, form)
            if has_upload:
                errors.setdefault("upload", []).append(FILES_GONE)
            return _page(project, form, errors, status_of(error))
    return done(f"{project_url(project)}/jobs/{number}", f"Job {number} is submitted.")


@blp.post(f"{PROJECT}/submit/commands")
@requires(Access.SUBMIT)
def show_commands(username: str, project_name: str) -> AnyResponse:
    """The lines alone, for the page that shows them while they are typed: `run` and `curl`; or `errors`, by field."""
    project = project_for("jobs.create_job", username, project_name)
    form = read_form()
    try:
        body, _ = read_job(form)
    except Invalid as error:
        return make_response({"errors": errors_of(error.problems, form)})
    run, curl = _commands(project, form, body)
    return make_response({"run": run, "curl": curl})


@contextmanager
def _received() -> Iterator[Received]:
    """The form and its files. Raises Foreign before anything is read, where the page was not ours."""
    sessions.refuse_foreign()
    given = settings()
    request.max_content_length = given.upload_limit + FRAMING
    with receive(given.data_dir, given.body_limit, _limits()) as received:
        yield received


def _limits() -> Limits:
    given = settings()
    return Limits(given.upload_limit, given.unpacked_limit, given.unpacked_files)


def _make(project: Project, form: Form, attributes: dict[str, Any], received: Received) -> int:
    if received.archive is not None:
        config = attributes.get("config")
        specs.check_runner_support(
            config or {}, settings().runner, len(settings().gpus)
        )  # or the code would be kept for nothing
        permissions.check("projects.upload_code", request.view_args or {}, who_asks())
        project.code = projects.store_upload(project, me(), received.archive, settings())
    code = project.code.digest if received.archive is not None else None
    return create_idempotently(
        form, project, lambda once: submission.create(project, me(), attributes, settings(), once), code
    )


def _commands(project: Project, form: Form, body: dict[str, Any]) -> tuple[str, str]:
    name, has_upload = f"{project.user.username}/{project.name}", bool(form.text("with_upload"))
    return run_line(name, form, has_upload), curl_lines(root(), name, body, has_upload)


def _page(
    project: Project,
    form: Form,
    errors: dict[str, list[str]] | None = None,
    status: int = 200,
    commands: tuple[str, str] | None = None,
) -> AnyResponse:
    page = render_template(
        "submit.html",
        project=project,
        path=f"{project_url(project)}/submit",
        form=form,
        labels=LABELS,
        errors=errors or {},
        commands=commands,
        once=new_once(),
        has_code=project.code_id is not None,
        upload_limit=settings().upload_limit,
    )
    return make_response(page, status)


# A project.


@blp.get("/new-project")
@requires(Access.ACCOUNT)
def new_project() -> AnyResponse:
    permissions.check("projects.create_project", {}, who_asks())
    return _project_page(Form())


@blp.post("/new-project")
@requires(Access.ACCOUNT)
def make_project() -> AnyResponse:
    permissions.check("projects.create_project", {}, who_asks())
    form = read_form(keep_stale=True)
    if form.is_stale:
        return _project_page(form, {"": [STALE]}, 403)
    body = {
        "name": form.word("name") or None,
        "description": form.text("description").strip() or None,
        "is_public": form.text("access") == "public",
    }
    try:
        check_values(body)
        project = projects.create(me(), deserialize(ProjectBody(), body, ""), settings())
    except Invalid as error:
        errors = by_field(error.problems, lambda pointer: pointer.split("/")[1] if pointer else "")
        return _project_page(form, errors, 400)
    return done(f"{project_url(project)}/submit", f"The project {project.name} is there. Submit its first job.")


def _project_page(form: Form, errors: dict[str, list[str]] | None = None, status: int = 200) -> AnyResponse:
    is_public = form.text("access") == "public" if form.fields else settings().public_projects
    page = render_template("new_project.html", form=form, is_public=is_public, errors=errors or {})
    return make_response(page, status)
