"""Jobs come into being: submitted as a config, or cloned from another job.

Each verb is one transaction, synced when it returns, and wakes the engine.
"""

from __future__ import annotations

import contextlib
import copy
import json
import uuid
from collections.abc import Iterator, Mapping
from typing import Any

from polyjob.clock import now
from polyjob.db.database import write
from polyjob.db.models import Build, Job, Project, User
from polyjob.db.prepared import insert
from polyjob.engine_link import wake_engine
from polyjob.errors import Invalid, NotFound, Problem
from polyjob.jobconfig.parameters import has_params, rename_declarations
from polyjob.jobconfig.parsing import parse_content
from polyjob.jobconfig.schema import load_config
from polyjob.services import audit, specs
from polyjob.services.builds import UNUSABLE_STATUSES
from polyjob.services.entries import check_size
from polyjob.services.idempotency import IdempotentRequest, check_replay
from polyjob.services.jobs import check_name_is_free, is_name_taken, reload
from polyjob.services.notes import MISSING_OUTPUTS_NOTE, note_text
from polyjob.services.transitions import insert_first_status
from polyjob.settings import Settings
from polyjob.storage.store import Store

_COPIED = ("name", "description", "readme", "tags", "data_refs", "params", "ttl")


def create(
    project: Project,
    user: User,
    attributes: Mapping[str, Any],
    settings: Settings,
    once: IdempotentRequest | None = None,
) -> Job:
    """Accept a job: when this returns, it is on disk and will run, or reach a terminal status that says why not.

    `attributes`: `config` (loaded by `load_config`) or None, and the job's own columns. Raises Invalid where the
    runner cannot honour the config or the name is taken, Unavailable where the disk is low, and what `once` raises.
    """
    Store(settings.data_dir).check_free_space(settings.disk_low)
    managed = attributes.get("is_managed") is not False
    config = attributes.get("config")
    if config is None and managed:
        raise Invalid([Problem("/content", "Job expects a `content`.")])
    columns = {name: attributes.get(name) for name in _COPIED}
    for name in ("data_refs", "params"):
        check_size(name, columns[name])
    if config is not None:
        for name in ("name", "description", "tags"):
            columns[name] = columns[name] or config.get(name)
    notes = specs.check_runner_support(config, settings.runner, len(settings.gpus)) if config and managed else []
    with write("accept"):
        keep = check_replay(once)
        check_name_is_free(project, columns["name"])
        job = _insert_job(
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
                "build": _asked_build(project, attributes.get("build_job"), settings.runner, managed),
            },
        )
        audit.record("create", job)
        keep(job)
    wake_engine(settings.data_dir)
    return job


