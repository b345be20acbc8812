"""The server about itself: versions, health, readiness. No key is asked for."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from typing import Any

from flask import Response
from peewee import PeeweeException

from polyjob import migrations
from polyjob.api.blueprint import Blueprint
from polyjob.api.context import empty, settings, store
from polyjob.lock import engine_running
from polyjob.schemas.users import ChartSchema, LogHandlerSchema, ReadinessSchema, VersionsSchema

COMPATIBLE_VERSION = "0.6.1"
"""The newest client that polyjob speaks to; to a client, the platform's own version."""
OLDEST_VERSION = "0.0.0"
ENGINE_REPORT = "engine.json"

_READINESS = {"application/json": {"schema": ReadinessSchema}}

blp = Blueprint("service", __name__, description="What old clients ask for before anything else.")
health = Blueprint("health", __name__, description="Whether the server works.")


def _versions() -> dict[str, str]:
    return {"latest_version": COMPATIBLE_VERSION, "min_version": OLDEST_VERSION}


@blp.get("/versions/cli")
@blp.open_to_all
@blp.response(200, VersionsSchema)
def cli_versions() -> dict[str, str]:
    """The versions of the documented API's command line that work"""
    return _versions()


@blp.get("/versions/platform")
@blp.open_to_all
@blp.response(200, VersionsSchema)
def platform_versions() -> dict[str, str]:
    """The version of the documented API"""
    return _versions()


@blp.get("/versions/lib")
@blp.open_to_all
@blp.response(200, VersionsSchema)
def lib_versions() -> dict[str, str]:
    """The versions of the documented API's client library that work"""
    return _versions()


@blp.get("/versions/chart")
@blp.open_to_all
@blp.response(200, ChartSchema)
def chart_version() -> dict[str, str]:
    """The version of the documented API's chart"""
    return {"version": COMPATIBLE_VERSION}


@blp.get("/log_handler")
@blp.open_to_all
@blp.response(200, LogHandlerSchema)
def log_handler() -> dict[str, Any]:
    """Where clients report their own errors: nowhere"""
    return {"dns": None, "dsn": None, "environment": "production", "tags": {}}


@health.get("/healthz")
@health.open_to_all
@health.nothing(200)
def healthz() -> Response:
    """200 once requests are served; asks no database"""
    return empty(200)


@health.get("/readyz")
@health.open_to_all
@health.response(200, ReadinessSchema)
@health.doc(responses={503: {"description": "A part does not work.", "content": _READINESS}})
def readyz() -> Response:
    """Whether each part works, by name: 200, or 503 if one does not"""
    found = parts()
    ok = all(part["ok"] for part in found.values())
    return Response(json.dumps({"ok": ok} | found) + "\n", 200 if ok else 503, mimetype="application/json")


def parts() -> dict[str, dict[str, Any]]:
    """Each part by name: whether it works, and why not."""
    return {name: _part(why) for name, why in _PARTS.items()}


_wanted_schema = functools.cache(migrations.latest)
"""Asked for at each request, and the same for ever."""


def _part(why: Callable[[], str | None]) -> dict[str, Any]:
    reason = why()
    return {"ok": reason is None, "why": reason}


def database_fault() -> str | None:
    """What keeps this process from using the database; None if nothing does."""
    try:
        found, wanted = migrations.current(), _wanted_schema()
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
    return None if engine_running(settings().data_dir) else "No engine is running: jobs are taken, and wait."


def _runner_fault() -> str | None:
    """As the engine found it last; the web side asks no runner."""
    if _engine_fault():
        return "No engine is there to ask it."
    try:
        report = json.loads((settings().data_dir / ENGINE_REPORT).read_text())["runner"]
        return None if report["ok"] else f"{report['name']}: {report['message']}"
    except (OSError, ValueError, KeyError, TypeError):
        return "The engine has not asked it yet."


_PARTS: dict[str, Callable[[], str | None]] = {
    "database": database_fault,
    "disk": _disk_fault,
    "engine": _engine_fault,
    "runner": _runner_fault,
}
