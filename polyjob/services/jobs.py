"""What can be done with jobs: find, change, stop, archive, delete; `polyjob.services.submission` makes them.

Each verb is one transaction, synced when it returns, and wakes the engine where that has something to do. What is
wished is written here; what is, by the engine.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from peewee import ModelSelect

from polyjob.clock import now
from polyjob.db.database import database, write
from polyjob.db.models import CLAIMED, QUEUED, SHOWN, Build, Job, JobStatus, Project, User
from polyjob.db.prepared import Prepared
from polyjob.engine_link import wake_engine
from polyjob.errors import Invalid, NotFound, Problem
from polyjob.services import audit, specs
from polyjob.services.entries import check_size
from polyjob.services.filters import JOB_FIELDS, JOB_SORT_COLUMNS, has_condition_on, parse_query, parse_sort
from polyjob.services.merge import merge_lists
from polyjob.services.notes import note_text, with_note
from polyjob.services.transitions import MAX_MESSAGE_LENGTH, transition, update_columns, update_note
from polyjob.settings import Settings
from polyjob.statuses import Status

STOPPED_MESSAGE = "Job was stopped"
MAX_REPORTED_STATUSES = 100
"""Statuses that clients reported of one job, the latest."""
_ENTRIES = {"data_refs", "params"}
_CHANGEABLE = ("name", "description", "readme", "tags", "data_refs", "params")

BY_ID = Prepared(lambda: Job.select().where(Job.id == 0))
_BY_PROJECT = Prepared(
    lambda: Job.select().where(Job.id == 0, Job.project == 0, Job.deleted_at.is_null(), Job.archived_at.is_null())
)

_HOLDERS = Prepared(
    lambda: (
        Job.select(Job.id, Job.build_id, Job.notes)
        .where(CLAIMED, Job.exit.is_null(), Job.handle.is_null())
        .order_by(Job.id)
    )
)
_PLACE = f"SELECT COUNT(*) FROM job WHERE {QUEUED.sql} AND id <= ?"

# Finding.


def find(project: Project, job_id: int) -> Job:
    """Raises NotFound, also for a job that is archived or being deleted."""
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
    """What changes whenever something changes that people see of the job; reads one row, while the job is queued its
    place and who holds slots, and while it waits for a build that one's version. Raises NotFound."""
    sql = "SELECT version, status, is_managed, build_id FROM job WHERE id = ? AND project_id = ? AND "
    row = database.execute_sql(sql + SHOWN.sql, (job_id, project.id)).fetchone()
    if row is None:
        raise _not_found(job_id)
    version, status, is_managed, build_id = row
    if status == Status.CREATED and is_managed:
        return version, database.execute_sql(_PLACE, (job_id,)).fetchone()[0], *jobs_with_retried_start()
    if status == Status.BUILDING:
        return version, database.execute_sql("SELECT version FROM build WHERE id = ?", (build_id,)).fetchone()
    return (version,)


def list_jobs(
    project: Project, query: str | None = None, sort: str | None = None, *, with_archived: bool = False
) -> ModelSelect[Job]:
    """Return the project's jobs that the query selects, in the order of `sort`, by default last changed first.

    Archived jobs are left out, unless the query has a condition on `archived` and `with_archived` is true. Raises
    Invalid for a query that is not valid; see `polyjob.services.filters`.
    """
    wanted = parse_query(query, JOB_FIELDS, "job")
    if not (with_archived and has_condition_on(query, "archived")):
        wanted.append(Job.archived_at.is_null())
    found = Job.select().where(Job.project == project, Job.deleted_at.is_null(), *wanted)
    return found.order_by(*parse_sort(sort, JOB_SORT_COLUMNS))


def list_archived(owner: User) -> ModelSelect[Job]:
    """The archived jobs of the owner's projects, last archived first."""
    projects = Project.select(Project.id).where(Project.user == owner, Project.deleted_at.is_null())
    return (
        Job.select()
        .where(Job.project.in_(projects), Job.deleted_at.is_null(), Job.archived_at.is_null(False))
        .order_by(Job.archived_at.desc(), Job.id.desc())
    )


