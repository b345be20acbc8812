"""Sweeps: submit one job for each combination of values."""

from __future__ import annotations

from flask import Response

from polyjob.api.blueprint import Blueprint
from polyjob.api.dependencies import find_dependencies, find_readable_job
from polyjob.api.idempotency import create_idempotently
from polyjob.api.path_prefixes import JOBS
from polyjob.api.request_body import read_body
from polyjob.api.request_context import config_errors_at, find_project, may_choose_folder, me, settings
from polyjob.api.schemas.sweeps import SweepBody, SweepSchema, read_sweep, sweep_document
from polyjob.auth.permissions import Access, requires
from polyjob.services import sweeps
from polyjob.services.idempotency import IdempotentRequest
from polyjob.services.sweeps import Sweep

blp = Blueprint("sweeps", __name__, description="Sweeps: jobs that differ in their params.")


@blp.post(f"{JOBS}/sweep")
@blp.reads(SweepBody, required=True)
@blp.creates_once(SweepSchema)
@requires(Access.SUBMIT)
def create_sweep(username: str, project_name: str) -> Response:
    """Submit a sweep: a job for each combination of values

    All jobs are saved on disk, or none. They have the tag `group`, by which lists find them: `?query=tags:GROUP`.
    """
    project = find_project(username, project_name)

    def create(idempotent: IdempotentRequest | None) -> Sweep:
        parsed = read_sweep(read_body())
        attributes = [job.attributes for job in parsed.jobs]
        dependencies = find_dependencies(attributes[0].get("after"))
        with config_errors_at(parsed.jobs[0].config_pointer):
            return sweeps.create(
                project,
                me(),
                [each | {"dependencies": dependencies} for each in attributes],
                parsed.group,
                settings(),
                idempotent,
                may_choose_folder=may_choose_folder(),
                find_job=find_readable_job,
            )

    return create_idempotently(project, create, sweep_document)
