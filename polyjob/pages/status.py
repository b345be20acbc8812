"""The status page for administrators: components, slots, queue, disk, builds, and recent failures.

Every query reads a bounded number of rows, however many jobs there are.
"""

from __future__ import annotations

import datetime
import os
import shutil
from typing import Any

import polyjob
from polyjob.api.health import server_parts
from polyjob.clock import now, to_microseconds
from polyjob.db.database import database
from polyjob.db.models import CLAIMED, QUEUED, Build, Job, Project, User
from polyjob.engine_link import read_disk_usage
from polyjob.pages import chart
from polyjob.services import capacity, job_queue, webhooks
from polyjob.services.capacity import Capacity
from polyjob.settings import Settings
from polyjob.statuses import Status
from polyjob.storage.store import Store

CHART_HOURS = (1, 6, 24)
DEFAULT_CHART_HOURS = 6
MAX_CHART_JOBS = 5000
"""The chart uses only the latest jobs to end."""
FAILURE_SEARCH_JOBS = 1000
"""Failures are searched for among so many of the latest jobs to end."""
MAX_FAILURES = 10
MAX_BUILDS = 10
MAX_DELIVERIES = 10
"""Deliveries to the server's own webhook."""


def status_context(settings: Settings, hours: int) -> dict[str, Any]:
    """Return the variables of `status.html`."""
    current = capacity.read(settings)
    now_slots, default_slots = (sum(map(of, settings.runner_names)) for of in (current.slots_of, settings.slots_of))
    all_slots = max(now_slots, default_slots, 1)  # a lower number must not cut off the past
    queued = database.execute_sql(f"SELECT COUNT(*) FROM job WHERE {QUEUED.sql}").fetchone()[0]
    return {
        "version": polyjob.__version__,
        "parts": server_parts(),
        "good": Status.SUCCEEDED,
        "bad": Status.FAILED,
        "settings": settings,
        "slots": _slots(current),
        "all_slots": all_slots,
        "queued": int(queued),
        "oldest": _oldest_submission(),
        "changed": _changed(current),
        "gpus": current.gpus,
        "used_gpus": len(job_queue.gpus_taken()) if current.assigns_gpus else 0,
        "assigns_gpus": current.assigns_gpus,
        "free": Store(settings.data_dir).free_bytes(),
        "total": shutil.disk_usage(settings.data_dir).total,
        "load": os.getloadavg(),
        "disk_usage": _disk_usage(settings),
        "failures": _recent_failures(),
        "deliveries": list(webhooks.list_server_deliveries().limit(MAX_DELIVERIES)),
        "hours": hours,
        "chart": _chart(all_slots, hours),
    }


def _slots(current: Capacity) -> list[tuple[str, int, int]]:
    """Return (runner, used slots, all slots) of each runner that is listed or has jobs."""
    used = job_queue.slots_taken()
    names = dict.fromkeys([*current.settings.runner_names, *sorted(used)])
    return [(name, used[name], current.slots_of(name)) for name in names]


def _changed(current: Capacity) -> list[str]:
    """Return a text for each number of slots, and for the GPUs, that differ from their default."""
    changed = [
        f"{name} slots (default {current.settings.slots_of(name)})"
        for name in current.settings.runner_names
        if name in current.changes.slots
    ]
    gpus = ", ".join(map(str, current.settings.gpus)) or "none"
    return changed + ([f"GPUs (default {gpus})"] if current.changes.gpus is not None else [])


def _oldest_submission() -> datetime.datetime | None:
    """Return when the first of all queued jobs was submitted."""
    jobs = Job.select(Job.id, Job.created_at).where(QUEUED).order_by(Job.id)
    heads = [jobs.where(Job.runner == name).first() for name in job_queue.queued_runners()]
    return min((job.created_at for job in heads if job is not None), default=None)


def _recent_failures() -> list[Job]:
    owner = User.alias()
    ended = Job.select(Job.id).where(Job.cleared_at.is_null(), Job.deleted_at.is_null(), Job.finished_at.is_null(False))
    latest = ended.order_by(Job.finished_at.desc()).limit(FAILURE_SEARCH_JOBS)
    columns = (
        Job.id,
        Job.name,
        Job.command,
        Job.status,
        Job.finished_at,
        Job.exit_code,
        Job.project,
        Job.user,
        Job.archived_at,
    )
    query = (
        Job.select(*columns, User.id, User.username, Project.id, Project.name, Project.user, owner.id, owner.username)
        .join(User, on=Job.user)
        .switch(Job)
        .join(Project, on=Job.project)
        .join(owner, on=(Project.user == owner.id))
        .where(Job.id.in_(latest), Job.status.in_((Status.FAILED, Status.UPSTREAM_FAILED)), Job.archived_at.is_null())
    )
    return list(query.order_by(Job.finished_at.desc()).limit(MAX_FAILURES))


def _chart(all_slots: int, hours: int) -> chart.Chart:
    until = to_microseconds(now())
    since = until - hours * 3_600_000_000
    ended = (
        "SELECT created_at, started_at, finished_at FROM job WHERE cleared_at IS NULL AND deleted_at IS NULL "
        "AND finished_at >= ? ORDER BY finished_at DESC LIMIT ?"
    )
    rows = database.execute_sql(ended, (since, MAX_CHART_JOBS))
    spans = [(start, end) for created, start, end in rows if start not in (None, created)]  # others never had a slot
    running = database.execute_sql(f"SELECT started_at FROM job WHERE {CLAIMED.sql} AND exit IS NULL")
    spans += [(start, until) for (start,) in running if start is not None]
    return chart.draw(spans, since, until, all_slots)


def _disk_usage(settings: Settings) -> dict[str, Any]:
    """Return the engine's latest measurement of the build artifacts: `at`, `total`, `count`, and the `largest` builds.

    `at` is None without a valid report.
    """
    usage = read_disk_usage(settings.data_dir)
    if usage is None:
        return {"at": None, "total": 0, "largest": []}
    sizes = usage.builds
    ids = sorted(sizes, key=lambda build_id: -sizes[build_id])[:MAX_BUILDS]
    rows = {build.id: build for build in Build.select().where(Build.id.in_(ids), Build.deleted_at.is_null())}
    largest = [(rows[build_id], sizes[build_id]) for build_id in ids if build_id in rows]
    return {"at": usage.measured_at, "total": usage.total, "count": len(sizes), "largest": largest}
