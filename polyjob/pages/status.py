"""The server about itself, for administrators: its parts, slots, queue, disk, builds, and what failed lately.

Every look into the tables is bounded, however many jobs there are.
"""

from __future__ import annotations

import datetime
import os
import shutil
from typing import Any

import polyjob
from polyjob.api.health import parts
from polyjob.clock import now, to_microseconds
from polyjob.db.database import database
from polyjob.db.models import CLAIMED, QUEUED, Build, Job, Project, User
from polyjob.engine_link import read_disk_usage
from polyjob.pages import chart
from polyjob.services import job_queue
from polyjob.settings import Settings
from polyjob.statuses import Status
from polyjob.storage.store import Store

HOURS = (1, 6, 24)
MOST_SPANS = 5000
"""Ended jobs that the chart is drawn from, the latest."""
LOOKED_AT = 1000
"""Ended jobs that failures are looked for in, the latest."""
FAILURES, BUILDS = 10, 10


def about(settings: Settings, hours: int) -> dict[str, Any]:
    free, total = Store(settings.data_dir).free_bytes(), shutil.disk_usage(settings.data_dir).total
    taken = job_queue.slots_taken()
    return {
        "version": polyjob.__version__,
        "parts": parts(),
        "good": Status.SUCCEEDED,
        "bad": Status.FAILED,
        "settings": settings,
        "taken": taken,
        "queued": int(database.execute_sql(f"SELECT COUNT(*) FROM job WHERE {QUEUED.sql}").fetchone()[0]),
        "oldest": _oldest(),
        "gpus_taken": len(job_queue.gpus_taken()) if settings.gpus else 0,
        "free": free,
        "total": total,
        "load": os.getloadavg(),
        "held": _held(settings),
        "failures": _failures(),
        "hours": hours,
        "chart": _chart(settings, hours),
    }


def _oldest() -> datetime.datetime | None:
    """When the job was submitted that is claimed next."""
    first = Job.select(Job.created_at).where(QUEUED).order_by(Job.id).first()
    return first.created_at if first else None


def _failures() -> list[Job]:
    owner = User.alias()
    ended = Job.select(Job.id).where(Job.cleared_at.is_null(), Job.deleted_at.is_null(), Job.finished_at.is_null(False))
    latest = ended.order_by(Job.finished_at.desc()).limit(LOOKED_AT)
    columns = (Job.id, Job.name, Job.status, Job.finished_at, Job.exit_code, Job.project, Job.user, Job.archived_at)
    query = (
        Job.select(*columns, User.id, User.username, Project.id, Project.name, Project.user, owner.id, owner.username)
        .join(User, on=Job.user)
        .switch(Job)
        .join(Project, on=Job.project)
        .join(owner, on=(Project.user == owner.id))
        .where(Job.id.in_(latest), Job.status.in_((Status.FAILED, Status.UPSTREAM_FAILED)), Job.archived_at.is_null())
    )
    return list(query.order_by(Job.finished_at.desc()).limit(FAILURES))


def _chart(settings: Settings, hours: int) -> chart.Chart:
    until = to_microseconds(now())
    since = until - hours * 3_600_000_000
    ended = (
        "SELECT started_at, finished_at FROM job WHERE cleared_at IS NULL AND deleted_at IS NULL AND finished_at >= ? "
        "ORDER BY finished_at DESC LIMIT ?"
    )
    spans = [(begin, end) for begin, end in database.execute_sql(ended, (since, MOST_SPANS)) if begin is not None]
    live = database.execute_sql(f"SELECT started_at FROM job WHERE {CLAIMED.sql} AND exit IS NULL")
    spans += [(begin, until) for (begin,) in live if begin is not None]
    return chart.draw(spans, since, until, settings.slots)


def _held(settings: Settings) -> dict[str, Any]:
    """What builds hold, as the engine measured it last: `at`, `total` and the largest, each with its build."""
    usage = read_disk_usage(settings.data_dir)
    if usage is None:
        return {"at": None, "total": 0, "largest": []}
    sizes = usage.builds
    found = sorted(sizes, key=lambda number: -sizes[number])[:BUILDS]
    rows = {build.id: build for build in Build.select().where(Build.id.in_(found), Build.deleted_at.is_null())}
    largest = [(rows[number], sizes[number]) for number in found if number in rows]
    return {"at": usage.measured_at, "total": usage.total, "count": len(sizes), "largest": largest}
