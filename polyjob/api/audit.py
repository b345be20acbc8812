"""Who did what to what."""

from __future__ import annotations

from typing import Any

from flask import request

from polyjob.api.blueprint import Blueprint
from polyjob.api.paging import limit, offset, page
from polyjob.api.params import MAX_ID_DIGITS, parse_digits
from polyjob.api.request_context import find_project
from polyjob.api.routes import JOB
from polyjob.api.schemas.audit import KINDS, AuditSchema
from polyjob.auth.permissions import Access, requires
from polyjob.errors import Invalid, Problem
from polyjob.services import audit, jobs

FILTERS = [
    {
        "name": "kind",
        "in": "query",
        "description": "What it was done to.",
        "schema": {"type": "string", "enum": list(KINDS)},
    },
    {"name": "target_id", "in": "query", "description": "Its number.", "schema": {"type": "integer", "minimum": 1}},
    {"name": "user", "in": "query", "description": "Who did it.", "schema": {"type": "string"}},
]

blp = Blueprint("audit", __name__, description="Who did what to what, and when.")


@blp.get("/audit")
@blp.doc(parameters=FILTERS, responses={400: "BAD_REQUEST"})
@blp.page(AuditSchema)
@requires(Access.ADMINISTRATOR)
def list_audit() -> dict[str, Any]:
    """List what was done on this server, the latest first; for administrators"""
    kind, target_id = request.args.get("kind"), request.args.get("target_id")
    if kind is not None and kind not in KINDS:
        raise Invalid([Problem("kind", f"`kind` must be one of: {', '.join(KINDS)}.")])
    number = parse_digits(target_id, MAX_ID_DIGITS) if target_id is not None else None
    if target_id is not None and number is None:
        raise Invalid([Problem("target_id", "`target_id` must be a number.")])
    return _page(audit.list_entries(kind=kind, target_id=number, user=request.args.get("user")))


@blp.get(f"{JOB}/audit")
@blp.page(AuditSchema)
@requires(Access.MANAGE)
def list_job_audit(username: str, project_name: str, job_id: int) -> dict[str, Any]:
    """List what was done to a job, the latest first; for who may write to its project"""
    job = jobs.find(find_project(username, project_name), job_id)
    return _page(audit.list_entries(kind="job", target_id=job.id))


def _page(query: Any) -> dict[str, Any]:
    return page(list(query.limit(limit()).offset(offset())), query.count())
