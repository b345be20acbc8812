"""The content of the page of one job, read from the database."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from flask import current_app

from polyjob.api.paging import root
from polyjob.auth import identity as auth
from polyjob.auth import permissions
from polyjob.clock import now
from polyjob.db.models import LISTED, Delivery, Job, JobStatus, Project, User, Webhook
from polyjob.db.prepared import Prepared
from polyjob.formatting import format_size
from polyjob.jobconfig.compose import working_folder
from polyjob.jobconfig.parsing import dump_yaml
from polyjob.jobconfig.volumes import volume_names
from polyjob.logs.files import log_length, tail_start
from polyjob.pages import logs, outputs, timeline
from polyjob.pages.diffs import diff_configs
from polyjob.pages.explanations import explain_status
from polyjob.pages.markup import plain_log
from polyjob.pages.urls import api_path, api_url
from polyjob.services import bookmarks, dependencies, job_queue, job_retries, schedule_fires
from polyjob.statuses import Status
from polyjob.storage.store import Store

BUILD_LOG_LINES = 20
MAX_BUILD_LOG_BYTES = 1 << 16
MAX_CLONES = 20
MAX_ORIGINALS = 10

_STATUSES = Prepared(lambda: JobStatus.select().where(JobStatus.job == 0).order_by(JobStatus.created_at, JobStatus.id))
_ORIGINAL = Prepared(lambda: Job.select().where(Job.id == 0, Job.project == 0, LISTED))
_DELIVERY = Prepared(
    lambda: (
        Delivery.select(Delivery.id)
        .where(
            Delivery.job_id == 0,
            Delivery.webhook.in_(Webhook.select(Webhook.id).where(Webhook.project_id.is_null(False))),
        )
        .limit(1)
    )
)
_CLONES = Prepared(
    lambda: (
        Job.select(Job.id, Job.name, Job.command, Job.status, Job.project, Job.cloning_strategy)
        .where(Job.original == 0, Job.project == 0, LISTED)
        .order_by(Job.id.desc())
        .limit(MAX_CLONES + 1)
    )
)


def job_context(job: Job, user: User) -> dict[str, Any]:
    """Return the variables of `job.html`."""
    rows = _STATUSES(job.id)
    latest = rows[-1]
    steps = timeline.timeline(rows, now())
    waiting = job_queue.waiting_reason(job, job_queue.queue_position(job))
    originals, clones = _originals(job), _clones(job)
    return {
        "job": job,
        "upstreams": _upstreams(job, user),
        "retry": job_retries.describe_retry(job),
        "explanation": explain_status(job.status, job.exit, latest.message, latest.details or {}, waiting),
        "stopping": _stopping(job),
        "exit_record": job.exit or {},
        "is_bookmarked": bookmarks.is_bookmarked(job, user),
        "steps": steps,
        "bar": timeline.bar(steps),
        "build_reason": next((row.details["why"] for row in rows if row.details and "why" in row.details), None),
        "resources": resource_rows((job.config or {}).get("environment"), job.gpus, job.exit),
        "log_view": logs.log_view(job),
        "waits": _reason_without_log(job, waiting),
        "outputs": outputs.overview(job),
        "outputs_url": f"{api_url(job)}/outputs",
        "has_deliveries": _has_deliveries(job),
        "folder": working_folder(job.config),
        "volumes": volume_names(job.config),
        "build": job.build,
        "schedule_id": schedule_fires.schedule_id_of(job),
        "build_log": _failed_build_log(job),
        "originals": originals,
        "clones": clones[:MAX_CLONES],
        "has_more_clones": len(clones) > MAX_CLONES,
        "diff": _diff_to_original(job, originals),
        "config": dump_yaml(job.config).rstrip("\n") if job.config else None,
        "api_url": f"{root()}{api_path(job)}",
    }


def _has_deliveries(job: Job) -> bool:
    """Return whether something was sent to a webhook about the job, and the user may see it."""
    identity = auth.current_identity()
    may_view = identity is not None and permissions.may("webhooks.list_job_deliveries", identity, job.project)
    return may_view and _DELIVERY.first(job.id, 1) is not None


def resource_rows(
    environment: Mapping[str, Any] | None, gpus: Sequence[int] | None, exit_record: Mapping[str, Any] | None
) -> list[tuple[str, str, str]]:
    """Return (resource, requested, used) of each resource that the job requested or is known to have used."""
    resources, used = (environment or {}).get("resources") or {}, exit_record or {}

    def requested(kind: str, format_amount: Callable[[Any], str]) -> str:
        bounds = resources.get(kind) or {}
        limit, request = bounds.get("limits"), bounds.get("requests")
        if limit is not None and request is not None and limit != request:
            return f"{format_amount(request)}, at most {format_amount(limit)}"
        if limit is None and request is None:
            return ""
        return format_amount(request) if limit is None else f"at most {format_amount(limit)}"

    def format_count(count: float) -> str:
        return f"{count:g}"

    cpu_seconds, memory = used.get("cpu_seconds"), used.get("max_rss")
    gpu_numbers = f"number {', '.join(map(str, gpus))}" if gpus else ""
    rows = [
        ("CPU", requested("cpu", _format_cores), "" if cpu_seconds is None else f"{cpu_seconds:.2f} s"),
        ("Memory", requested("memory", _format_mebibytes), "" if memory is None else format_size(memory)),
        ("GPUs", requested("gpu", format_count).removeprefix("at most "), gpu_numbers),
        ("Processes", requested("pids", format_count), ""),
    ]
    return [row for row in rows if row[1] or row[2]]


def _format_cores(cores: float) -> str:
    return f"{cores:g} {'core' if cores == 1 else 'cores'}"


def _format_mebibytes(mebibytes: float) -> str:
    return format_size(int(mebibytes * (1 << 20)))


def _failed_build_log(job: Job) -> str:
    """Return the end of the build's log if the job never ran because its build failed."""
    if (job.exit or {}).get("reason") != "build" or job.build is None:
        return ""
    path = Store(current_app.config["SETTINGS"].data_dir).build_log(job.build.uuid)
    length = log_length(path)
    if not length:
        return ""
    with path.open("rb") as log:
        log.seek(max(tail_start(path, BUILD_LOG_LINES, length), length - MAX_BUILD_LOG_BYTES))
        return plain_log(log.read(MAX_BUILD_LOG_BYTES))


