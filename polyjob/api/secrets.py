"""Secrets of projects and of the server. Their values are only written, never read."""

from __future__ import annotations

from typing import Any

from flask import Response

from polyjob.api.blueprint import Blueprint
from polyjob.api.paging import page_of_query
from polyjob.api.path_prefixes import PROJECT
from polyjob.api.request_body import read_body
from polyjob.api.request_context import empty, find_project, me, settings
from polyjob.api.schemas.common import load_body
from polyjob.api.schemas.secrets import SecretBody, SecretSchema
from polyjob.auth.permissions import Access, requires
from polyjob.db.models import Project, Secret
from polyjob.errors import Invalid, Problem
from polyjob.services import job_secrets

SECRETS = f"{PROJECT}/secrets"
SECRET = f"{SECRETS}/<name>"
SERVER_SECRETS = "/cluster/secrets"

_BODY = SecretBody()

blp = Blueprint("secrets", __name__, description="Secrets that jobs receive as variables.")


@blp.get(SECRETS)
@blp.page(SecretSchema)
@requires(Access.SUBMIT)
def list_secrets(username: str, project_name: str) -> dict[str, Any]:
    """List the secrets that jobs of a project can name, by name: its own, and those of the server"""
    return page_of_query(job_secrets.list_secrets(find_project(username, project_name)))


@blp.put(SECRET)
@blp.reads(SecretBody, required=True)
@blp.may_conflict
@blp.response(200, SecretSchema)
@requires(Access.MANAGE)
def set_secret(username: str, project_name: str, name: str) -> Secret:
    """Create a secret of a project, or replace its value"""
    return _set(find_project(username, project_name), name)


@blp.delete(SECRET)
@blp.empty(204)
@requires(Access.MANAGE)
def delete_secret(username: str, project_name: str, name: str) -> Response:
    """Delete a secret of a project; a waiting job that names it will fail"""
    job_secrets.delete(find_project(username, project_name), name)
    return empty(204)


@blp.get(SERVER_SECRETS)
@blp.page(SecretSchema)
@requires(Access.ADMINISTRATOR)
def list_server_secrets() -> dict[str, Any]:
    """List the secrets of the server, by name; for administrators"""
    return page_of_query(job_secrets.list_secrets(None))


@blp.put(f"{SERVER_SECRETS}/<name>")
@blp.reads(SecretBody, required=True)
@blp.may_conflict
@blp.response(200, SecretSchema)
@requires(Access.ADMINISTRATOR)
def set_server_secret(name: str) -> Secret:
    """Create a secret for the jobs of all projects, or replace its value; for administrators"""
    return _set(None, name)


@blp.delete(f"{SERVER_SECRETS}/<name>")
@blp.empty(204)
@requires(Access.ADMINISTRATOR)
def delete_server_secret(name: str) -> Response:
    """Delete a secret of the server; for administrators"""
    job_secrets.delete(None, name)
    return empty(204)


def _set(project: Project | None, name: str) -> Secret:
    value = load_body(_BODY, read_body()).get("value")
    if value is None:
        raise Invalid([Problem("/value", "This field is required.")])
    return job_secrets.set_secret(project, me(), name, value, settings().data_dir)
