"""A job run again with its config edited: restarted, resumed or copied."""

from __future__ import annotations

from flask import Blueprint, make_response, render_template, request
from werkzeug.wrappers import Response as AnyResponse

from polyjob.api.problems import status_of
from polyjob.api.request_context import JOB, me, settings, store
from polyjob.api.schemas.job_bodies import read_job_create
from polyjob.auth.permissions import Access, requires
from polyjob.db.models import Job
from polyjob.errors import Conflict, Invalid, PolyjobError, Problem
from polyjob.jobconfig.parsing import to_yaml
from polyjob.pages.forms import STALE, Form, by_field, create_idempotently, done, new_once, project_for, read_form
from polyjob.pages.job_page import job_url, project_url
from polyjob.services import cloning, jobs

STRATEGIES = {
    "restart": ("Restart", "with empty outputs"),
    "resume": ("Resume", "going on with this job's outputs"),
    "copy": ("Copy", "with a copy of this job's outputs"),
}
CLONED = {"restart": "restarts", "resume": "resumes", "copy": "is a copy of"}

blp = Blueprint("cloning", __name__)


# At once, as it is.


@blp.post(f"{JOB}/<any(restart,resume,copy):strategy>")
@requires(Access.SUBMIT)
def clone_job(username: str, project_name: str, job_id: int, strategy: str) -> AnyResponse:
    source, form = _source(strategy, username, project_name, job_id), read_form()
    number = create_idempotently(
        form, source.project, lambda once: cloning.clone(source, me(), strategy, {}, settings(), once)
    )
    return _made(source, number, strategy)


# With a config that is edited first.


@blp.get(f"{JOB}/clone")
@requires(Access.SUBMIT)
def edit_job(username: str, project_name: str, job_id: int) -> AnyResponse:
    source = _source("restart", username, project_name, job_id)
    return _page(source, Form({"config": config_text(source), "strategy": _asked(request.args.get("strategy"))}))


@blp.post(f"{JOB}/clone")
@requires(Access.SUBMIT)
def clone_edited(username: str, project_name: str, job_id: int) -> AnyResponse:
    project_for("jobs.restart_job", username, project_name)  # nobody else's form is waited for
    form = read_form(keep_stale=True)
    strategy = _asked(form.text("strategy"))
    source = _source(strategy, username, project_name, job_id)
    if form.is_stale:
        return _page(source, form, {"": [STALE]}, 403)
    try:
        attributes = _attributes(source, form)
        number = create_idempotently(
            form, source.project, lambda once: cloning.clone(source, me(), strategy, attributes, settings(), once)
        )
    except (Invalid, Conflict) as error:
        return _page(source, form, _errors(error), status_of(error))
    return _made(source, number, strategy)


def config_text(job: Job) -> str:
    """What was sent, or else the config in the form that is easiest to edit."""
    return job.content if job.content is not None else to_yaml(job.config)


def _source(strategy: str, username: str, project_name: str, job_id: int) -> Job:
    return jobs.find(project_for(f"jobs.{strategy}_job", username, project_name), job_id)


def _asked(strategy: str | None) -> str:
    return strategy if strategy in STRATEGIES else "restart"


def _attributes(source: Job, form: Form) -> dict[str, object]:
    """Raises Invalid. An untouched config is that of the source, which may have params that are not in the text."""
    attributes: dict[str, object] = {"update_code": bool(form.text("update_code"))}
    text = form.text("config")
    if text.strip() == config_text(source).replace("\r\n", "\n").strip():
        return attributes
    if not text.strip():
        raise Invalid([Problem("/content", "There is no config.")])
    parsed = read_job_create({"content": text})
    config = parsed.attributes["config"]
    return attributes | {
        "is_whole": True,
        "config": config,
        "content": parsed.attributes["content"],
        "description": config.get("description"),
    }


def _errors(error: PolyjobError) -> dict[str, list[str]]:
    problems = getattr(error, "problems", None) or [Problem("", str(error))]
    named = [Problem(problem.pointer, _with_place(problem)) for problem in problems]
    return by_field(named, lambda pointer: "config" if pointer else "")


def _with_place(problem: Problem) -> str:
    place = ".".join(problem.pointer.split("/")[2:])
    return f"{place}: {problem.detail}" if place else problem.detail


def _made(source: Job, number: int, strategy: str) -> AnyResponse:
    return done(f"{project_url(source.project)}/jobs/{number}", f"This job {CLONED[strategy]} job {source.id}.")


def _page(source: Job, form: Form, errors: dict[str, list[str]] | None = None, status: int = 200) -> AnyResponse:
    page = render_template(
        "clone.html",
        job=source,
        back=job_url(source),
        strategies=STRATEGIES,
        outputs_fault=cloning.outputs_fault(source, store()),
        has_newer_code=source.project.code_id != source.code_id,
        form=form,
        once=new_once(),
        errors=errors or {},
    )
    return make_response(page, status)
