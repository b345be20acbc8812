"""Routes that old clients call before anything else: the versions of the documented API, and the log handler."""

from __future__ import annotations

from typing import Any

from polyjob.api.blueprint import Blueprint
from polyjob.api.schemas.server import ChartSchema, LogHandlerSchema, VersionsSchema
from polyjob.auth.permissions import Access, requires

COMPATIBLE_VERSION = "0.6.1"
"""The newest version of the documented clients that works with polyjob. Clients take it for the server's version."""
OLDEST_VERSION = "0.0.0"

blp = Blueprint("service", __name__, description="Versions, for old clients.")


def _versions() -> dict[str, str]:
    return {"latest_version": COMPATIBLE_VERSION, "min_version": OLDEST_VERSION}


@blp.get("/versions/cli")
@blp.response(200, VersionsSchema)
@requires(Access.OPEN)
def cli_versions() -> dict[str, str]:
    """Get the supported versions of the documented command line"""
    return _versions()


@blp.get("/versions/platform")
@blp.response(200, VersionsSchema)
@requires(Access.OPEN)
def platform_versions() -> dict[str, str]:
    """Get the version of the documented API"""
    return _versions()


@blp.get("/versions/lib")
@blp.response(200, VersionsSchema)
@requires(Access.OPEN)
def lib_versions() -> dict[str, str]:
    """Get the supported versions of the documented client library"""
    return _versions()


@blp.get("/versions/chart")
@blp.response(200, ChartSchema)
@requires(Access.OPEN)
def chart_version() -> dict[str, str]:
    """Get the version of the documented API's Helm chart"""
    return {"version": COMPATIBLE_VERSION}


@blp.get("/log_handler")
@blp.response(200, LogHandlerSchema)
@requires(Access.OPEN)
def log_handler() -> dict[str, Any]:
    """Get the address to which clients report their own errors: there is none"""
    return {"dns": None, "dsn": None, "environment": "production", "tags": {}}
