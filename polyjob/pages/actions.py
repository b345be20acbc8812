"""The buttons of jobs and builds: the conditions for showing them, and their actions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from flask import Blueprint, render_template
from werkzeug.wrappers import Response as AnyResponse

from polyjob.api.path_prefixes import BUILD, JOB
from polyjob.api.request_context import find_job, find_project, me, settings, store
from polyjob.auth import identity as auth
from polyjob.auth import permissions
from polyjob.auth.permissions import Access, requires
from polyjob.db.models import Build, Job
from polyjob.jobconfig.compose import working_folder
from polyjob.logs.files import log_length
from polyjob.pages.forms import Form, done, local_path, read_form
from polyjob.pages.urls import build_url, job_url, own_path, project_url, run_url
from polyjob.services import bookmarks, builds, job_inputs, jobs

blp = Blueprint("actions", __name__)

Run = Job | Build
RUN_AGAIN, MORE = "Run again", "More actions"
"""The menus."""


@dataclass(frozen=True)
class Action:
    name: str
    """The last part of its path."""
    operation: str
    """The API operation with the same effect. Users who may not call it do not see the action."""
    label: str
    applies_to: Callable[[Any], bool]
    """Returns whether the action makes sense in the run's current state."""
    title: str = ""
    """The tooltip."""
    is_page: bool = False
    """True if it is a link to a page rather than a button."""
    creates_job: bool = False
    """True if its form has a submission id, so that submitting it twice creates one job."""
    kind: str = ""
    """The CSS class of the button."""
    menu: str = ""
    """The menu that contains it; empty for a button beside the menus."""


def _can_stop(run: Run) -> bool:
    return run.archived_at is None and not run.status.is_done and run.stop_at is None


def _has_outputs(job: Job) -> bool:
    return job.archived_at is None and job.status.is_done and job_inputs.outputs_fault(job, store()) is None


def _is_not_archived(run: Run) -> bool:
    return run.archived_at is None


def _is_bookmarked(job: Job) -> bool:
    return _is_not_archived(job) and bookmarks.is_bookmarked(job, me())


# fmt: off
_JOB_ACTIONS = (
    Action("stop", "jobs.stop_job", "Stop", _can_stop, "End the job now", kind="danger"),
    Action("restart", "jobs.restart_job", "Restart", _is_not_archived,
           "Run it again as a new job", creates_job=True, menu=RUN_AGAIN),
    Action("resume", "jobs.resume_job", "Resume", _has_outputs,
           "A new job that continues with this job's outputs", creates_job=True, menu=RUN_AGAIN),
    Action("copy", "jobs.copy_job", "Copy", _has_outputs,
           "A new job that starts with a copy of this job's outputs", creates_job=True, menu=RUN_AGAIN),
    Action("clone", "jobs.restart_job", "Edit and run", lambda job: _is_not_archived(job) and job.config is not None,
           "Edit the config first", is_page=True, menu=RUN_AGAIN),
    Action("bookmark", "jobs.bookmark_job", "Bookmark", lambda job: _is_not_archived(job) and not _is_bookmarked(job),
           menu=MORE),
    Action("unbookmark", "jobs.unbookmark_job", "Remove bookmark", _is_bookmarked, menu=MORE),
    Action("archive", "jobs.archive_job", "Archive", _is_not_archived, "Hide it from lists", menu=MORE),
    Action("restore", "jobs.restore_job", "Restore", lambda job: job.archived_at is not None,
           "Show it in lists again"),
    Action("delete", "jobs.delete_job", "Delete", _is_not_archived, is_page=True, kind="danger", menu=MORE),
)
_BUILD_ACTIONS = (
    Action("stop", "builds.stop_build", "Stop", _can_stop, "Also stops the jobs that wait for it", kind="danger"),
    Action("invalidate", "builds.invalidate_build", "Invalidate",
           lambda build: _is_not_archived(build) and build.invalidated_at is None, "New jobs will not use it"),
    Action("delete", "builds.delete_build", "Delete", _is_not_archived, is_page=True, kind="danger"),
)
# fmt: on


@dataclass(frozen=True)
class Button:
    """An action on one run."""

    action: Action
    path: str


@blp.app_template_global()
def action_buttons(run: Run) -> list[Button]:
    """Return the actions that the user may take and that make sense in the run's current state."""
    identity = auth.current_identity()
    if identity is None or run.deleted_at is not None:
        return []
    actions = _JOB_ACTIONS if isinstance(run, Job) else _BUILD_ACTIONS
    return [
        Button(action, f"{run_url(run)}/{action.name}")
        for action in actions
        if permissions.may(action.operation, identity, run.project) and action.applies_to(run)
        if not (action.creates_job and _is_folder_refused(run, identity))
    ]


@blp.app_template_global()
def action_menus(buttons: list[Button]) -> dict[str, list[Button]]:
    """Return the buttons by their menus."""
    menus: dict[str, list[Button]] = {}
    for button in buttons:
        menus.setdefault(button.action.menu, []).append(button)
    return menus