def queue_position(job: Job) -> int | None:
    """1 for the job that is claimed next; None for one that does not wait to be claimed."""
    if job.status is not Status.CREATED or not job.is_managed:
        return None
    return int(database.execute_sql(_PLACE, (job.id,)).fetchone()[0])


def slots_taken() -> int:
    """Jobs that hold a slot: claimed, and not yet known to have ended."""
    return int(database.execute_sql(f"SELECT COUNT(*) FROM job WHERE {CLAIMED.sql} AND exit IS NULL").fetchone()[0])


def jobs_with_retried_start() -> list[int]:
    """Return the ids of the jobs that hold a slot while their start, or their build, is retried."""
    holders = _HOLDERS()
    waiting = {job.build_id for job in holders if job.build_id is not None}
    builds = Build.select(Build.id, Build.notes).where(Build.id.in_(waiting), Build.finished_at.is_null())
    retried = {build.id for build in builds if note_text(build.notes, "retry")} if waiting else set()
    return [job.id for job in holders if note_text(job.notes, "retry") or job.build_id in retried]


def slots_note() -> str | None:
    """Return one sentence that names the jobs that hold slots without running; None where there are none."""
    numbers = jobs_with_retried_start()
    if not numbers:
        return None
    names = ", ".join(f"#{number}" for number in numbers)
    if len(numbers) == 1:
        return f"1 slot is held by a job whose start is retried: {names}."
    return f"{len(numbers)} slots are held by jobs whose start is retried: {names}."


def gpus_taken() -> set[int]:
    """Those that a job holds that is not yet known to have ended."""
    held = Job.select(Job.gpus).where(CLAIMED, Job.exit.is_null(), Job.gpus.is_null(False))
    return {index for job in held for index in job.gpus}


def waiting_reason(job: Job, position: int | None) -> str | None:
    """What keeps the job, at this place in the queue, from running now, in one sentence; None if nothing does."""
    if job.status.is_done or not job.is_managed:
        return None
    if job.status is Status.CREATED:
        ahead, held = (position or 1) - 1, slots_note()
        asked = 0 if note_text(job.notes, specs.GPU_PATH) else specs.requested_gpus(job.config, job.runner)
        reason = f"Waits for a free slot; {ahead} {'job is' if ahead == 1 else 'jobs are'} ahead of it."
        if asked and not ahead:
            reason = f"Waits for {asked} free {'GPU' if asked == 1 else 'GPUs'}, or for a free slot."
        return f"{reason} {held}" if held else reason
    if job.status is Status.BUILDING and job.build is not None and not job.build.status.is_done:
        why = note_text(job.build.notes, "retry")
        return f"Waits for build {job.build.unique_name}, which is {job.build.status}{f': {why}' if why else '.'}"
    return note_text(job.notes, "retry") if job.handle is None and job.exit is None else None


# Changing.


def check_name_is_free(project: Project, name: str | None, but: Job | None = None) -> None:
    """Raises Invalid where another job than `but` has the name."""
    if name is not None and is_name_taken(project, name, but):
        raise Invalid([Problem("/name", f"There is a job named `{name}` in this project already.")])


def is_name_taken(project: Project, name: str, but: Job | None = None) -> bool:
    """Whether a job of the project other than `but` has the name."""
    query = Job.select().where(Job.project == project, Job.name == name, Job.deleted_at.is_null())
    return bool((query.where(Job.id != but.id) if but else query).exists())


def update(job: Job, changes: Mapping[str, Any], settings: Settings) -> Job:
    """Change what people may: name, description, readme, tags, data_refs and params (these three merged with the old
    ones where `changes["merge"]`), the original and, while the job waits in the queue, its config.

    Raises Invalid; then nothing is changed.
    """
    columns = {name: changes[name] for name in _CHANGEABLE if name in changes}
    with write("update"):
        job = reload(job)
        if changes.get("merge"):
            columns |= _merged_columns(job, columns)
        for name in _ENTRIES & columns.keys():
            check_size(name, columns[name])
        if columns.get("name") is not None:
            check_name_is_free(job.project, columns["name"], but=job)
        if changes.get("original_job") is not None:
            columns["original"] = _find_original(job, changes["original_job"])
        if changes.get("config") is not None:
            columns |= _config_columns(job, changes["config"], changes.get("content"), settings)
        if columns:
            update_columns(job, **columns)
            audit.record("update", job, changed=sorted(columns))
    return job


