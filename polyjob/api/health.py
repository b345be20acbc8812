"""The server about itself: versions, health, readiness. No key is asked for."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from typing import Any

from flask import Response
from peewee import PeeweeException

from polyjob.api.blueprint import Blueprint
from polyjob.api.request_context import empty, settings, store
from polyjob.api.schemas.server import ChartSchema, LogHandlerSchema, ReadinessSchema, VersionsSchema
from polyjob.auth.permissions import Access, requires
from polyjob.clock import Clock
from polyjob.db import migrations
from polyjob.engine_link import count_restarts, engine_pid, last_pass, read_engine_report
from polyjob.services.job_queue import slots_note

COMPATIBLE_VERSION = "0.6.1"
"""The newest client that polyjob speaks to; to a client, the platform's own version."""
OLDEST_VERSION = "0.0.0"
LONGEST_SILENCE = 30.0
"""Seconds without a pass after which the engine counts as hanging."""

_READINESS = {"application/json": {"schema": ReadinessSchema}}

blp = Blueprint("service", __name__, description="What old clients ask for before anything else.")
health = Blueprint("health", __name__, description="Whether the server works.")


def _versions() -> dict[str, str]:
    return {"latest_version": COMPATIBLE_VERSION, "min_version": OLDEST_VERSION}


@blp.get("/versions/cli")
@blp.response(200, VersionsSchema)
@requires(Access.OPEN)
def cli_versions() -> dict[str, str]:
    """The versions of the documented API's command line that work"""
    return _versions()


@blp.get("/versions/platform")
@blp.response(200, VersionsSchema)
@requires(Access.OPEN)
def platform_versions() -> dict[str, str]:
    """The version of the documented API"""
    return _versions()


@blp.get("/versions/lib")
@blp.response(200, VersionsSchema)
@requires(Access.OPEN)
def lib_versions() -> dict[str, str]:
    """The versions of the documented API's client library that work"""
    return _versions()


@blp.get("/versions/chart")
@blp.response(200, ChartSchema)
@requires(Access.OPEN)
def chart_version() -> dict[str, str]:
    """The version of the documented API's chart"""
    return {"version": COMPATIBLE_VERSION}


@blp.get("/log_handler")
@blp.response(200, LogHandlerSchema)
@requires(Access.OPEN)
def log_handler() -> dict[str, Any]:
    """Where clients report their own errors: nowhere"""
    return {"dns": None, "dsn": None, "environment": "production", "tags": {}}


@health.get("/healthz")
@health.nothing(200)
@requires(Access.OPEN)
def healthz() -> Response:
    """200 once requests are served; asks no database"""
    return empty(200)


@health.get("/readyz")
@health.response(200, ReadinessSchema)
@health.doc(responses={503: {"description": "A part does not work.", "content": _READINESS}})
@requires(Access.OPEN)
def readyz() -> Response:
    """Whether each part works, by name: 200, or 503 if one does not"""
    found = parts()
    ok = all(part["ok"] for part in found.values())
    return Response(json.dumps({"ok": ok} | found) + "\n", 200 if ok else 503, mimetype="application/json")


def parts() -> dict[str, dict[str, Any]]:
    """Each part by name: whether it works, and why not. `why` of one that works is a remark for administrators."""
    return {name: _part(why, _REMARKS.get(name)) for name, why in _PARTS.items()}


_wanted_schema = functools.cache(migrations.latest_version)
"""Asked for at each request, and the same for ever."""


def _part(why: Callable[[], str | None], remark: Callable[[], str | None] | None) -> dict[str, Any]:
    reason = why()
    return {"ok": reason is None, "why": remark() if reason is None and remark else reason}


def database_fault() -> str | None:
    """What keeps this process from using the database; None if nothing does."""
    try:
        found, wanted = migrations.current_version(), _wanted_schema()
    except PeeweeException as error:
        return f"The database cannot be opened: {error}."
    if found == wanted:
        return None
    return f"The database has schema {found} and this process works with {wanted}."


def _disk_fault() -> str | None:
    try:
        free = store().free_bytes()
    except OSError as error:
        return f"The data folder cannot be used: {error.strerror}."
    low = settings().disk_low
    return f"{free >> 20} MiB are left, and no jobs are taken below {low >> 20} MiB." if free < low else None


def _engine_fault() -> str | None:
    if not engine_pid(settings().data_dir):
        return "No engine is running: jobs are taken, and wait."
    mark = last_pass(settings().data_dir)
    silence = Clock().since(mark) if mark and ":" in mark else None
    if silence is None or silence < LONGEST_SILENCE:
        return None
    return f"The engine has made no pass for {silence:.0f} s: it hangs, or is suspended."


def _engine_remark() -> str | None:
    if database_fault():
        return None
    data_dir, clock = settings().data_dir, Clock()
    slow = ", ".join(f"#{number}" for number in read_engine_report(data_dir).slow_ends)
    engine, web = count_restarts(data_dir, "engine", clock), count_restarts(data_dir, "web", clock)
    remarks = [
        slots_note(),
        f"The end of these jobs has taken minutes: {slow}." if slow else None,
        f"The engine has died and was restarted {_times(engine)} within the last hour." if engine else None,
        f"The web server has died and was restarted {_times(web)} within the last hour." if web else None,
    ]
    return " ".join(filter(None, remarks)) or None


def _times(count: int) -> str:
    return "once" if count == 1 else f"{count} times"


def _runner_fault() -> str | None:
    """As the engine found it last; the web side asks no runner."""
    if _engine_fault():
        return "No engine is there to ask it."
    runner = read_engine_report(settings().data_dir).runner
    if runner is None:
        return "The engine has not asked it yet."
    return None if runner.is_ok else f"{runner.name}: {runner.message}"


_PARTS: dict[str, Callable[[], str | None]] = {
    "database": database_fault,
    "disk": _disk_fault,
    "engine": _engine_fault,
    "runner": _runner_fault,
}

_REMARKS: dict[str, Callable[[], str | None]] = {"engine": _engine_remark}
"""Remarks on parts that work."""
