"""Run a job again: restart, resume or copy it, unchanged or with an edited config."""

from __future__ import annotations

from collections.abc import Mapping

from flask import Blueprint, make_response, render_template, request
from werkzeug.wrappers import Response as AnyResponse

from polyjob.api.dependencies import find_readable_job
from polyjob.api.path_prefixes import JOB
from polyjob.api.problems import status_of
from polyjob.api.request_context import find_job, find_project, may_choose_folder, me, settings, store
from polyjob.api.schemas.job_bodies import read_job_create
from polyjob.auth.permissions import Access, requires
from polyjob.db.models import Job
from polyjob.errors import Conflict, Forbidden, Invalid, PolyjobError, Problem
from polyjob.jobconfig.parsing import to_yaml
from polyjob.pages.forms import (
    STALE_FORM,
    Form,
    create_idempotently,
    done,
    group_by_field,
    new_submission_id,
    read_form,
)
from polyjob.pages.urls import job_url, project_url
from polyjob.services import cloning, job_inputs, jobs

STRATEGIES = {
    "restart": ("Restart", "with empty outputs"),
    "resume": ("Resume", "continue with this job's outputs"),
    "copy": ("Copy", "start with a copy of this job's outputs"),
}
_VERBS = {"restart": "restarts", "resume": "resumes", "copy": "is a copy of"}

blp = Blueprint("cloning", __name__)


@blp.post(f"{JOB}/<any(restart,resume,copy):strategy>")
@requires(Access.SUBMIT)
def clone_job(username: str, project_name: str, job_id: int, strategy: str) -> AnyResponse:
    """Run the job again with its config unchanged."""
    original, form = find_job(username, project_name, job_id), read_form()
    clone_id = _clone(original, form, strategy, {})
    return _go_to_clone(original, clone_id, strategy)


@blp.get(f"{JOB}/clone")
@requires(Access.SUBMIT)
def edit_job(username: str, project_name: str, job_id: int) -> AnyResponse:
    original = find_job(username, project_name, job_id)
    fields = {"config": config_text(original), "strategy": _parse_strategy(request.args.get("strategy"))}
    return _page(original, Form(fields))


@blp.post(f"{JOB}/clone")
@requires(Access.SUBMIT)
def clone_edited(username: str, project_name: str, job_id: int) -> AnyResponse:
    project = find_project(username, project_name)  # before the body, which is not read if this refuses the request
    form = read_form(keep_stale=True)
    strategy = _parse_strategy(form.text("strategy"))
    original = jobs.find(project, job_id)
    if form.is_stale:
        return _page(original, form, {"": [STALE_FORM]}, 403)
    try:
        changes = _read_changes(original, form)
        clone_id = _clone(original, form, strategy, changes)
    except (Invalid, Conflict, Forbidden) as error:
        return _page(original, form, _errors(error), status_of(error))
    return _go_to_clone(original, clone_id, strategy)


def _clone(original: Job, form: Form, strategy: str, changes: Mapping[str, object]) -> int:
    """Create the clone and return its number. A form that is sent twice creates one."""
    return create_idempotently(
        form,
        original.project,
        lambda idempotent: cloning.clone(
            original,
            me(),
            strategy,
            changes,
            settings(),
            idempotent,
            may_choose_folder=may_choose_folder(),
            find_job=find_readable_job,
        ),
    )


def config_text(job: Job) -> str:
    """Return the config as the text that was submitted, or else the stored config as YAML."""
    return job.content if job.content is not None else to_yaml(job.config)


def _parse_strategy(strategy: str | None) -> str:
    return strategy if strategy in STRATEGIES else "restart"


def _read_changes(original: Job, form: Form) -> dict[str, object]:
    """Return the changes for `cloning.clone`. Raises Invalid.

    If the text was not edited, the stored config is used: it can have params that are not part of the text.
    """
    changes: dict[str, object] = {"update_code": bool(form.text("update_code"))}
    text = form.text("config")
    if text.strip() == config_text(original).replace("\r\n", "\n").strip():
        return changes
    if not text.strip():
        raise Invalid([Problem("/content", "Enter a config.")])
    parsed = read_job_create({"content": text})
    config = parsed.attributes["config"]
    return changes | {
        "is_complete": True,
        "config": config,
        "content": parsed.attributes["content"],
        "description": config.get("description"),
    }


def _errors(error: PolyjobError) -> dict[str, list[str]]:
    problems = getattr(error, "problems", None) or [Problem("", str(error))]
    located = [Problem(problem.pointer, _with_path(problem)) for problem in problems]
    return group_by_field(located, lambda pointer: "config" if pointer else "")


def _with_path(problem: Problem) -> str:
    path = ".".join(problem.pointer.split("/")[2:])
    return f"{path}: {problem.detail}" if path else problem.detail


def _go_to_clone(original: Job, clone_id: int, strategy: str) -> AnyResponse:
    message = f"This job {_VERBS[strategy]} job {original.id}."
    return done(f"{project_url(original.project)}/jobs/{clone_id}", message)


def _page(original: Job, form: Form, errors: dict[str, list[str]] | None = None, status: int = 200) -> AnyResponse:
    page = render_template(
        "clone.html",
        job=original,
        back=job_url(original),
        strategies=STRATEGIES,
        outputs_fault=job_inputs.outputs_fault(original, store()),
        has_newer_upload=original.project.code_id != original.code_id,
        form=form,
        submission_id=new_submission_id(),
        errors=errors or {},
    )
    return make_response(page, status)