def clone(
    source: Job,
    user: User,
    strategy: str,
    attributes: Mapping[str, Any],
    settings: Settings,
    once: IdempotentRequest | None = None,
) -> Job:
    """A new job from `source`: its config with the patch `attributes["config"]` merged in; or, where
    `attributes["is_whole"]`, that config (loaded by `load_config`) in place of its own.

    `restart` starts with empty outputs and takes a source in any state; `resume` and `copy` start with a copy of the
    source's outputs, which must be done. Raises Invalid and makes no job where the merged config or the source does
    not do, Unavailable where the disk is low, and what `once` raises.
    """
    Store(settings.data_dir).check_free_space(settings.disk_low)
    if strategy != "restart" and not source.status.is_done:
        detail = f"Job {source.unique_name} is {source.status}; {strategy} takes only a job that is done."
        raise Invalid([Problem("", detail)])
    fault = outputs_fault(source, Store(settings.data_dir))
    if strategy != "restart" and fault:
        detail = f"The outputs of job {source.unique_name} {fault}; {strategy} has nothing to start with."
        raise Invalid([Problem("", detail)])
    given = attributes.get("config") or {}
    is_whole = bool(attributes.get("is_whole"))
    config, content = (given, attributes.get("content")) if is_whole else _patched(source, given)
    asked_name = given.get("name")
    if is_whole and asked_name == (source.config or {}).get("name"):
        asked_name = None  # only what is changed is asked for
    notes = (
        specs.check_runner_support(config, settings.runner, len(settings.gpus)) if config and source.is_managed else []
    )
    identity = uuid.uuid4().hex
    own = config or {}
    with _inputs_of(source, identity, strategy, settings), write(strategy):
        keep = check_replay(once)
        if reload(source).deleted_at is not None:
            raise NotFound("The job was deleted.")
        code = source.project.code_id if attributes.get("update_code") else source.code_id
        job = _insert_job(
            source.project,
            user,
            {
                "uuid": identity,
                "name": _free_name(source.project, asked_name),
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
    wake_engine(settings.data_dir)
    return job


def outputs_fault(source: Job, store: Store) -> str | None:
    """Return why nothing can start with the outputs of a job that is done, as the end of `The outputs …`."""
    if source.cleared_at is not None:
        return "were removed to make room"
    is_missing = note_text(source.notes, MISSING_OUTPUTS_NOTE) or note_text(source.notes, "given-up")
    return "are missing, as its notes say" if is_missing and not store.is_sealed(source.uuid) else None


def _patched(source: Job, patch: Mapping[str, Any]) -> tuple[dict[str, Any] | None, str | None]:
    """(config, content) of a clone. A config with params is patched as it was sent and its params are put in anew, so
    that other params make another command."""
    if source.config is None and not patch:
        return None, source.content
    document = source.config
    if source.content is not None and has_params(source.config):
        document = rename_declarations(parse_content(source.content))
    merged = merge_patch(document, rename_declarations(patch))
    config = load_config(merged)
    if not patch:
        return config, source.content
    return config, json.dumps(merged, ensure_ascii=False) if has_params(merged) else None


@contextlib.contextmanager
def _inputs_of(source: Job, identity: str, strategy: str, settings: Settings) -> Iterator[None]:
    """The source's outputs are there for the new job, and go again where there comes to be none."""
    store = Store(settings.data_dir)
    try:
        if strategy != "restart":
            store.link_inputs(source.uuid, identity, settings.disk_low)
        yield
    except FileNotFoundError:
        store.remove_job(identity)
        raise NotFound("The job was deleted.") from None
    except BaseException:
        store.remove_job(identity)
        raise


def merge_patch(document: Any, patch: Any) -> Any:
    """`patch` merged into `document`: mappings key by key, everything else (lists and null too) replaced."""
    if not isinstance(document, Mapping) or not isinstance(patch, Mapping):
        return copy.deepcopy(patch)
    return {
        key: merge_patch(document.get(key), patch[key]) if key in patch else copy.deepcopy(document[key])
        for key in [*document, *(key for key in patch if key not in document)]
    }


def _insert_job(project: Project, user: User, columns: Mapping[str, Any]) -> Job:
    moment = now()
    values = {"uuid": uuid.uuid4().hex} | dict(columns)
    job = insert(Job, values | {"project": project, "user": user, "created_at": moment, "updated_at": moment})
    insert_first_status(job)
    return job


def _free_name(project: Project, name: str | None) -> str | None:
    """`name`, with the next free number behind it where it is taken."""
    if name is None or not is_name_taken(project, name):
        return name
    number = 1
    while is_name_taken(project, f"{name}-{number}"):
        number += 1
    return f"{name}-{number}"


def _asked_build(project: Project, asked: int | str | None, runner: str, managed: bool) -> Build | None:
    """Return the build that the request names, by number or unique name. A job that polyjob runs cannot name one that
    polyjob did not make. Raises Invalid."""
    if asked is None:
        return None
    number = str(asked).rsplit(".", 1)[-1]
    build = None
    if number.isdecimal() and len(number) <= 18:
        shown = (Build.project == project) & Build.deleted_at.is_null() & Build.archived_at.is_null()
        build = Build.get_or_none((Build.id == int(number)) & shown)
    if build is None or str(asked) not in (number, build.unique_name):
        raise Invalid([Problem("/build_job", f"There is no build `{asked}` in this project.")])
    if managed and not build.is_managed:
        detail = f"Build `{asked}` cannot be used: polyjob did not make it. Leave `build_job` out to have one made."
        raise Invalid([Problem("/build_job", detail)])
    if build.runner != runner:
        detail = f"Build `{asked}` was made for the {build.runner} runner, and jobs run on the {runner} runner now."
        raise Invalid([Problem("/build_job", detail)])
    if build.stop_at is not None or build.status in UNUSABLE_STATUSES:
        raise Invalid([Problem("/build_job", f"Build `{asked}` cannot be used: it was stopped or has failed.")])
    return build
