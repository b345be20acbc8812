"""Submit jobs: validate a request, and insert the job in one transaction."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from peewee import DatabaseError

from polyjob.db.group_commit import write_in_group
from polyjob.db.models import Build, Job, Project, User
from polyjob.engine_link import wake_engine
from polyjob.errors import Invalid, Problem
from polyjob.services import audit, capacity, dependencies, job_inputs, job_secrets, specs, webhooks
from polyjob.services.build_reuse import UNUSABLE_STATUSES
from polyjob.services.endings import add_dependencies
from polyjob.services.entries import check_size
from polyjob.services.idempotency import IdempotentRequest, check_replay
from polyjob.services.job_inputs import FindJob
from polyjob.services.job_queue import read_state
from polyjob.services.new_jobs import check_name_is_free, insert_job
from polyjob.services.runner_choice import choose_runner
from polyjob.settings import Settings
from polyjob.storage.store import Store

_REQUEST_COLUMNS = ("name", "description", "readme", "tags", "data_refs", "params", "ttl")


def create(
    project: Project,
    user: User,
    attributes: Mapping[str, Any],
    settings: Settings,
    once: IdempotentRequest | None = None,
    *,
    may_choose_folder: bool = False,
    find_job: FindJob | None = None,
    on_insert: Callable[[Job], None] = lambda job: None,
) -> Job:
    """Accept a job and return it.

    When this returns, the job is on disk. It will run, or reach a terminal status that gives the reason. `on_insert` is
    called in the transaction of the job.

    Raises what `prepare` and the function that it returns raise, and whatever `once` raises.
    """
    insert = prepare(project, user, attributes, settings, may_choose_folder=may_choose_folder, find_job=find_job)

    def accept() -> Job:
        store_response = check_replay(once)
        job = insert()
        on_insert(job)
        store_response(job)
        return job

    job = write_in_group("accept", accept)
    wake_engine_for(job, settings)
    return job


def prepare(
    project: Project,
    user: User,
    attributes: Mapping[str, Any],
    settings: Settings,
    *,
    may_choose_folder: bool,
    find_job: FindJob | None = None,
) -> Callable[[], Job]:
    """Validate a job, and return a function that inserts it. That must be called inside `database.write`.

    `attributes` has `config` (from `load_config`, or None), `backend` (see `choose_runner`) and the job's own columns.
    `dependencies` are those jobs for which it waits, which the sender may read. `find_job` finds the jobs whose outputs
    it reads; without it, a config that names such jobs is refused.

    Raises Invalid if the runner cannot honour the config, Forbidden if the config names a working folder without
    `may_choose_folder`, and Unavailable if the disk is low. The function raises Invalid if the name is taken, the
    build cannot be used, or a job for which this one waits or whose outputs it reads was deleted, and then has inserted
    nothing.
    """
    store = Store(settings.data_dir)
    store.check_free_space(settings.disk_low)
    columns = _columns(project, attributes, settings)
    specs.check_working_folder(columns["config"], may_choose_folder)
    requested = _requested_upstreams(attributes, find_job)
    notify = attributes.get("notify")
    if notify is not None:
        webhooks.check_url(notify, settings, "/notify")

    def insert() -> Job:
        check_name_is_free(project, columns["name"])
        build = _requested_build(project, attributes.get("build_job"), columns, settings)
        upstreams = dependencies.find(requested)
        job_inputs.check(upstreams, store)
        job = insert_job(
            project, user, columns | {"build": build, "is_held": bool(upstreams), "has_dependencies": bool(upstreams)}
        )
        if notify is not None:
            job.notify_secret = webhooks.add_to_job(job, notify)
        audit.record("create", job)
        add_dependencies(job, upstreams)
        return job

    return insert


def _columns(project: Project, attributes: Mapping[str, Any], settings: Settings) -> dict[str, Any]:
    """Return the columns of a job that do not need the transaction of its insert. Raises Invalid."""
    config, is_managed = attributes.get("config"), _is_managed(attributes)
    if is_managed and config is None:
        raise Invalid([Problem("/content", "Job expects a `content`.")])
    columns = {name: attributes.get(name) for name in _REQUEST_COLUMNS}
    for name in ("data_refs", "params"):
        check_size(name, columns[name])
    if config is not None:
        for name in ("name", "description", "tags"):
            columns[name] = columns[name] or config.get(name)
    runner, notes = settings.runner, []
    if is_managed and config is not None:
        runner = choose_runner(settings, attributes)
        notes = specs.check_runner_support(config, runner, settings)
        job_secrets.check_names(config, project.id, runner)
    return columns | {
        "config": config,
        "content": attributes.get("content"),
        "is_managed": is_managed,
        "runner": runner,
        "notes": notes or None,
        "code": project.code_id,
    }


def _requested_upstreams(attributes: Mapping[str, Any], find_job: FindJob | None) -> Sequence[dependencies.Requested]:
    """Return the jobs for which a job waits, also for their outputs. Raises Invalid."""
    requested: Sequence[dependencies.Requested] = attributes.get("dependencies") or ()
    if _is_managed(attributes):
        return [*requested, *job_inputs.find(attributes.get("config"), requested, find_job)]
    if requested:
        raise Invalid([Problem("/after", "polyjob does not run this job, so the job cannot wait for others.")])
    return ()


def _is_managed(attributes: Mapping[str, Any]) -> bool:
    return attributes.get("is_managed") is not False


def wake_engine_for(job: Job, settings: Settings) -> None:
    """Wake the engine for a committed job, unless all slots of its runner are taken.

    In that case the engine claims the job after it has recorded the exit that frees a slot. A wake-up for each job of a
    long queue would only cost it a pass. The job keeps the state of its queue for the response. Never raises for the
    database: the job is accepted, and the client must learn that.
    """
    try:
        job.queue_state = state = read_state(job)
        is_slot_free = state.slots_taken < capacity.Capacity(settings, state.changes).slots_of(job.runner)
    except DatabaseError:
        is_slot_free = True
    if is_slot_free:
        wake_engine(settings.data_dir)


def _requested_build(
    project: Project, name: int | str | None, columns: Mapping[str, Any], settings: Settings
) -> Build | None:
    """Return the build that the request names by its id or unique name.

    A job that polyjob runs needs a build that polyjob made. Raises Invalid.
    """
    if name is None:
        return None
    runner, is_managed = columns["runner"], columns["is_managed"]
    digits = str(name).rsplit(".", 1)[-1]
    build = None
    if digits.isdecimal() and len(digits) <= 18:
        listed = (Build.project == project) & Build.deleted_at.is_null() & Build.archived_at.is_null()
        build = Build.get_or_none((Build.id == int(digits)) & listed)
    if build is None or str(name) not in (digits, build.unique_name):
        raise _invalid_build(f"There is no build `{name}` in this project.")
    if is_managed and not build.is_managed:
        raise _invalid_build(
            f"Build `{name}` cannot be used: polyjob did not make it. Omit `build_job` to get one made."
        )
    if build.runner != runner:
        is_listed = is_managed and build.runner in settings.runner_names
        advice = f"Set `backend` to `{build.runner}`, or omit" if is_listed else "Omit"
        raise _invalid_build(
            f"Build `{name}` was made for the {build.runner} runner, but this job runs on the {runner} runner."
            f" {advice} `build_job` to get one made."
        )
    if build.stop_at is not None or build.status in UNUSABLE_STATUSES:
        state = "is being stopped" if build.stop_at is not None else f"is {build.status}"
        raise _invalid_build(f"Build `{name}` cannot be used: it {state}. Omit `build_job` to get one made.")
    return build


def _invalid_build(detail: str) -> Invalid:
    return Invalid([Problem("/build_job", detail)])
