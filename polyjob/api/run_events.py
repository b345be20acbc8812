"""Follow a run, or wait for it, on behalf of the current request."""

from __future__ import annotations

import socket
from pathlib import Path

from flask import current_app, request

from polyjob.api.request_context import me
from polyjob.auth.identity import access_check
from polyjob.db.models import Build, Job
from polyjob.logs import follow
from polyjob.logs.follow import RunEvents
from polyjob.logs.watcher import EXTENSION, Watcher


def follow_run(run: Job | Build, log: Path, offset: int, *, idle_after: float | None = None) -> RunEvents:
    """Follow a run until it is over, the client disconnects, or its user may no longer read the run.

    Close the result when the response is closed. Raises Unavailable if no slot is free.
    """
    return follow.follow(
        _watcher(),
        run,
        log,
        offset,
        idle_after=idle_after,
        client=_connection(),
        owner=me().id,
        may_read=access_check(run.project_id),
    )


def wait_until_done(job_id: int, seconds: float) -> None:
    """Block until the job is done or deleted, at most for `seconds`. Raises Unavailable if no slot is free."""
    follow.wait_until_done(_watcher(), job_id, seconds, _connection(), me().id)


def wait_for_log(run: Job | Build, log: Path, length: int, seconds: float) -> None:
    """Block until the log has more than `length` bytes or its run is over, at most for `seconds`.

    Raises Unavailable if no slot is free.
    """
    follow.wait_for_log(_watcher(), run, log, length, seconds, _connection(), me().id)


def _watcher() -> Watcher:
    watcher: Watcher = current_app.extensions[EXTENSION]
    return watcher


def _connection() -> socket.socket | None:
    """Return the client's connection; None if the server does not pass its sockets."""
    connection: socket.socket | None = request.environ.get("gunicorn.socket")
    return connection