def _is_folder_refused(run: Run, identity: auth.Identity) -> bool:
    """Return whether the run has a working folder that the user could not choose for a clone."""
    return working_folder(run.config) is not None and not permissions.may_choose_folder(identity)


def _next_page(form: Form, default: str) -> str:
    return local_path(form.text("next"), default)


# Jobs.


@blp.post(f"{JOB}/stop")
@requires(Access.SUBMIT)
def stop_job(username: str, project_name: str, job_id: int) -> AnyResponse:
    job, form = find_job(username, project_name, job_id), read_form()
    if job.status.is_done:
        message = f"Job {job.id} had already ended."
    else:
        job = jobs.request_stop(job, me(), settings())
        message = f"Job {job.id} was stopped." if job.status.is_done else f"Stop of job {job.id} requested."
    return done(_next_page(form, job_url(job)), message)


@blp.post(f"{JOB}/bookmark")
@requires(Access.BOOKMARK)
def bookmark_job(username: str, project_name: str, job_id: int) -> AnyResponse:
    job, form = find_job(username, project_name, job_id), read_form()
    bookmarks.add(job, me())
    return done(_next_page(form, job_url(job)), f"Job {job.id} was bookmarked.")


@blp.post(f"{JOB}/unbookmark")
@requires(Access.BOOKMARK)
def unbookmark_job(username: str, project_name: str, job_id: int) -> AnyResponse:
    job, form = find_job(username, project_name, job_id), read_form()
    bookmarks.remove(job, me())
    return done(_next_page(form, job_url(job)), f"The bookmark of job {job.id} was removed.")


@blp.post(f"{JOB}/archive")
@requires(Access.SUBMIT)
def archive_job(username: str, project_name: str, job_id: int) -> AnyResponse:
    job, form = find_job(username, project_name, job_id), read_form()
    jobs.archive(job, me(), settings())
    message = f"Job {job.id} was archived{'' if job.status.is_done else ', and its stop requested'}."
    return done(_next_page(form, project_url(job.project)), message, undo=f"{job_url(job)}/restore")


@blp.post(f"{JOB}/restore")
@requires(Access.SUBMIT)
def restore_job(username: str, project_name: str, job_id: int) -> AnyResponse:
    project, form = find_project(username, project_name), read_form()
    jobs.restore(project, job_id)
    return done(_next_page(form, f"{project_url(project)}/jobs/{job_id}"), f"Job {job_id} was restored.")


@blp.get(f"{JOB}/delete")
@requires(Access.MANAGE)
def ask_delete_job(username: str, project_name: str, job_id: int) -> str:
    job = find_job(username, project_name, job_id)
    return render_template(
        "delete_job.html",
        job=job,
        path=own_path(),
        back=job_url(job),
        log_size=log_length(store().job_log(job.uuid)),
        size=store().job_size(job.uuid),
        clones=Job.select().where(Job.original == job, Job.deleted_at.is_null()).count(),
    )


@blp.post(f"{JOB}/delete")
@requires(Access.MANAGE)
def delete_job(username: str, project_name: str, job_id: int) -> AnyResponse:
    job, form = find_job(username, project_name, job_id), read_form()
    jobs.delete(job, me(), settings())
    return done(_next_page(form, project_url(job.project)), f"Job {job.id} was deleted.")


# Builds.


def _find_build(username: str, project_name: str, build_id: int) -> Build:
    project = find_project(username, project_name)
    build = builds.find(project, build_id)
    build.project = project
    return build


@blp.post(f"{BUILD}/stop")
@requires(Access.SUBMIT)
def stop_build(username: str, project_name: str, build_id: int) -> AnyResponse:
    build, form = _find_build(username, project_name, build_id), read_form()
    builds.request_stop(build, settings())
    message = f"Build {build.id} had already ended." if build.status.is_done else f"Stop of build {build.id} requested."
    return done(_next_page(form, project_url(build.project)), message)


@blp.post(f"{BUILD}/invalidate")
@requires(Access.SUBMIT)
def invalidate_build(username: str, project_name: str, build_id: int) -> AnyResponse:
    build, form = _find_build(username, project_name, build_id), read_form()
    builds.invalidate(build)
    return done(_next_page(form, project_url(build.project)), f"New jobs will not use build {build.id}.")


@blp.get(f"{BUILD}/delete")
@requires(Access.MANAGE)
def ask_delete_build(username: str, project_name: str, build_id: int) -> str:
    build = _find_build(username, project_name, build_id)
    return render_template(
        "confirm.html",
        title=f"Delete build {build.id}?",
        lines=[
            "Its log and its artifacts are deleted. The next job that needs this build builds it again.",
            f"Jobs that used it stay: {builds.count_jobs(build)}.",
        ],
        path=own_path(),
        label=f"Delete build {build.id}",
        back=build_url(build),
    )


@blp.post(f"{BUILD}/delete")
@requires(Access.MANAGE)
def delete_build(username: str, project_name: str, build_id: int) -> AnyResponse:
    """Raises Conflict if a job needs the build."""
    build, form = _find_build(username, project_name, build_id), read_form()
    builds.delete(build, settings())
    return done(_next_page(form, project_url(build.project)), f"Build {build.id} was deleted.")
