"""Fields of jobs in responses; paths and a login for the tests of users, tokens and the audit trail."""

from __future__ import annotations

from .conftest import Client

USERS = "/api/v1/users"
TOKENS = "/api/v1/tokens"
PASSWORD = "a long password"

JOB_ROW_FIELDS = {
    "id", "uuid", "name", "unique_name", "pod_id", "user", "description", "created_at", "updated_at", "started_at",
    "finished_at", "last_status", "tags", "project", "build_job", "original", "cloning_strategy", "is_clone",
    "backend", "is_managed", "in_cluster", "bookmarked", "node_scheduled", "exit_code", "ttl",
    "command", "reason",
}  # fmt: skip
"""Fields of a job in a list."""
JOB_FIELDS = JOB_ROW_FIELDS | {
    "config", "content", "resources", "readme", "data_refs", "params", "commit", "exit", "notes", "reported",
    "queue_position", "waiting", "wait_until", "retries", "schedule", "after", "urls",
}  # fmt: skip
"""Fields of a job of its own."""


def log_in(app, username, password):
    """Return a client with a login token of the user; None if the login is refused."""
    response = Client(app).post(f"{USERS}/token", {"username": username, "password": password})
    return Client(app, response.json["token"]) if response.status_code == 200 else None
