"""gunicorn's configuration, under `polyjob serve` and for a bare `gunicorn wsgi:app`.

Bare, the arbiter makes the data folder ready and gets a helper that keeps the engine alive.
"""

from __future__ import annotations

import gc
import os
import sys
from typing import Any

from polyjob.clock import Clock
from polyjob.engine_link import record_orderly_end, record_start
from polyjob.server import supervisor
from polyjob.server.serve import load_app
from polyjob.server.web_worker import MAX_CONNECTIONS
from polyjob.settings import SettingError, read_settings

try:
    _settings = read_settings(os.environ)
except SettingError as _error:
    sys.exit(f"polyjob: {_error}")

_is_bare = supervisor.PARENT_PIPE not in os.environ

bind = f"[{_settings.host}]:{_settings.port}" if ":" in _settings.host else f"{_settings.host}:{_settings.port}"
worker_class = "polyjob.server.web_worker.Worker"
worker_connections = MAX_CONNECTIONS
workers = _settings.workers
threads = _settings.threads
keepalive = 5
graceful_timeout = 3
control_socket_disable = True
worker_tmp_dir = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None  # signs of life that no busy disk holds up
forwarded_allow_ips = "*" if _settings.trusted_proxies else ""
forwarder_headers = ""  # else a client's own `SCRIPT_NAME` would pass a proxy and change the path
accesslog = None
loglevel = "warning"


def on_starting(server: Any) -> None:
    if server.cfg.is_ssl:
        sys.exit(
            "polyjob: the server speaks no TLS; leave out --certfile and --keyfile, and put a proxy in front of it"
        )
    if _is_bare:
        _open_folder()
    else:
        supervisor.end_with_parent()
    if not server.cfg.reload:
        load_app()
    gc.freeze()  # or the first collection of each worker would copy what they share


def _open_folder() -> None:
    from polyjob.db.database import close_database
    from polyjob.server.bootstrap import UnusableFolder, open_folder, warnings

    try:
        open_folder(_settings)
        for warning in warnings(_settings):
            print(f"polyjob: {warning}", file=sys.stderr, flush=True)
    except (UnusableFolder, SettingError, RuntimeError) as error:
        sys.exit(f"polyjob: {error}")
    finally:
        close_database()  # nothing of it survives the fork of the workers


def when_ready(server: Any) -> None:
    record_start(_settings.data_dir, "web", Clock())
    if not _is_bare:
        return
    supervisor.start_helper(_settings)
    if _settings.runner == "process" and _settings.job_user:
        from runners.process.isolation import gaps

        for gap in gaps(_settings.job_user):
            server.log.warning(gap)


def post_worker_init(worker: Any) -> None:
    """Followers of logs leave as soon as their worker is told to end, so that it never waits for them."""
    watcher = _watcher_of(worker)
    if watcher is not None:
        watcher.should_close = lambda: not worker.alive or os.getppid() != worker.ppid


def _watcher_of(worker: Any) -> Any:
    """Return the watcher of the worker's application; None if the application could not be imported."""
    from polyjob.logs.watcher import EXTENSION

    return getattr(getattr(worker, "wsgi", None), "extensions", {}).get(EXTENSION)


def child_exit(server: Any, worker: Any) -> None:
    record_start(_settings.data_dir, "web", Clock())  # another worker takes its place


def on_exit(server: Any) -> None:
    record_orderly_end(_settings.data_dir, "web")


def worker_exit(server: Any, worker: Any) -> None:
    watcher = _watcher_of(worker)
    if watcher is not None:
        watcher.close()