def _merged_columns(job: Job, columns: Mapping[str, Any]) -> dict[str, Any]:
    """The columns that `merge` is about: tags united with the job's, entries merged with the job's by their keys."""
    merged: dict[str, Any] = {}
    if "tags" in columns:
        merged["tags"] = merge_lists("tags", job.tags, columns["tags"])
    if "data_refs" in columns:
        merged["data_refs"] = {**(job.data_refs or {}), **(columns["data_refs"] or {})} or None
    if "params" in columns:
        merged["params"] = {**(job.effective_params or {}), **(columns["params"] or {})} or None
    return merged


def _find_original(job: Job, number: int) -> int:
    original = Job.get_or_none(Job.id == number, Job.project == job.project, Job.deleted_at.is_null())
    if original is None or original.id == job.id:
        raise Invalid([Problem("/original_job", f"There is no other job {number} in this project.")])
    return int(original.id)


def _config_columns(job: Job, config: Mapping[str, Any], content: str | None, settings: Settings) -> dict[str, Any]:
    """The columns of a new config. Only a job that was not claimed yet takes one."""
    if job.status is not Status.CREATED:
        raise Invalid(
            [Problem("/config", f"The job is {job.status}; only a job that waits in the queue takes a new config.")]
        )
    notes = specs.check_runner_support(config, job.runner, len(settings.gpus)) if job.is_managed else []
    return {"config": config, "content": content, "notes": notes or None}


def request_stop(job: Job, user: User | None, settings: Settings) -> Job:
    """Have the job stopped. One that was not claimed yet is `stopped` when this returns; a running one soon, once
    nothing of it is left; one that is done stays as it is. Idempotent."""
    with write("stop", makes_room=True):
        job = reload(job)
        _request_stop(job, "person", user)
    wake_engine(settings.data_dir)
    return job


def delete(job: Job, user: User | None, settings: Settings) -> None:
    """Hide the job at once, and have it stopped and then removed with all that it wrote. Idempotent."""
    with write("delete", makes_room=True):
        mark_deleted(reload(job), user)
    wake_engine(settings.data_dir)


def mark_deleted(job: Job, user: User | None) -> None:
    """Do what `delete` does with a fresh row. Must be called inside `database.write`; wake the engine after it."""
    if job.deleted_at is None:
        _request_stop(job, "delete", user)
        update_columns(job, deleted_at=now())
        audit.record("delete", job)


def archive(job: Job, user: User | None, settings: Settings) -> None:
    """Hide the job from lists and look-ups, and have it stopped if it is not done. Idempotent."""
    with write("archive", makes_room=True):
        job = reload(job)
        if job.archived_at is None:
            _request_stop(job, "person", user)
            update_columns(job, archived_at=now())
            audit.record("archive", job)
    wake_engine(settings.data_dir)


def restore(project: Project, job_id: int) -> Job:
    """Show an archived job again; it stays as it is. Idempotent. Raises NotFound."""
    with write("restore"):
        job = BY_ID.first(job_id)
        if job is None or job.project_id != project.id or job.deleted_at is not None:
            raise _not_found(job_id)
        if job.archived_at is not None:
            update_columns(job, archived_at=None)
            audit.record("restore", job)
    return job


def stop_many(project: Project, numbers: Iterable[int], user: User | None, settings: Settings) -> list[int]:
    """Have jobs of the project stopped; those of them that were there and not done."""
    with write("stop", makes_room=True):
        found = [job for job in _listed_jobs(project, numbers) if not job.status.is_done]
        for job in found:
            _request_stop(job, "person", user)
    wake_engine(settings.data_dir)
    return [job.id for job in found]


