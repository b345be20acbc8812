"""Clone jobs: `restart`, `resume` and `copy`."""

from __future__ import annotations

import contextlib
import copy
import json
import uuid
from collections.abc import Iterator, Mapping
from typing import Any

from polyjob.db.database import write
from polyjob.db.models import Job, User
from polyjob.errors import Invalid, NotFound, Problem
from polyjob.jobconfig.parameters import has_params, rename_declarations
from polyjob.jobconfig.parsing import parse_content
from polyjob.jobconfig.validation import load_config
from polyjob.services import audit, dependencies, job_inputs, job_secrets, specs, webhooks
from polyjob.services.endings import add_dependencies
from polyjob.services.idempotency import IdempotentRequest, check_replay
from polyjob.services.job_inputs import FindJob, outputs_fault
from polyjob.services.jobs import reload
from polyjob.services.new_jobs import free_name, insert_job
from polyjob.services.runner_choice import runner_of_clone
from polyjob.services.submission import wake_engine_for
from polyjob.settings import Settings
from polyjob.storage.store import Store


def clone(
    source: Job,
    user: User,
    strategy: str,
    attributes: Mapping[str, Any],
    settings: Settings,
    once: IdempotentRequest | None = None,
    *,
    may_choose_folder: bool = False,
    find_job: FindJob | None = None,
) -> Job:
    """Create a job from `source` and return it.

    `attributes["config"]` is a patch that is merged into the config of the source. If `attributes["is_complete"]` is
    true, it is a complete config (from `load_config`) that replaces the source's.

    `restart` begins with empty outputs, and the source may be in any state. `resume` and `copy` begin with a copy of
    the source's outputs, so the source must be done.

    `find_job` finds the jobs whose outputs the new job reads, which the sender may read.

    Raises Invalid if the source or the new config is not suitable, Forbidden if the config names a working folder
    without `may_choose_folder`, NotFound if the source is deleted meanwhile, Unavailable if the disk is low, and
    whatever `once` raises. Then no job is created.
    """
    store = Store(settings.data_dir)
    store.check_free_space(settings.disk_low)
    if strategy != "restart":
        _check_outputs(source, strategy, store)
    columns, name = _config_columns(source, attributes, settings)
    specs.check_working_folder(columns["config"], may_choose_folder)
    requested = job_inputs.find(columns["config"], (), find_job) if source.is_managed else []
    job_uuid = uuid.uuid4().hex
    with _linked_inputs(source, job_uuid, strategy, settings), write(strategy):
        store_response = check_replay(once)
        if reload(source).deleted_at is not None:
            raise NotFound("The job was deleted.")
        upstreams = dependencies.find(requested)
        job_inputs.check(upstreams, store)
        columns |= {
            "uuid": job_uuid,
            "name": free_name(source.project, name),
            "code": source.project.code_id if attributes.get("update_code") else source.code_id,
            "original": source.id,
            "cloning_strategy": strategy,
            "is_held": bool(upstreams),
            "has_dependencies": bool(upstreams),
        }
        job = insert_job(source.project, user, columns)
        webhooks.copy_to_clone(source, job)
        audit.record(strategy, job, original=source.id)
        add_dependencies(job, upstreams)
        store_response(job)
    wake_engine_for(job, settings)
    return job


def _check_outputs(source: Job, strategy: str, store: Store) -> None:
    """Raise Invalid unless the source has outputs that a job can begin with."""
    if not source.status.is_done:
        detail = f"Job {source.unique_name} is {source.status}; {strategy} takes only a job that is done."
        raise Invalid([Problem("", detail)])
    fault = outputs_fault(source, store)
    if fault:
        detail = f"The outputs of job {source.unique_name} {fault}, so {strategy} is not possible. Restart it instead."
        raise Invalid([Problem("", detail)])


def _config_columns(
    source: Job, attributes: Mapping[str, Any], settings: Settings
) -> tuple[dict[str, Any], str | None]:
    """Return the columns of the new job that do not need the database, and the name that the request asks for.

    Raises Invalid.
    """
    changes = attributes.get("config") or {}
    name = changes.get("name")
    if attributes.get("is_complete"):
        config, content = changes, attributes.get("content")
        if name == (source.config or {}).get("name"):
            name = None  # an unchanged name is not a request for that name
    else:
        config, content = _patched(source, changes)
    runner, notes = settings.runner, []
    if config and source.is_managed:
        is_changed = (
            config.get("backend") != (source.config or {}).get("backend")
            if attributes.get("is_complete")
            else "backend" in changes
        )
        runner = runner_of_clone(settings, source, config, is_changed=is_changed)
        notes = specs.check_runner_support(config, runner, settings)
        job_secrets.check_names(config, source.project_id, runner)
    columns = {
        "description": attributes.get("description") or source.description,
        "readme": source.readme,
        "tags": (config or {}).get("tags") or source.tags,
        "data_refs": source.data_refs,
        "ttl": attributes.get("ttl") if attributes.get("ttl") is not None else source.ttl,
        "config": config,
        "content": content,
        "is_managed": source.is_managed,
        "runner": runner,
        "notes": notes or None,
    }
    return columns, name


def _patched(source: Job, patch: Mapping[str, Any]) -> tuple[dict[str, Any] | None, str | None]:
    """Return (config, content) of a clone.

    A config with params is patched in the form in which it was sent, and rendered again. So a clone with other params
    gets another command.
    """
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


def merge_patch(document: Any, patch: Any) -> Any:
    """Return `document` with `patch` merged in.

    Mappings are merged key by key. Every other value in the patch, lists and null included, replaces the old one.
    """
    if not isinstance(document, Mapping) or not isinstance(patch, Mapping):
        return copy.deepcopy(patch)
    return {
        key: merge_patch(document.get(key), patch[key]) if key in patch else copy.deepcopy(document[key])
        for key in [*document, *(key for key in patch if key not in document)]
    }


@contextlib.contextmanager
def _linked_inputs(source: Job, job_uuid: str, strategy: str, settings: Settings) -> Iterator[None]:
    """Link the source's outputs as the inputs of the new job; remove them again if the block raises."""
    store = Store(settings.data_dir)
    try:
        if strategy != "restart":
            store.link_inputs(source.uuid, job_uuid, settings.disk_low)
        yield
    except FileNotFoundError:
        store.remove_job(job_uuid)
        raise NotFound("The job was deleted.") from None
    except BaseException:
        store.remove_job(job_uuid)
        raise
