"""Job operations: look up, update, stop, archive, delete. `submission` and `cloning` create jobs.

Each operation is one transaction. When it returns, the change is synced to disk, and the engine has received a wake-up
if it has something to do. This module records the desired state; the engine records the actual state.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from peewee import ModelSelect

from polyjob.clock import now
from polyjob.db.database import database, write
from polyjob.db.models import LISTED, Job, JobStatus, Project, User
from polyjob.db.prepared import Prepared
from polyjob.engine_link import wake_engine
from polyjob.errors import Invalid, NotFound, Problem
from polyjob.jobconfig.commands import shown_command
from polyjob.services import audit, job_secrets, outbox, specs
from polyjob.services.capacity import read_changes
from polyjob.services.endings import end_job
from polyjob.services.entries import check_size
from polyjob.services.job_inputs import POINTER, references
from polyjob.services.job_queue import gpu_holders, jobs_with_retried_start, position_of
from polyjob.services.merge import merge_lists
from polyjob.services.new_jobs import check_name_is_free
from polyjob.services.notes import with_note
from polyjob.services.runner_choice import choose_runner
from polyjob.services.transitions import MAX_MESSAGE_LENGTH, transition, update_columns, update_note
from polyjob.settings import Settings
from polyjob.statuses import Status

STOPPED_MESSAGE = "Job was stopped"
MAX_REPORTED_STATUSES = 100
"""Statuses reported by clients that one job keeps; the oldest is dropped first."""
_ENTRY_COLUMNS = {"data_refs", "params"}
_UPDATABLE_COLUMNS = ("name", "description", "readme", "tags", "data_refs", "params")

BY_ID = Prepared(lambda: Job.select().where(Job.id == 0))
_BY_PROJECT = Prepared(
    lambda: Job.select().where(Job.id == 0, Job.project == 0, Job.deleted_at.is_null(), Job.archived_at.is_null())
)

# Look up.


def find(project: Project, job_id: int) -> Job:
    """Return the job. Raises NotFound, also for a job that is archived or deleted."""
    job = _BY_PROJECT.first(job_id, project.id)
    if job is None:
        raise _not_found(job_id)
    job.project = project
    if job.user_id == project.user_id:
        job.user = project.user
    return job


def _not_found(job_id: int) -> NotFound:
    return NotFound(f"There is no job {job_id} in this project.")


def visible_state(project: Project, job_id: int) -> tuple[object, ...]:
    """Return a tuple that changes with every change that is visible on the job, for its ETag. Raises NotFound.

    Reads one row. For a queued job it also reads the queue position and the jobs that hold slots and GPUs; for a job
    that waits for a build, the version of the build.
    """
    sql = (
        "SELECT version, status, is_managed AND NOT is_held, build_id, runner FROM job"
        " WHERE id = ? AND project_id = ? AND "
    )
    row = database.execute_sql(sql + LISTED.sql, (job_id, project.id)).fetchone()
    if row is None:
        raise _not_found(job_id)
    version, status, may_be_queued, build_id, runner = row
    if status == Status.CREATED and may_be_queued:
        holders = (*jobs_with_retried_start(runner), *gpu_holders().items())
        return version, position_of(job_id, runner), read_changes(), *holders
    if status == Status.BUILDING:
        return version, database.execute_sql("SELECT version FROM build WHERE id = ?", (build_id,)).fetchone()
    return (version,)


def list_archived(owner: User) -> ModelSelect[Job]:
    """Return the archived jobs of the owner's projects, last archived first."""
    projects = Project.select(Project.id).where(Project.user == owner, Project.deleted_at.is_null())
    return (
        Job.select()
        .where(Job.project.in_(projects), Job.deleted_at.is_null(), Job.archived_at.is_null(False))
        .order_by(Job.archived_at.desc(), Job.id.desc())
    )


# Update.


def update(job: Job, changes: Mapping[str, Any], settings: Settings, *, may_choose_folder: bool = False) -> Job:
    """Update what users can change, and return the job. Raises Invalid or Forbidden, and then changes nothing.

    These are name, description, readme, tags, data_refs, params and the original. With `changes["merge"]`, tags,
    data_refs and params are merged with the existing ones. A job that is still queued also takes a new config; one that
    names a working folder needs `may_choose_folder`.
    """
    columns = {name: changes[name] for name in _UPDATABLE_COLUMNS if name in changes}
    with write("update"):
        job = reload(job)
        if changes.get("merge"):
            columns |= _merged_columns(job, columns)
        for name in _ENTRY_COLUMNS & columns.keys():
            check_size(name, columns[name])
        if columns.get("name") is not None:
            check_name_is_free(job.project, columns["name"], ignored=job)
        if changes.get("original_job") is not None:
            columns["original"] = _find_original(job, changes["original_job"])
        if changes.get("config") is not None:
            columns |= _config_columns(job, changes["config"], changes.get("content"), settings)
            specs.check_working_folder(changes["config"], may_choose_folder)
        if columns:
            update_columns(job, **columns)
            audit.record("update", job, changed=sorted(columns))
    if "config" in columns:  # its runner, or its GPUs, may be free now
        wake_engine(settings.data_dir)
    return job


