"""What can be done with jobs: create, find, change, clone, stop, archive, delete.

Each verb is one transaction, synced when it returns, and wakes the engine where that has something to do. What is
wished is written here; what is, by the engine.
"""

from __future__ import annotations

import contextlib
import copy
import json
import uuid
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from peewee import ModelSelect

from polyjob import audit, specs
from polyjob.builds import UNUSABLE, refuse_on_low_disk
from polyjob.clock import now
from polyjob.database import database, write
from polyjob.errors import Invalid, NotFound, Problem
from polyjob.hints import send_hint
from polyjob.idempotency import Once, begin
from polyjob.models import CLAIMED, QUEUED, SHOWN, Build, Job, JobStatus, Project, User
from polyjob.query import JOB_FIELDS, JOB_ORDERS, conditions, ordering
from polyjob.schemas.config import load_config
from polyjob.schemas.parameters import is_parametrised, renamed_declarations
from polyjob.schemas.texts import parse_content
from polyjob.settings import Settings
from polyjob.statements import Prepared, insert
from polyjob.statuses import Status
from polyjob.store import Store
from polyjob.transitions import change, first_status, transition

STOPPED_MESSAGE = "Job was stopped"
STRATEGIES = ("restart", "resume", "copy")
_COPIED = ("name", "description", "readme", "tags", "data_refs", "ttl")


