"""The list of the jobs of all projects."""

from __future__ import annotations

from collections.abc import Sequence

from flask import Response

from polyjob.api.jobs import blp
from polyjob.api.list_queries import job_items, page_of_all_jobs
from polyjob.api.schemas.jobs import JobOfAnyProjectSchema
from polyjob.auth.permissions import Access, requires
from polyjob.services import job_queue
from polyjob.services.list_rows import Item
from polyjob.statuses import Status


@blp.get("/projects/jobs")
@blp.page(JobOfAnyProjectSchema, queries=True)
@requires(Access.READ)
def list_all_jobs() -> Response:
    """List the jobs of all projects that you can read, last changed first"""
    return page_of_all_jobs(_items)


def _items(ids: Sequence[int]) -> list[Item]:
    items = job_items(ids)
    positions = job_queue.positions_of([item["id"] for item in items if item["last_status"] == Status.CREATED])
    return [item | {"queue_position": positions.get(item["id"])} for item in items]