def _merged_columns(job: Job, columns: Mapping[str, Any]) -> dict[str, Any]:
    """Return the columns that `merge` affects. Tags are merged as a list; params and data_refs key by key."""
    merged: dict[str, Any] = {}
    if "tags" in columns:
        merged["tags"] = merge_lists("tags", job.tags, columns["tags"])
    if "data_refs" in columns:
        merged["data_refs"] = {**(job.data_refs or {}), **(columns["data_refs"] or {})} or None
    if "params" in columns:
        merged["params"] = {**(job.effective_params or {}), **(columns["params"] or {})} or None
    return merged


def _find_original(job: Job, original_id: int) -> int:
    original = Job.get_or_none(Job.id == original_id, Job.project == job.project, Job.deleted_at.is_null())
    if original is None or original.id == job.id:
        raise Invalid([Problem("/original_job", f"There is no other job {original_id} in this project.")])
    return int(original.id)


def _config_columns(job: Job, config: Mapping[str, Any], content: str | None, settings: Settings) -> dict[str, Any]:
    """Return the columns of a new config. Raises Invalid if the job was claimed already."""
    if job.status is not Status.CREATED:
        raise Invalid(
            [Problem("/config", f"The job is {job.status}; only a queued job takes a new config. Clone it instead.")]
        )
    if references(config) != references(job.config):
        detail = "A job cannot be changed to read outputs of other jobs. Clone it instead."
        raise Invalid([Problem(POINTER, detail)])
    runner, notes = job.runner, []
    if job.is_managed:
        runner = choose_runner(settings, {"config": config}, default=job.runner)
        notes = specs.check_runner_support(config, runner, settings)
        job_secrets.check_names(config, job.project_id, runner)
    if job.build is not None and job.build.runner != runner:
        detail = f"The job uses a build of the {job.build.runner} runner, so it cannot run on the {runner} runner."
        raise Invalid([Problem("/config/backend", detail)])
    columns = {"command": shown_command(config), "config": config, "content": content, "notes": notes or None}
    return columns if runner == job.runner else columns | {"runner": runner}


def request_stop(job: Job, user: User | None, settings: Settings) -> Job:
    """Request that the job stops, and return it. Idempotent.

    A job that was not claimed yet is `stopped` when this returns. A running job becomes `stopped` once none of its
    processes is left. A job that is done is not changed.
    """
    with write("stop", use_reserve=True):
        job = reload(job)
        _request_stop(job, "person", user)
    wake_engine(settings.data_dir)
    return job


def mark_stopping(job: Job, user: User | None) -> None:
    """Do what `request_stop` does with a row that was just read.

    Must be called inside `database.write`. The caller sends the engine a wake-up after the commit.
    """
    _request_stop(job, "person", user)


def delete(job: Job, user: User | None, settings: Settings) -> None:
    """Hide the job immediately; the engine stops it and then removes it with its files. Idempotent."""
    with write("delete", use_reserve=True):
        mark_deleted(reload(job), user)
    wake_engine(settings.data_dir)


def mark_deleted(job: Job, user: User | None) -> None:
    """Do what `delete` does with a row that was just read.

    Must be called inside `database.write`. The caller sends the engine a wake-up after the commit.
    """
    if job.deleted_at is None:
        _request_stop(job, "delete", user)
        update_columns(job, deleted_at=now())
        audit.record("delete", job)


def archive(job: Job, user: User | None, settings: Settings) -> None:
    """Hide the job from lists and look-ups, and request that it stops if it is not done. Idempotent."""
    with write("archive", use_reserve=True):
        job = reload(job)
        if job.archived_at is None:
            _request_stop(job, "person", user)
            update_columns(job, archived_at=now())
            audit.record("archive", job)
    wake_engine(settings.data_dir)


def restore(project: Project, job_id: int) -> Job:
    """Restore an archived job, and return it. Its status does not change. Idempotent. Raises NotFound."""
    with write("restore"):
        job = BY_ID.first(job_id)
        if job is None or job.project_id != project.id or job.deleted_at is not None:
            raise _not_found(job_id)
        if job.archived_at is not None:
            update_columns(job, archived_at=None)
            audit.record("restore", job)
    return job


