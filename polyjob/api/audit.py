"""The audit trail: all changes, with who made them."""

from __future__ import annotations

from typing import Any

from flask import request

from polyjob.api.blueprint import Blueprint
from polyjob.api.paging import page_of_query
from polyjob.api.params import MAX_ID_DIGITS, parse_digits, query_parameter
from polyjob.api.path_prefixes import JOB
from polyjob.api.request_context import find_job
from polyjob.api.schemas.audit import KINDS, AuditSchema
from polyjob.auth.permissions import Access, requires
from polyjob.errors import Invalid, Problem
from polyjob.services import audit

FILTERS = [
    query_parameter("kind", "Kind of the target.", type="string", enum=list(KINDS)),
    query_parameter("target_id", "Id of the target.", type="integer", minimum=1),
    query_parameter("user", "Name of the user who made the change.", type="string"),
]

blp = Blueprint("audit", __name__, description="The audit trail: all changes, with who made them and when.")


@blp.get("/audit")
@blp.doc(parameters=FILTERS, responses={400: "BAD_REQUEST"})
@blp.page(AuditSchema)
@requires(Access.ADMINISTRATOR)
def list_audit() -> dict[str, Any]:
    """List all changes on this server, latest first; for administrators"""
    kind, target_id = request.args.get("kind"), request.args.get("target_id")
    if kind is not None and kind not in KINDS:
        raise Invalid([Problem("kind", f"`kind` must be one of: {', '.join(KINDS)}.")])
    parsed_id = parse_digits(target_id, MAX_ID_DIGITS) if target_id is not None else None
    if target_id is not None and parsed_id is None:
        raise Invalid([Problem("target_id", "`target_id` must be a number.")])
    return page_of_query(audit.list_entries(kind=kind, target_id=parsed_id, user=request.args.get("user")))


@blp.get(f"{JOB}/audit")
@blp.page(AuditSchema)
@requires(Access.MANAGE)
def list_job_audit(username: str, project_name: str, job_id: int) -> dict[str, Any]:
    """List all changes of a job, latest first; for those who manage its project"""
    job = find_job(username, project_name, job_id)
    return page_of_query(audit.list_entries(kind="job", target_id=job.id))
