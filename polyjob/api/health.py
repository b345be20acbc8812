"""Health and readiness of the server."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from typing import Any

from flask import Response
from peewee import PeeweeException

from polyjob.api.blueprint import Blueprint
from polyjob.api.request_context import empty, settings, store
from polyjob.api.schemas.server import ReadinessSchema
from polyjob.auth.permissions import Access, requires
from polyjob.clock import Clock
from polyjob.db import migrations
from polyjob.engine_link import count_restarts, engine_pid, last_pass, read_engine_report
from polyjob.services.job_queue import slots_note

MAX_PASS_INTERVAL_SECONDS = 30.0
"""Time without a pass after which the engine counts as hanging."""

_READINESS = {"application/json": {"schema": ReadinessSchema}}

blp = Blueprint("health", __name__, description="Health and readiness of the server.")


@blp.get("/healthz")
@blp.empty(200)
@requires(Access.OPEN)
def healthz() -> Response:
    """Check that the server answers requests; does not use the database"""
    return empty(200)


@blp.get("/readyz")
@blp.response(200, ReadinessSchema)
@blp.doc(responses={503: {"description": "At least one part does not work.", "content": _READINESS}})
@requires(Access.OPEN)
def readyz() -> Response:
    """Check each part of the server: 200 if all work, else 503"""
    parts = server_parts()
    is_ready = all(part["ok"] for part in parts.values())
    body = json.dumps({"ok": is_ready} | parts) + "\n"
    return Response(body, 200 if is_ready else 503, mimetype="application/json")


def server_parts() -> dict[str, dict[str, Any]]:
    """Return the state of each part of the server.

    `ok` is whether the part works. `why` is its fault, or a remark on a part that works, or None.
    """
    return {
        "database": _state(database_fault()),
        "disk": _state(_disk_fault()),
        "engine": _state(_engine_fault(), _engine_remark),
        "runner": _state(_runner_fault()),
    }


def _state(fault: str | None, find_remark: Callable[[], str | None] = lambda: None) -> dict[str, Any]:
    return {"ok": fault is None, "why": find_remark() if fault is None else fault}


@functools.cache
def required_schema_version() -> int:
    """Return the version of the newest migration. It cannot change, and every request needs it."""
    return migrations.latest_version()


def database_fault() -> str | None:
    """Return the reason why this process cannot use the database, or None."""
    try:
        version = migrations.current_version()
    except PeeweeException as error:
        return f"The database cannot be opened: {error}."
    required = required_schema_version()
    if version == required:
        return None
    return f"The database has schema {version}, but this process needs schema {required}."


def _disk_fault() -> str | None:
    try:
        free = store().free_bytes()
    except OSError as error:
        return f"The data folder cannot be used: {error.strerror}."
    low = settings().disk_low
    if free >= low:
        return None
    return f"Only {free >> 20} MiB are free. New jobs are refused below {low >> 20} MiB."


def _engine_fault() -> str | None:
    if not engine_pid(settings().data_dir):
        return "No engine is running. New jobs are accepted, but they wait."
    last = last_pass(settings().data_dir)
    silence = Clock().since(last) if last and ":" in last else None
    if silence is None or silence < MAX_PASS_INTERVAL_SECONDS:
        return None
    return f"The engine has made no pass for {silence:.0f} s. It hangs or is suspended."


def _engine_remark() -> str | None:
    if database_fault():
        return None
    data_dir, clock = settings().data_dir, Clock()
    slow_jobs = ", ".join(f"#{job_id}" for job_id in read_engine_report(data_dir).slow_ends)
    engine, web = count_restarts(data_dir, "engine", clock), count_restarts(data_dir, "web", clock)
    remarks = [
        slots_note(),
        f"These jobs have taken minutes to end: {slow_jobs}." if slow_jobs else None,
        f"The engine crashed and was restarted {_times(engine)} within the last hour." if engine else None,
        f"The web server crashed and was restarted {_times(web)} within the last hour." if web else None,
    ]
    return " ".join(filter(None, remarks)) or None


def _times(count: int) -> str:
    return "once" if count == 1 else f"{count} times"


def _runner_fault() -> str | None:
    """Return the fault that the engine reported last. The web process never calls a runner itself."""
    if _engine_fault():
        return "Unknown: no engine checks it."
    runner = read_engine_report(settings().data_dir).runner
    if runner is None:
        return "The engine has not checked it yet."
    return None if runner.is_ok else f"{runner.name}: {runner.message}"
