"""The forms for a new job and a new project."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from flask import Blueprint, make_response, redirect, render_template, request, url_for
from werkzeug.wrappers import Response as AnyResponse

from polyjob.api.dependencies import find_dependencies, find_readable_job
from polyjob.api.paging import root
from polyjob.api.path_prefixes import PROJECT
from polyjob.api.problems import status_of
from polyjob.api.request_context import config_errors_at, find_project, may_choose_folder, me, settings
from polyjob.api.schemas.projects import ProjectBody
from polyjob.auth import identity as auth
from polyjob.auth import permissions, sessions
from polyjob.auth.permissions import Access, requires
from polyjob.auth.roles import is_joined
from polyjob.db.models import Project, User
from polyjob.errors import Forbidden, Invalid, Problem, TooLarge, Unavailable
from polyjob.jobconfig.checks import check_values, deserialize
from polyjob.pages.form_upload import ReceivedForm, receive_form
from polyjob.pages.forms import (
    STALE_FORM,
    Form,
    check_form,
    create_idempotently,
    done,
    group_by_field,
    new_submission_id,
    read_form,
)
from polyjob.pages.job_commands import curl_commands, run_command
from polyjob.pages.job_form import LABELS, errors_of, read_job, read_times
from polyjob.pages.urls import project_url
from polyjob.services import job_secrets, projects, schedules, specs, submission, volumes
from polyjob.services.runner_choice import choose_runner
from polyjob.storage.uploads import Limits

FORM_OVERHEAD_BYTES = 1 << 20
"""Room for the fields and boundaries of a form beside its files."""
REPETITIONS = [
    ("", "Once, now"),
    ("0 * * * *", "Every hour"),
    ("0 3 * * *", "Every night at 3:00"),
    ("0 3 * * 1", "Every Monday at 3:00"),
    ("0 3 1 * *", "On the first day of each month at 3:00"),
]
"""Cron expression, label."""
CHOOSE_FILES_AGAIN = "Choose the files again; browsers do not keep them."

blp = Blueprint("submitting", __name__)


@blp.app_template_global()
def may_submit(project: Project) -> bool:
    identity = auth.current_identity()
    return identity is not None and permissions.may("jobs.create_job", identity, project)


@blp.app_template_global()
def may_create_projects() -> bool:
    identity = auth.current_identity()
    return identity is not None and permissions.allows("projects.create_project", identity)


@blp.get("/submit")
@requires(Access.READ)
def choose_project() -> AnyResponse:
    """Show the user's projects. With only one, go to its form; with none, go to the form for a new project."""
    own_projects = [project for project in _own_projects() if may_submit(project)]
    if not own_projects:
        return redirect(url_for("pages.submitting.new_project"), 303)
    if len(own_projects) == 1:
        return redirect(f"{project_url(own_projects[0])}/submit", 303)
    return make_response(render_template("choose_project.html", projects=own_projects))


def _own_projects() -> list[Project]:
    """Return the projects that the user owns or is a member of, the user's own first."""
    query = projects.list_projects(None).select(Project, User).join(User)
    found = query.where(auth.readable_projects(me()), is_joined(me()))
    return sorted(found, key=lambda project: project.user_id != me().id)


@blp.get(f"{PROJECT}/submit")
@requires(Access.SUBMIT)
def submit_form(username: str, project_name: str) -> AnyResponse:
    return _page(find_project(username, project_name), Form())


@blp.post(f"{PROJECT}/submit")
@requires(Access.SUBMIT)
def submit(username: str, project_name: str) -> AnyResponse:
    project = find_project(username, project_name)
    with _receive_form() as received:
        form = check_form(received.fields, keep_stale=True)
        has_upload = received.has_files
        if form.is_stale:
            errors = {"": [STALE_FORM]} | ({"upload": [CHOOSE_FILES_AGAIN]} if has_upload else {})
            return _page(project, form, errors, 403)
        try:
            body, parsed = read_job(form)
            times = read_times(form)
            if form.text("do") == "show":
                return _page(project, form, commands=_commands(project, form, body, times))
            if received.fault is not None:
                raise received.fault
            if times:
                with config_errors_at(parsed.config_pointer, "/job/config"):
                    return _create_schedule(project, form, parsed.attributes, times, received)
            with config_errors_at(parsed.config_pointer):
                return _create_job(project, form, parsed.attributes, received)
        except (Forbidden, Invalid, TooLarge, Unavailable) as error:
            problems = getattr(error, "problems", None) or [Problem("", str(error))]
            errors = errors_of(problems, form)
            if has_upload:
                errors.setdefault("upload", []).append(CHOOSE_FILES_AGAIN)
            return _page(project, form, errors, status_of(error))


@blp.post(f"{PROJECT}/submit/commands")
@requires(Access.SUBMIT)
def show_commands(username: str, project_name: str) -> AnyResponse:
    """Return the equivalent commands as JSON: `run` and `curl`, or `errors` by field. The form's script calls this."""
    project = find_project(username, project_name)
    form = read_form()
    try:
        body, _ = read_job(form)
        times = read_times(form)
    except Invalid as error:
        return make_response({"errors": errors_of(error.problems, form)})
    run, curl = _commands(project, form, body, times)
    return make_response({"run": run, "curl": curl})