def delete_many(project: Project, numbers: Iterable[int], user: User | None, settings: Settings) -> list[int]:
    """Delete jobs of the project; those of them that were there."""
    with write("delete", makes_room=True):
        found = _listed_jobs(project, numbers)
        for job in found:
            mark_deleted(job, user)
    wake_engine(settings.data_dir)
    return [job.id for job in found]


def _listed_jobs(project: Project, numbers: Iterable[int]) -> list[Job]:
    shown = (Job.project == project) & Job.deleted_at.is_null() & Job.archived_at.is_null()
    return list(Job.select().where(Job.id.in_(list(numbers)), shown).order_by(Job.id))


def stop_all(project: Project, user: User | None) -> None:
    """Have every job of the project stopped. Must be called inside `database.write`."""
    for job in _unfinished(project):
        _request_stop(job, "person", user)


def delete_all(project: Project, user: User | None) -> None:
    """Delete every job of the project. Must be called inside `database.write`."""
    for job in _unfinished(project):
        mark_deleted(job, user)
    left = Job.update(deleted_at=now(), version=Job.version + 1)
    left.where(Job.project == project, Job.deleted_at.is_null()).execute()


def _unfinished(project: Project) -> list[Job]:
    return list(Job.select().where(Job.project == project, Job.finished_at.is_null(), Job.deleted_at.is_null()))


def _request_stop(job: Job, kind: str, user: User | None) -> None:
    if job.status.is_done or job.stop_at is not None or job.exit is not None:
        return
    if kind == "person":
        audit.record("stop", job)
    if job.status is Status.CREATED or not job.is_managed:
        details = {"reason": "stopped", "by": user.username if user else None}
        transition(job, Status.STOPPED, message=STOPPED_MESSAGE, details=details)
        return
    update_columns(job, stop_at=now(), stop_kind=kind, stop_by=user.id if user else None)


def reload(job: Job) -> Job:
    """The row as it is now. Raises NotFound if it went meanwhile."""
    found = BY_ID.first(job.id)
    if found is None:
        raise NotFound("The job was deleted.")
    return found


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
    """Record what a client reports, and return the job's latest status.

    A job that polyjob does not run takes it as its status, if it may follow. For one that it runs it is kept beside the
    statuses, but `stopped` from a person (not None) is a wish to stop.
    """
    if job.is_managed and status is Status.STOPPED and user is not None:
        job = request_stop(job, user, settings)
    else:
        with write("report"):
            job = reload(job)
            if not job.is_managed:
                transition(job, status, message=message, traceback=traceback, details=details)
                audit.record("status", job, status=str(status))
            elif not job.status.is_done and (message or status is not job.status):
                text = f"The job reported {status}{f': {message}' if message else ''}."
                update_columns(
                    job, notes=with_note(job.notes, "reported", text), reported=_with_report(job, status, message)
                )
    return latest_status(job)


def _with_report(job: Job, status: Status, message: str | None) -> list[dict[str, Any]]:
    """The job's reported statuses with one more. Beyond the bound the oldest goes."""
    kept = (job.reported or [])[-(MAX_REPORTED_STATUSES - 1) :]
    report = {"status": str(status), "message": (message or "")[:MAX_MESSAGE_LENGTH] or None}
    return [*kept, report | {"created_at": now().isoformat()}]


def set_note(job: Job, kind: str, text: str | None) -> None:
    """Keep what was reported of the job as its one note of this kind; None takes the note away. Idempotent."""
    with write("note"):
        update_note(reload(job), kind, text)


def latest_status(job: Job) -> JobStatus:
    return (
        JobStatus.select().where(JobStatus.job == job).order_by(JobStatus.created_at.desc(), JobStatus.id.desc()).get()
    )


def list_statuses(job: Job | int) -> ModelSelect[JobStatus]:
    """Oldest first."""
    return JobStatus.select().where(JobStatus.job == job).order_by(JobStatus.created_at, JobStatus.id)