def _reason_without_log(job: Job, waiting: str | None) -> str | None:
    """Return the reason why the job has no log yet; None if its command has begun, or if a client may write a log."""
    if not job.is_managed or job.status not in (Status.CREATED, Status.SCHEDULED, Status.BUILDING):
        return None
    path = Store(current_app.config["SETTINGS"].data_dir).job_log(job.uuid)
    return None if log_length(path) else waiting or "The job is about to start."


def _originals(job: Job) -> list[Job]:
    """Return the job's original, the original of that, and so on, as far as they still exist."""
    originals: list[Job] = []
    original_id = job.original_id
    while original_id and len(originals) < MAX_ORIGINALS:
        original = _ORIGINAL.first(original_id, job.project_id)
        if original is None:
            break
        original.project = job.project
        originals.append(original)
        original_id = original.original_id
    return originals


def _upstreams(job: Job, user: User) -> list[tuple[dict[str, Any], Job | None]]:
    """Return each dependency of the job, with the other job if the user may read it."""
    rows = dependencies.dependencies_of(job)
    if not rows:
        return []
    listed = Job.deleted_at.is_null() & Job.archived_at.is_null() & auth.readable_projects(user)
    jobs = Job.select().join(Project).where(Job.id.in_([row["job"] for row in rows if row["job"]]), listed)
    by_id = {upstream.id: upstream for upstream in jobs}
    return [(row, by_id.get(row["job"])) for row in rows]


def _clones(job: Job) -> Sequence[Job]:
    """Return the latest clones; one more than MAX_CLONES if there are more."""
    clones = _CLONES(job.id, job.project_id, MAX_CLONES + 1)
    for clone in clones:
        clone.project = job.project
    return clones


def _diff_to_original(job: Job, originals: list[Job]) -> list[tuple[str, str]] | None:
    """Compare the config with that of the original; None if one of them is missing."""
    if not originals or job.config is None or originals[0].config is None:
        return None
    return diff_configs(originals[0].config, job.config)


def _stopping(job: Job) -> str | None:
    """Explain why the job is being stopped. Return None if no stop was requested or the job has ended."""
    if job.stop_at is None or job.status.is_done:
        return None
    if job.stop_kind == "timeout":
        return "The job has exceeded its time limit and is being stopped."
    if job.stop_kind == "start":
        return "The runner has repeatedly refused to start the job; it is being stopped."
    request = f"Stop requested by {job.stop_by.username}" if job.stop_by else "Stop requested"
    return f"{request}; the job is being stopped."
