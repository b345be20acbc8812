"""The pages of a project's schedules, and the buttons of a schedule."""

from __future__ import annotations

from typing import Any

from flask import Blueprint, render_template
from werkzeug.wrappers import Response as AnyResponse

from polyjob.api.path_prefixes import SCHEDULE, SCHEDULES
from polyjob.api.request_context import find_project, may_choose_folder, me, settings
from polyjob.auth import permissions
from polyjob.auth.permissions import Access, requires
from polyjob.db.models import Job, Project, Schedule
from polyjob.errors import PolyjobError
from polyjob.jobconfig.parsing import dump_yaml
from polyjob.pages.forms import Form, create_idempotently, done, read_form, require_identity
from polyjob.pages.urls import own_path, project_url
from polyjob.services import schedules
from polyjob.services.idempotency import IdempotentRequest
from polyjob.services.schedule_fires import job_name

blp = Blueprint("schedules", __name__)


def schedule_url(schedule: Schedule) -> str:
    return f"{project_url(schedule.project)}/schedules/{schedule.id}"


@blp.get(SCHEDULES, strict_slashes=False)
@requires(Access.READ)
def project_schedules(username: str, project_name: str) -> str:
    """Show the schedules of a project with the next fire, the last one, and what was missed."""
    project = find_project(username, project_name)
    rows = list(schedules.list_schedules(project))
    return render_template(
        "schedules.html",
        project=project,
        schedules=rows,
        last_fires=schedules.last_fires(rows),
        missed_counts=schedules.missed_counts(rows),
        job_name=job_name,
    )


@blp.get(SCHEDULE, strict_slashes=False)
@requires(Access.READ)
def one_schedule(username: str, project_name: str, schedule_id: int) -> str:
    schedule = _find(username, project_name, schedule_id)
    config = schedule.job.get("config")
    return render_template(
        "schedule.html",
        schedule=schedule,
        project=schedule.project,
        url=schedule_url(schedule),
        name=job_name(schedule),
        fires=schedules.recent_fires(schedule),
        config=dump_yaml(config).rstrip("\n") if config else None,
        may=_allowed_actions(schedule.project),
    )


def _find(username: str, project_name: str, schedule_id: int) -> Schedule:
    return schedules.find(find_project(username, project_name), schedule_id)


def _read_button(username: str, project_name: str, schedule_id: int) -> tuple[Schedule, Form]:
    """Return the schedule whose button was pressed, and the form of the button."""
    return _find(username, project_name, schedule_id), read_form()


def _allowed_actions(project: Project) -> dict[str, bool]:
    """Return which of the buttons the user may use."""
    identity = require_identity()
    operations = {"submit": "schedules.run_schedule", "delete": "schedules.delete_schedule"}
    return {name: permissions.may(operation, identity, project) for name, operation in operations.items()}


@blp.post(f"{SCHEDULE}/pause")
@requires(Access.SUBMIT)
def pause_schedule(username: str, project_name: str, schedule_id: int) -> AnyResponse:
    schedule, _ = _read_button(username, project_name, schedule_id)
    return done(schedule_url(schedules.pause(schedule)), f"Schedule {schedule.id} was paused.")


@blp.post(f"{SCHEDULE}/resume")
@requires(Access.SUBMIT)
def resume_schedule(username: str, project_name: str, schedule_id: int) -> AnyResponse:
    schedule, _ = _read_button(username, project_name, schedule_id)
    return done(schedule_url(schedules.resume(schedule)), f"Schedule {schedule.id} was resumed.")


@blp.post(f"{SCHEDULE}/run")
@requires(Access.SUBMIT)
def run_schedule(username: str, project_name: str, schedule_id: int) -> AnyResponse:
    schedule, form = _read_button(username, project_name, schedule_id)

    def create(idempotent: IdempotentRequest | None) -> Job:
        return schedules.run_now(schedule, me(), settings(), idempotent, may_choose_folder=may_choose_folder())

    try:
        job_id = create_idempotently(form, schedule.project, create)
    except PolyjobError as error:
        return done(schedule_url(schedule), f"No job was submitted: {error}")
    return done(f"{project_url(schedule.project)}/jobs/{job_id}", f"Schedule {schedule.id} submitted job {job_id}.")


@blp.get(f"{SCHEDULE}/delete")
@requires(Access.MANAGE)
def ask_delete_schedule(username: str, project_name: str, schedule_id: int) -> str:
    schedule = _find(username, project_name, schedule_id)
    context: dict[str, Any] = {
        "title": f"Delete schedule {schedule.id}?",
        "lines": ["It submits no more jobs. The jobs that it has submitted stay."],
        "path": own_path(),
        "label": f"Delete schedule {schedule.id}",
        "back": schedule_url(schedule),
    }
    return render_template("confirm.html", **context)


@blp.post(f"{SCHEDULE}/delete")
@requires(Access.MANAGE)
def delete_schedule(username: str, project_name: str, schedule_id: int) -> AnyResponse:
    schedule, _ = _read_button(username, project_name, schedule_id)
    schedules.delete(schedule)
    return done(f"{project_url(schedule.project)}/schedules", f"Schedule {schedule.id} was deleted.")
