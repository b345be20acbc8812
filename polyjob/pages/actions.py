"""What can be done with a job or build by a button: which ones are offered, and what each does."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from flask import Blueprint, render_template, request
from werkzeug.wrappers import Response as AnyResponse

from polyjob.api.log_download import log_length
from polyjob.api.request_context import BUILD, JOB, me, settings, store
from polyjob.auth import identity as auth
from polyjob.auth import permissions
from polyjob.auth.permissions import Access, requires
from polyjob.db.models import Build, Job
from polyjob.pages.forms import Form, done, local_path, project_for, read_form
from polyjob.pages.job_page import build_url, job_url, project_url
from polyjob.services import bookmarks, builds, cloning, jobs

blp = Blueprint("actions", __name__)

Target = Job | Build


@dataclass(frozen=True)
class Action:
    name: str
    """The last part of its path."""
    operation: str
    """The API's operation that does the same: who may do that, may do this."""
    label: str
    fits: Callable[[Any], bool]
    """Whether it makes sense for a job or build as it is."""
    title: str = ""
    is_page: bool = False
    """Whether a page of its own comes first."""
    makes_job: bool = False
    kind: str = ""


def _is_live(target: Target) -> bool:
    return target.archived_at is None and not target.status.is_done and target.stop_at is None


def _has_outputs(job: Job) -> bool:
    return job.archived_at is None and job.status.is_done and cloning.outputs_fault(job, store()) is None


def _is_shown(target: Target) -> bool:
    return target.archived_at is None


def _is_marked(target: Target) -> bool:
    return _is_shown(target) and bookmarks.is_bookmarked(target, me())


# fmt: off
_OF_JOBS = (
    Action("stop", "jobs.stop_job", "Stop", _is_live, "End it now", kind="danger"),
    Action("restart", "jobs.restart_job", "Restart", _is_shown, "The same again, as a new job", makes_job=True),
    Action("resume", "jobs.resume_job", "Resume", _has_outputs,
           "A new job that goes on with this one's outputs", makes_job=True),
    Action("copy", "jobs.copy_job", "Copy", _has_outputs,
           "A new job that starts with a copy of this one's outputs", makes_job=True),
    Action("clone", "jobs.restart_job", "Edit and run", lambda job: _is_shown(job) and job.config is not None,
           "Change the config first", is_page=True),
    Action("bookmark", "jobs.bookmark_job", "Bookmark", lambda job: _is_shown(job) and not _is_marked(job)),
    Action("unbookmark", "jobs.unbookmark_job", "Remove bookmark", _is_marked),
    Action("archive", "jobs.archive_job", "Archive", _is_shown, "Hide it from lists"),
    Action("restore", "jobs.restore_job", "Restore", lambda job: job.archived_at is not None, "Show it again"),
    Action("delete", "jobs.delete_job", "Delete", _is_shown, is_page=True, kind="danger"),
)
_OF_BUILDS = (
    Action("stop", "builds.stop_build", "Stop", _is_live, "With the jobs that wait for it", kind="danger"),
    Action("invalidate", "builds.invalidate_build", "Invalidate",
           lambda build: _is_shown(build) and build.invalidated_at is None, "No new job will use it"),
    Action("delete", "builds.delete_build", "Delete", _is_shown, is_page=True, kind="danger"),
)
# fmt: on


@dataclass(frozen=True)
class Offer:
    """An action as the page of its job or build shows it."""

    action: Action
    path: str


@blp.app_template_global()
def offers(target: Target) -> list[Offer]:
    """What whoever asks may do with it, and what makes sense as it is."""
    identity = auth.current_identity()
    if identity is None or target.deleted_at is not None:
        return []
    actions = _OF_JOBS if isinstance(target, Job) else _OF_BUILDS
    return [
        Offer(action, f"{url_of(target)}/{action.name}")
        for action in actions
        if permissions.may(action.operation, identity, target.project) and action.fits(target)
    ]


def url_of(target: Target) -> str:
    return job_url(target) if isinstance(target, Job) else build_url(target)


def _back(form: Form, default: str) -> str:
    """Where the form says to go afterwards."""
    return local_path(form.text("next"), default)


# Jobs.


def _job(operation: str, username: str, project_name: str, job_id: int) -> Job:
    return jobs.find(project_for(operation, username, project_name), job_id)


@blp.post(f"{JOB}/stop")
@requires(Access.SUBMIT)
def stop_job(username: str, project_name: str, job_id: int) -> AnyResponse:
    job, form = _job("jobs.stop_job", username, project_name, job_id), read_form()
    if job.status.is_done:
        said = f"Job {job.id} had ended already."
    else:
        job = jobs.request_stop(job, me(), settings())
        said = f"Job {job.id} is stopped." if job.status.is_done else f"Stop of job {job.id} requested."
    return done(_back(form, url_of(job)), said)