def stop_many(project: Project, job_ids: Iterable[int], user: User | None, settings: Settings) -> list[int]:
    """Request that jobs of the project stop. Return the ids of those that exist and were not done."""
    with write("stop", use_reserve=True):
        unfinished = [job for job in _listed_jobs(project, job_ids) if not job.status.is_done]
        for job in unfinished:
            _request_stop(job, "person", user)
    wake_engine(settings.data_dir)
    return [job.id for job in unfinished]


def delete_many(project: Project, job_ids: Iterable[int], user: User | None, settings: Settings) -> list[int]:
    """Delete jobs of the project. Return the ids of those that exist."""
    with write("delete", use_reserve=True):
        jobs = _listed_jobs(project, job_ids)
        for job in jobs:
            mark_deleted(job, user)
    wake_engine(settings.data_dir)
    return [job.id for job in jobs]


def _listed_jobs(project: Project, job_ids: Iterable[int]) -> list[Job]:
    listed = (Job.project == project) & Job.deleted_at.is_null() & Job.archived_at.is_null()
    return list(Job.select().where(Job.id.in_(list(job_ids)), listed).order_by(Job.id))


def stop_all(project: Project, user: User | None) -> None:
    """Request that every job of the project stops. Must be called inside `database.write`."""
    for job in _unfinished(project):
        _request_stop(job, "person", user)


def delete_all(project: Project, user: User | None) -> None:
    """Delete every job of the project. Must be called inside `database.write`."""
    for job in _unfinished(project):
        mark_deleted(job, user)
    finished = Job.update(deleted_at=now(), version=Job.version + 1)
    finished.where(Job.project == project, Job.deleted_at.is_null()).execute()


def _unfinished(project: Project) -> list[Job]:
    return list(Job.select().where(Job.project == project, Job.finished_at.is_null(), Job.deleted_at.is_null()))


def _request_stop(job: Job, kind: str, user: User | None) -> None:
    if job.status.is_done or job.stop_at is not None or job.exit is not None:
        return
    if kind == "person":
        audit.record("stop", job)
    if job.status is Status.CREATED or not job.is_managed:
        details = {"reason": "stopped", "by": user.username if user else None}
        end_job(job, Status.STOPPED, message=STOPPED_MESSAGE, details=details)
        return
    update_columns(job, stop_at=now(), stop_kind=kind, stop_by=user.id if user else None)


def reload(job: Job) -> Job:
    """Return the current row of the job. Raises NotFound if it was removed meanwhile."""
    row = BY_ID.first(job.id)
    if row is None:
        raise NotFound("The job was deleted.")
    return row


# Statuses and notes.


def post_status(
    job: Job,
    status: Status,
    message: str | None,
    traceback: str | None,
    details: dict[str, Any] | None,
    user: User | None,
    settings: Settings,
) -> JobStatus:
    """Record a status that a client reports, and return the job's latest status.

    If polyjob does not run the job (`is_managed` is false), the report becomes its status, provided that it may follow
    the current one. If polyjob runs the job, the report is stored beside the statuses; but `stopped` from a user (not
    None) requests a stop.
    """
    if job.is_managed and status is Status.STOPPED and user is not None:
        job = request_stop(job, user, settings)
    else:
        with write("report"):
            job = reload(job)
            if not job.is_managed:
                write_status = end_job if status.is_done else transition
                row = write_status(job, status, message=message, traceback=traceback, details=details)
                if row is not None and status is Status.RUNNING:
                    outbox.record_start(job)
                audit.record("status", job, status=str(status))
            elif not job.status.is_done and (message or status is not job.status):
                text = f"The job reported {status}{f': {message}' if message else ''}."
                update_columns(
                    job, notes=with_note(job.notes, "reported", text), reported=_with_report(job, status, message)
                )
        if job.is_awaited and job.status.is_done:
            wake_engine(settings.data_dir)
    return latest_status(job)


def _with_report(job: Job, status: Status, message: str | None) -> list[dict[str, Any]]:
    """Return the job's reported statuses with one more; the oldest is dropped beyond the limit."""
    latest = (job.reported or [])[-(MAX_REPORTED_STATUSES - 1) :]
    report = {"status": str(status), "message": (message or "")[:MAX_MESSAGE_LENGTH] or None}
    return [*latest, report | {"created_at": now().isoformat()}]


def set_note(job: Job, kind: str, text: str | None) -> None:
    """Set the job's note of this kind; None removes it. Idempotent."""
    with write("note"):
        update_note(reload(job), kind, text)


def latest_status(job: Job) -> JobStatus:
    return (
        JobStatus.select().where(JobStatus.job == job).order_by(JobStatus.created_at.desc(), JobStatus.id.desc()).get()
    )


def list_statuses(job: Job | int) -> ModelSelect[JobStatus]:
    """Return the job's statuses, oldest first."""
    return JobStatus.select().where(JobStatus.job == job).order_by(JobStatus.created_at, JobStatus.id)