@contextmanager
def _receive_form() -> Iterator[ReceivedForm]:
    """Receive the form and its files. Raises ForeignOrigin, before reading anything, if another site's page sent it."""
    sessions.require_own_origin()
    current = settings()
    request.max_content_length = current.upload_limit + FORM_OVERHEAD_BYTES
    limits = Limits(current.upload_limit, current.unpacked_limit, current.unpacked_files)
    with receive_form(current.data_dir, current.body_limit, limits) as received:
        yield received


def _create_job(project: Project, form: Form, attributes: dict[str, Any], received: ReceivedForm) -> AnyResponse:
    attributes["dependencies"] = find_dependencies(attributes.get("after"))
    job_id = create_idempotently(
        form,
        project,
        lambda idempotent: submission.create(
            project,
            me(),
            attributes,
            settings(),
            idempotent,
            may_choose_folder=may_choose_folder(),
            find_job=find_readable_job,
        ),
        _store_upload(project, attributes, received),
    )
    return done(f"{project_url(project)}/jobs/{job_id}", f"Job {job_id} was submitted.")


def _create_schedule(
    project: Project, form: Form, attributes: dict[str, Any], times: Mapping[str, str], received: ReceivedForm
) -> AnyResponse:
    schedule_id = create_idempotently(
        form,
        project,
        lambda idempotent: schedules.create(
            project,
            me(),
            {**times, "job": attributes},
            settings(),
            idempotent,
            may_choose_folder=may_choose_folder(),
        ),
        _store_upload(project, attributes, received),
    )
    return done(f"{project_url(project)}/schedules/{schedule_id}", f"Schedule {schedule_id} was created.")


def _store_upload(project: Project, attributes: dict[str, Any], received: ReceivedForm) -> str | None:
    """Make the files of the form the upload of the project, and return their digest; None for a form without files."""
    if received.tarball is None:
        return None
    config = attributes.get("config") or {}
    # Check first: no upload is stored for a job that is refused.
    runner = choose_runner(settings(), attributes)
    specs.check_runner_support(config, runner, settings())
    job_secrets.check_names(config, project.id, runner)
    specs.check_working_folder(config, may_choose_folder())
    project.code = projects.store_upload(project, me(), received.tarball, settings())
    return str(project.code.digest)


def _commands(project: Project, form: Form, body: dict[str, Any], times: Mapping[str, str] | None) -> tuple[str, str]:
    name, has_upload = f"{project.user.username}/{project.name}", bool(form.text("with_upload"))
    return run_command(name, form, has_upload, times), curl_commands(root(), name, body, has_upload, times)


def _page(
    project: Project,
    form: Form,
    errors: dict[str, list[str]] | None = None,
    status: int = 200,
    commands: tuple[str, str] | None = None,
) -> AnyResponse:
    errors = errors or {}

    def is_used(*names: str) -> bool:
        return any(name in errors or form.word(name) for name in names)

    page = render_template(
        "submit.html",
        project=project,
        path=f"{project_url(project)}/submit",
        form=form,
        labels=LABELS,
        errors=errors,
        is_used=is_used,
        commands=commands,
        submission_id=new_submission_id(),
        has_upload=project.code_id is not None,
        upload_limit=settings().upload_limit,
        runners=_runner_options(settings().runner_names),
        volumes=[
            f"`{volume.name}`{' (read-only)' if volume.is_read_only else ''}"
            for volume, _ in volumes.list_volumes(settings())
        ],
        secrets=list(dict.fromkeys(f"`{secret.name}`" for secret in job_secrets.list_secrets(project))),
        repetitions=REPETITIONS,
    )
    return make_response(page, status)


def _runner_options(names: Sequence[str]) -> list[tuple[str, str]]:
    """Return the (value, label) of each choice of a runner. The empty value leaves the choice to the config."""
    return [("", f"Default ({names[0]})"), *((name, name) for name in names)]


# A new project.


@blp.get("/new-project")
@requires(Access.ACCOUNT)
def new_project() -> AnyResponse:
    return _project_page(Form())


@blp.post("/new-project")
@requires(Access.ACCOUNT)
def make_project() -> AnyResponse:
    form = read_form(keep_stale=True)
    if form.is_stale:
        return _project_page(form, {"": [STALE_FORM]}, 403)
    body = {
        "name": form.word("name") or None,
        "description": form.text("description").strip() or None,
        "is_public": form.text("access") == "public",
    }
    try:
        check_values(body)
        project = projects.create(me(), deserialize(ProjectBody(), body, ""), settings())
    except Invalid as error:
        errors = group_by_field(error.problems, lambda pointer: pointer.split("/")[1] if pointer else "")
        return _project_page(form, errors, 400)
    return done(f"{project_url(project)}/submit", f"Project {project.name} was created. Submit its first job.")


def _project_page(form: Form, errors: dict[str, list[str]] | None = None, status: int = 200) -> AnyResponse:
    is_public = form.text("access") == "public" if form.fields else settings().public_projects
    page = render_template("new_project.html", form=form, is_public=is_public, errors=errors or {})
    return make_response(page, status)