BY_ID = Prepared(lambda: Job.select().where(Job.id == 0))
_BY_PROJECT = Prepared(
    lambda: Job.select().where(Job.id == 0, Job.project == 0, Job.deleted_at.is_null(), Job.archived_at.is_null())
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


def state(project: Project, job_id: int) -> tuple[object, ...]:
    """What changes whenever something changes that people see of the job; reads one row, while the job is queued its
    place, and while it waits for a build that one's status. Raises NotFound."""
    sql = "SELECT version, status, is_managed, build_id FROM job WHERE id = ? AND project_id = ? AND "
    row = database.execute_sql(sql + SHOWN.sql, (job_id, project.id)).fetchone()
    if row is None:
        raise _not_found(job_id)
    version, status, is_managed, build_id = row
    if status == Status.CREATED and is_managed:
        return version, database.execute_sql(_PLACE, (job_id,)).fetchone()[0]
    if status == Status.BUILDING:
        return version, database.execute_sql("SELECT status FROM build WHERE id = ?", (build_id,)).fetchone()
    return (version,)


def list_jobs(project: Project, query: str | None = None, sort: str | None = None) -> ModelSelect[Job]:
    """The project's jobs that the query asks for, in the order that it asks for, last changed first.

    Raises Invalid for a query that is none; see `polyjob.query`.
    """
    asked = conditions(query, JOB_FIELDS, "job")
    return (
        Job.select()
        .where(Job.project == project, Job.deleted_at.is_null(), Job.archived_at.is_null(), *asked)
        .order_by(*ordering(sort, JOB_ORDERS))
    )


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


def waiting_reason(job: Job, position: int | None) -> str | None:
    """What keeps the job, at this place in the queue, from running now, in one sentence; None if nothing does."""
    if job.status.is_done or not job.is_managed:
        return None
    if job.status is Status.CREATED:
        ahead = (position or 1) - 1
        return f"Waits for a free slot; {ahead} {'job is' if ahead == 1 else 'jobs are'} ahead of it."
    if job.status is Status.BUILDING and job.build is not None and not job.build.status.is_done:
        return f"Waits for build {job.build.unique_name}, which is {job.build.status}."
    return None


# Making.


def create(
    project: Project, user: User, attributes: Mapping[str, Any], settings: Settings, once: Once | None = None
) -> Job:
    """Accept a job: when this returns, it is on disk and will run, or reach a terminal status that says why not.

    `attributes`: `config` (loaded by `load_config`) or None, and the job's own columns. Raises Invalid where the
    runner cannot honour the config or the name is taken, Unavailable where the disk is low, and what `once` raises.
    """
    refuse_on_low_disk(settings)
    managed = attributes.get("is_managed") is not False
    config = attributes.get("config")
    if config is None and managed:
        raise Invalid([Problem("/content", "Job expects a `content`.")])
    columns = {name: attributes.get(name) for name in _COPIED}
    if config is not None:
        for name in ("name", "description", "tags"):
            columns[name] = columns[name] or config.get(name)
    notes = specs.check(config, settings.runner) if config and managed else []
    with write("accept"):
        keep = begin(once)
        _refuse_taken_name(project, columns["name"])
        job = _insert(
            project,
            user,
            columns
            | {
                "config": config,
                "content": attributes.get("content"),
                "is_managed": managed,
                "runner": settings.runner,
                "notes": notes or None,
                "code": project.code_id,
                "build": _asked_build(project, attributes.get("build_job"), settings.runner),
            },
        )
        audit.record("create", job)
        keep(job)
    send_hint(settings.data_dir)
    return job


def clone(
    source: Job,
    user: User,
    strategy: str,
    attributes: Mapping[str, Any],
    settings: Settings,
    once: Once | None = None,
) -> Job:
    """A new job from `source`: its config with the patch `attributes["config"]` merged in.

    `restart` starts with empty outputs and takes a source in any state; `resume` and `copy` start with a copy of the
    source's outputs, which must be done. Raises Invalid and makes no job where the merged config or the source does
    not do, Unavailable where the disk is low, and what `once` raises.
    """
    refuse_on_low_disk(settings)
    if strategy != "restart" and not source.status.is_done:
        detail = f"Job {source.unique_name} is {source.status}; {strategy} takes only a job that is done."
        raise Invalid([Problem("", detail)])
    patch = attributes.get("config") or {}
    config, content = _patched(source, patch)
    notes = specs.check(config, settings.runner) if config and source.is_managed else []
    identity = uuid.uuid4().hex
    own = config or {}
    with _inputs_of(source, identity, strategy, settings), write(strategy):
        keep = begin(once)
        if _fresh(source).deleted_at is not None:
            raise NotFound("The job was deleted.")
        code = source.project.code_id if attributes.get("update_code") else source.code_id
        job = _insert(
            source.project,
            user,
            {
                "uuid": identity,
                "name": _free_name(source.project, patch.get("name")),
                "description": attributes.get("description") or source.description,
                "readme": source.readme,
                "tags": own.get("tags") or source.tags,
                "data_refs": source.data_refs,
                "ttl": attributes.get("ttl") if attributes.get("ttl") is not None else source.ttl,
                "config": config,
                "content": content,
                "is_managed": source.is_managed,
                "runner": settings.runner,
                "notes": notes or None,
                "code": code,
                "original": source.id,
                "cloning_strategy": strategy,
            },
        )
        audit.record(strategy, job, original=source.id)
        keep(job)
    send_hint(settings.data_dir)
    return job


def _patched(source: Job, patch: Mapping[str, Any]) -> tuple[dict[str, Any] | None, str | None]:
    """(config, content) of a clone. A config with params is patched as it was sent and its params are put in anew, so
    that other params make another command."""
    if source.config is None and not patch:
        return None, source.content
    document = source.config
    if source.content is not None and is_parametrised(source.config):
        document = renamed_declarations(parse_content(source.content))
    merged = merge(document, renamed_declarations(patch))
    config = load_config(merged)
    if not patch:
        return config, source.content
    return config, json.dumps(merged, ensure_ascii=False) if is_parametrised(merged) else None


@contextlib.contextmanager
def _inputs_of(source: Job, identity: str, strategy: str, settings: Settings) -> Iterator[None]:
    """The source's outputs are there for the new job, and go again where there comes to be none."""
    store = Store(settings.data_dir)
    try:
        if strategy != "restart":
            store.link_inputs(source.uuid, identity)
        yield
    except FileNotFoundError:
        store.remove_job(identity)
        raise NotFound("The job was deleted.") from None
    except BaseException:
        store.remove_job(identity)
        raise


def merge(document: Any, patch: Any) -> Any:
    """`patch` merged into `document`: mappings key by key, everything else (lists and null too) replaced."""
    if not isinstance(document, Mapping) or not isinstance(patch, Mapping):
        return copy.deepcopy(patch)
    return {
        key: merge(document.get(key), patch[key]) if key in patch else copy.deepcopy(document[key])
        for key in [*document, *(key for key in patch if key not in document)]
    }


def _insert(project: Project, user: User, columns: Mapping[str, Any]) -> Job:
    moment = now()
    values = {"uuid": uuid.uuid4().hex} | dict(columns)
    job = insert(Job, values | {"project": project, "user": user, "created_at": moment, "updated_at": moment})
    first_status(job)
    return job


def _refuse_taken_name(project: Project, name: str | None, but: Job | None = None) -> None:
    if name is not None and _is_taken(project, name, but):
        raise Invalid([Problem("/name", f"There is a job named `{name}` in this project already.")])


def _is_taken(project: Project, name: str, but: Job | None = None) -> bool:
    query = Job.select().where(Job.project == project, Job.name == name, Job.deleted_at.is_null())
    return bool((query.where(Job.id != but.id) if but else query).exists())


def _free_name(project: Project, name: str | None) -> str | None:
    """`name`, with the next free number behind it where it is taken."""
    if name is None or not _is_taken(project, name):
        return name
    number = 1
    while _is_taken(project, f"{name}-{number}"):
        number += 1
    return f"{name}-{number}"


def _asked_build(project: Project, asked: int | str | None, runner: str) -> Build | None:
    """The build that the request names, by number or unique name."""
    if asked is None:
        return None
    number = str(asked).rsplit(".", 1)[-1]
    build = None
    if number.isdecimal() and len(number) <= 18:
        shown = (Build.project == project) & Build.deleted_at.is_null() & Build.archived_at.is_null()
        build = Build.get_or_none((Build.id == int(number)) & shown)
    if build is None or str(asked) not in (number, build.unique_name):
        raise Invalid([Problem("/build_job", f"There is no build `{asked}` in this project.")])
    if build.runner != runner:
        detail = f"Build `{asked}` was made for the {build.runner} runner, and jobs run on the {runner} runner now."
        raise Invalid([Problem("/build_job", detail)])
    if build.stop_at is not None or build.status in UNUSABLE:
        raise Invalid([Problem("/build_job", f"Build `{asked}` cannot be used: it was stopped or has failed.")])
    return build


# Changing.


def update(job: Job, changes: Mapping[str, Any], settings: Settings) -> Job:
    """Change what people may: name, description, readme, tags, data_refs (united with the old ones where
    `changes["merge"]`), the original and, while the job waits in the queue, its config.

    Raises Invalid; then nothing is changed.
    """
    columns = {
        name: changes[name] for name in ("name", "description", "readme", "tags", "data_refs") if name in changes
    }
    with write("update"):
        job = _fresh(job)
        if changes.get("merge"):
            for name in {"tags", "data_refs"} & columns.keys():
                columns[name] = list(dict.fromkeys([*(getattr(job, name) or []), *(columns[name] or [])])) or None
        if columns.get("name") is not None:
            _refuse_taken_name(job.project, columns["name"], but=job)
        if changes.get("original_job") is not None:
            columns["original"] = _asked_original(job, changes["original_job"])
        if changes.get("config") is not None:
            columns |= _new_config(job, changes["config"], changes.get("content"))
        if columns:
            change(job, **columns)
            audit.record("update", job, changed=sorted(columns))
    return job


def _asked_original(job: Job, number: int) -> int:
    original = Job.get_or_none(Job.id == number, Job.project == job.project, Job.deleted_at.is_null())
    if original is None or original.id == job.id:
        raise Invalid([Problem("/original_job", f"There is no other job {number} in this project.")])
    return int(original.id)


def _new_config(job: Job, config: Mapping[str, Any], content: str | None) -> dict[str, Any]:
    """The columns of a new config. Only a job that was not claimed yet takes one."""
    if job.status is not Status.CREATED:
        raise Invalid(
            [Problem("/config", f"The job is {job.status}; only a job that waits in the queue takes a new config.")]
        )
    notes = specs.check(config, job.runner) if job.is_managed else []
    return {"config": config, "content": content, "notes": notes or None}


def request_stop(job: Job, user: User | None, settings: Settings) -> Job:
    """Have the job stopped. One that was not claimed yet is `stopped` when this returns; a running one soon, once
    nothing of it is left; one that is done stays as it is. Idempotent."""
    with write("stop"):
        job = _fresh(job)
        _wish_stop(job, "person", user)
    send_hint(settings.data_dir)
    return job


def delete(job: Job, user: User | None, settings: Settings) -> None:
    """Hide the job at once, and have it stopped and then removed with all that it wrote. Idempotent."""
    with write("delete"):
        _delete(_fresh(job), user)
    send_hint(settings.data_dir)


def _delete(job: Job, user: User | None) -> None:
    if job.deleted_at is None:
        _wish_stop(job, "delete", user)
        change(job, deleted_at=now())
        audit.record("delete", job)


def archive(job: Job, user: User | None, settings: Settings) -> None:
    """Hide the job from lists and look-ups, and have it stopped if it is not done. Idempotent."""
    with write("archive"):
        job = _fresh(job)
        if job.archived_at is None:
            _wish_stop(job, "person", user)
            change(job, archived_at=now())
            audit.record("archive", job)
    send_hint(settings.data_dir)


def restore(project: Project, job_id: int) -> Job:
    """Show an archived job again; it stays as it is. Idempotent. Raises NotFound."""
    with write("restore"):
        job = BY_ID.first(job_id)
        if job is None or job.project_id != project.id or job.deleted_at is not None:
            raise _not_found(job_id)
        if job.archived_at is not None:
            change(job, archived_at=None)
            audit.record("restore", job)
    return job


def stop_many(project: Project, numbers: Iterable[int], user: User | None, settings: Settings) -> list[int]:
    """Have jobs of the project stopped; those of them that were there and not done."""
    with write("stop"):
        found = [job for job in _some(project, numbers) if not job.status.is_done]
        for job in found:
            _wish_stop(job, "person", user)
    send_hint(settings.data_dir)
    return [job.id for job in found]


def delete_many(project: Project, numbers: Iterable[int], user: User | None, settings: Settings) -> list[int]:
    """Delete jobs of the project; those of them that were there."""
    with write("delete"):
        found = _some(project, numbers)
        for job in found:
            _delete(job, user)
    send_hint(settings.data_dir)
    return [job.id for job in found]


def _some(project: Project, numbers: Iterable[int]) -> list[Job]:
    shown = (Job.project == project) & Job.deleted_at.is_null() & Job.archived_at.is_null()
    return list(Job.select().where(Job.id.in_(list(numbers)), shown).order_by(Job.id))


def stop_all(project: Project, user: User | None) -> None:
    """Have every job of the project stopped. Must be called inside `database.write`."""
    for job in _unfinished(project):
        _wish_stop(job, "person", user)


def delete_all(project: Project, user: User | None) -> None:
    """Delete every job of the project. Must be called inside `database.write`."""
    for job in _unfinished(project):
        _delete(job, user)
    left = Job.update(deleted_at=now(), version=Job.version + 1)
    left.where(Job.project == project, Job.deleted_at.is_null()).execute()


def _unfinished(project: Project) -> list[Job]:
    return list(Job.select().where(Job.project == project, Job.finished_at.is_null(), Job.deleted_at.is_null()))


def _wish_stop(job: Job, kind: str, user: User | None) -> None:
    if job.status.is_done or job.stop_at is not None or job.exit is not None:
        return
    if kind == "person":
        audit.record("stop", job)
    if job.status is Status.CREATED or not job.is_managed:
        details = {"reason": "stopped", "by": user.username if user else None}
        transition(job, Status.STOPPED, message=STOPPED_MESSAGE, details=details)
        return
    change(job, stop_at=now(), stop_kind=kind, stop_by=user.id if user else None)


def _fresh(job: Job) -> Job:
    """The row as it is now. Raises NotFound if it went meanwhile."""
    fresh = BY_ID.first(job.id)
    if fresh is None:
        raise NotFound("The job was deleted.")
    return fresh


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
    """What a client reports. A job that polyjob does not run takes it as its status, if it may follow; one that it
    runs only keeps a note, but `stopped` from a person (not None) is a wish to stop. Returns the job's latest status.
    """
    if job.is_managed and status is Status.STOPPED and user is not None:
        job = request_stop(job, user, settings)
    else:
        with write("report"):
            job = _fresh(job)
            if not job.is_managed:
                transition(job, status, message=message, traceback=traceback, details=details)
                audit.record("status", job, status=str(status))
            elif not job.status.is_done and status is not job.status:
                text = f"The job reported {status}{f': {message}' if message else ''}."
                change(job, notes=with_note(job.notes, "reported", text))
    return latest_status(job)


def note(job: Job, kind: str, text: str | None) -> None:
    """Keep what was reported of the job as its one note of this kind; None takes the note away. Idempotent."""
    with write("note"):
        job = _fresh(job)
        notes = with_note(job.notes, kind, text)
        if notes != job.notes:
            change(job, notes=notes)


def latest_status(job: Job) -> JobStatus:
    return (
        JobStatus.select().where(JobStatus.job == job).order_by(JobStatus.created_at.desc(), JobStatus.id.desc()).get()
    )


def list_statuses(job: Job | int) -> ModelSelect[JobStatus]:
    """Oldest first."""
    return JobStatus.select().where(JobStatus.job == job).order_by(JobStatus.created_at, JobStatus.id)


def with_note(notes: list[dict[str, str]] | None, kind: str, text: str | None) -> list[dict[str, str]] | None:
    """`notes` with the one of this kind replaced, or removed where `text` is None."""
    kept = [note for note in notes or [] if note["kind"] != kind]
    return kept + ([{"kind": kind, "text": text}] if text else []) or None
