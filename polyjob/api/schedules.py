"""Schedules: list, create, get, update, pause, resume, delete, and run now."""

from __future__ import annotations

from typing import Any

from flask import Response

from polyjob.api.blueprint import Blueprint
from polyjob.api.idempotency import create_idempotently
from polyjob.api.jobs import new_document as new_job_document
from polyjob.api.paging import limit, offset, page, root
from polyjob.api.path_prefixes import SCHEDULE, SCHEDULES
from polyjob.api.request_body import read_body
from polyjob.api.request_context import config_errors_at, empty, find_project, may_choose_folder, me, settings
from polyjob.api.schemas.jobs import JobSchema
from polyjob.api.schemas.schedules import (
    ScheduleBody,
    ScheduleChangeBody,
    ScheduleRow,
    ScheduleRowSchema,
    ScheduleSchema,
    ScheduleView,
    read_schedule,
)
from polyjob.auth.permissions import Access, requires
from polyjob.db.models import Job, Schedule
from polyjob.services import schedules
from polyjob.services.idempotency import IdempotentRequest

_SCHEMA = ScheduleSchema()

blp = Blueprint("schedules", __name__, description="Schedules: they submit jobs at certain times.")


@blp.get(SCHEDULES)
@blp.page(ScheduleRowSchema)
@requires(Access.READ)
def list_schedules(username: str, project_name: str) -> dict[str, Any]:
    """List the schedules of a project, oldest first"""
    project = find_project(username, project_name)
    query = schedules.list_schedules(project)
    rows = list(query.limit(limit()).offset(offset()))
    last_fires, missed_counts = schedules.last_fires(rows), schedules.missed_counts(rows)
    views = [
        ScheduleRow.from_row(row, project, last_fire=last_fires.get(row.id), missed_count=missed_counts.get(row.id, 0))
        for row in rows
    ]
    return page(views, query.count())


@blp.post(SCHEDULES)
@blp.reads(ScheduleBody, required=True)
@blp.creates_once(ScheduleSchema)
@requires(Access.SUBMIT)
def create_schedule(username: str, project_name: str) -> Response:
    """Create a schedule

    At each of its times, it submits `job` on your behalf.
    """
    project = find_project(username, project_name)

    def create(idempotent: IdempotentRequest | None) -> Schedule:
        parsed = read_schedule(read_body())
        with config_errors_at(parsed.config_pointer, "/job/config"):
            return schedules.create(
                project, me(), parsed.fields, settings(), idempotent, may_choose_folder=may_choose_folder()
            )

    return create_idempotently(project, create, _document)


@blp.get(SCHEDULE)
@blp.response(200, ScheduleSchema)
@requires(Access.READ)
def get_schedule(username: str, project_name: str, schedule_id: int) -> ScheduleView:
    """Get a schedule with its latest fires"""
    return _view(_find(username, project_name, schedule_id))


@blp.route(SCHEDULE, methods=["PATCH", "PUT"])
@blp.reads(ScheduleChangeBody)
@blp.response(200, ScheduleSchema)
@requires(Access.SUBMIT)
def update_schedule(username: str, project_name: str, schedule_id: int) -> ScheduleView:
    """Update the times, the policies or the job of a schedule

    With `job`, which replaces the complete job, it submits jobs on your behalf from now on.
    """
    schedule = _find(username, project_name, schedule_id)
    parsed = read_schedule(read_body())
    with config_errors_at(parsed.config_pointer, "/job/config"):
        schedule = schedules.update(schedule, me(), parsed.fields, settings(), may_choose_folder=may_choose_folder())
    return _view(schedule)


@blp.delete(SCHEDULE)
@blp.empty(204)
@requires(Access.MANAGE)
def delete_schedule(username: str, project_name: str, schedule_id: int) -> Response:
    """Delete a schedule and its fires; its jobs stay"""
    schedules.delete(_find(username, project_name, schedule_id))
    return empty(204)


@blp.post(f"{SCHEDULE}/pause")
@blp.response(200, ScheduleSchema)
@requires(Access.SUBMIT)
def pause_schedule(username: str, project_name: str, schedule_id: int) -> ScheduleView:
    """Pause a schedule: it does not fire until it is resumed"""
    return _view(schedules.pause(_find(username, project_name, schedule_id)))


@blp.post(f"{SCHEDULE}/resume")
@blp.response(200, ScheduleSchema)
@requires(Access.SUBMIT)
def resume_schedule(username: str, project_name: str, schedule_id: int) -> ScheduleView:
    """Resume a paused schedule; the times in between do not count as missed"""
    return _view(schedules.resume(_find(username, project_name, schedule_id)))


@blp.post(f"{SCHEDULE}/run")
@blp.creates_once(JobSchema)
@requires(Access.SUBMIT)
def run_schedule(username: str, project_name: str, schedule_id: int) -> Response:
    """Submit the job of a schedule now, on your behalf"""
    schedule = _find(username, project_name, schedule_id)

    def create(idempotent: IdempotentRequest | None) -> Job:
        return schedules.run_now(schedule, me(), settings(), idempotent, may_choose_folder=may_choose_folder())

    def to_document(job: Job) -> dict[str, Any]:
        return new_job_document(job, schedule.id)

    return create_idempotently(schedule.project, create, to_document)


def _find(username: str, project_name: str, schedule_id: int) -> Schedule:
    return schedules.find(find_project(username, project_name), schedule_id)


def _view(schedule: Schedule) -> ScheduleView:
    missed_count = schedules.missed_counts([schedule]).get(schedule.id, 0)
    return ScheduleView.from_schedule(
        schedule, schedules.recent_fires(schedule), missed_count=missed_count, root=root()
    )


def _document(schedule: Schedule) -> dict[str, Any]:
    document: dict[str, Any] = _SCHEMA.dump(_view(schedule))
    return document