@blp.post(f"{JOB}/bookmark")
@requires(Access.BOOKMARK)
def bookmark_job(username: str, project_name: str, job_id: int) -> AnyResponse:
    job, form = _job("jobs.bookmark_job", username, project_name, job_id), read_form()
    bookmarks.add(job, me())
    return done(_back(form, url_of(job)), f"Job {job.id} is bookmarked.")


@blp.post(f"{JOB}/unbookmark")
@requires(Access.BOOKMARK)
def unbookmark_job(username: str, project_name: str, job_id: int) -> AnyResponse:
    job, form = _job("jobs.unbookmark_job", username, project_name, job_id), read_form()
    bookmarks.remove(job, me())
    return done(_back(form, url_of(job)), f"Job {job.id} is not bookmarked any more.")


@blp.post(f"{JOB}/archive")
@requires(Access.SUBMIT)
def archive_job(username: str, project_name: str, job_id: int) -> AnyResponse:
    job, form = _job("jobs.archive_job", username, project_name, job_id), read_form()
    jobs.archive(job, me(), settings())
    said = f"Job {job.id} is archived{'' if job.status.is_done else '. Its stop is requested'}."
    return done(_back(form, project_url(job.project)), said, undo=f"{url_of(job)}/restore")


@blp.post(f"{JOB}/restore")
@requires(Access.SUBMIT)
def restore_job(username: str, project_name: str, job_id: int) -> AnyResponse:
    project, form = project_for("jobs.restore_job", username, project_name), read_form()
    jobs.restore(project, job_id)
    return done(_back(form, f"{project_url(project)}/jobs/{job_id}"), f"Job {job_id} is back.")


@blp.get(f"{JOB}/delete")
@requires(Access.MANAGE)
def ask_delete_job(username: str, project_name: str, job_id: int) -> str:
    job = _job("jobs.delete_job", username, project_name, job_id)
    clones = Job.select().where(Job.original == job, Job.deleted_at.is_null()).count()
    return render_template("delete_job.html", job=job, path=request.path, back=url_of(job),
                           log_size=log_length(store().job_log(job.uuid)), size=store().job_size(job.uuid),
                           clones=clones)  # fmt: skip


@blp.post(f"{JOB}/delete")
@requires(Access.MANAGE)
def delete_job(username: str, project_name: str, job_id: int) -> AnyResponse:
    job, form = _job("jobs.delete_job", username, project_name, job_id), read_form()
    jobs.delete(job, me(), settings())
    return done(_back(form, project_url(job.project)), f"Job {job.id} is deleted.")


# Builds.


def _build(operation: str, username: str, project_name: str, build_id: int) -> Build:
    build = builds.find(project := project_for(operation, username, project_name), build_id)
    build.project = project
    return build


@blp.post(f"{BUILD}/stop")
@requires(Access.SUBMIT)
def stop_build(username: str, project_name: str, build_id: int) -> AnyResponse:
    build, form = _build("builds.stop_build", username, project_name, build_id), read_form()
    builds.request_stop(build, settings())
    said = f"Build {build.id} had ended already." if build.status.is_done else f"Stop of build {build.id} requested."
    return done(_back(form, project_url(build.project)), said)


@blp.post(f"{BUILD}/invalidate")
@requires(Access.SUBMIT)
def invalidate_build(username: str, project_name: str, build_id: int) -> AnyResponse:
    build, form = _build("builds.invalidate_build", username, project_name, build_id), read_form()
    builds.invalidate(build)
    return done(_back(form, project_url(build.project)), f"No new job will use build {build.id}.")


@blp.get(f"{BUILD}/delete")
@requires(Access.MANAGE)
def ask_delete_build(username: str, project_name: str, build_id: int) -> str:
    build = _build("builds.delete_build", username, project_name, build_id)
    return render_template(
        "confirm.html",
        title=f"Delete build {build.id}?",
        lines=[
            "Its log and all that it made are removed; a job that needs the same is built anew.",
            f"Jobs that used it stay: {builds.count_jobs(build)}.",
        ],
        path=request.path,
        label=f"Delete build {build.id}",
        back=url_of(build),
    )


@blp.post(f"{BUILD}/delete")
@requires(Access.MANAGE)
def delete_build(username: str, project_name: str, build_id: int) -> AnyResponse:
    """Raises Conflict where a job needs the build."""
    build, form = _build("builds.delete_build", username, project_name, build_id), read_form()
    builds.delete(build, settings())
    return done(_back(form, project_url(build.project)), f"Build {build.id} is deleted.")
