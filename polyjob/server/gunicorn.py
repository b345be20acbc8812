"""gunicorn's configuration, below `polyjob serve` and for a bare `gunicorn wsgi:app`.

A bare arbiter prepares the data folder itself, and starts a helper process that keeps the engine running.
"""

from __future__ import annotations

import gc
import os
import sys
from typing import Any

from polyjob.clock import Clock
from polyjob.engine_link import record_orderly_end, record_start
from polyjob.server import supervisor
from polyjob.server.connection_counts import counts
from polyjob.server.terminal import warn
from polyjob.server.web_app import load_app
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
# In memory, so that the heartbeats of workers do not wait for a busy disk.
worker_tmp_dir = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
forwarded_allow_ips = "*" if _settings.trusted_proxies else ""
forwarder_headers = ""  # otherwise a client's own `SCRIPT_NAME` would pass a proxy and change the path
accesslog = None
loglevel = "warning"


def on_starting(server: Any) -> None:
    if server.cfg.is_ssl:
        sys.exit("polyjob: the server has no TLS; leave out --certfile and --keyfile, and put a proxy in front of it")
    if _is_bare:
        _prepare_data_dir()
    else:
        supervisor.end_with_parent()
    if not server.cfg.reload:
        load_app()
    supervisor.wait_until_prepared()
    gc.freeze()  # otherwise the first collection of each worker would copy the shared memory


def _prepare_data_dir() -> None:
    from polyjob.db.database import close_database
    from polyjob.server.bootstrap import UnusableDataDir, prepare_data_dir, startup_warnings

    try:
        prepare_data_dir(_settings)
        for warning in startup_warnings(_settings):
            warn(warning)
    except (UnusableDataDir, SettingError, RuntimeError) as error:
        sys.exit(f"polyjob: {error}")
    finally:
        close_database()  # no connection may survive the fork of the workers


def when_ready(server: Any) -> None:
    record_start(_settings.data_dir, "web", Clock())
    if not _is_bare:
        return
    supervisor.start_helper(_settings)
    if "process" in _settings.runner_names and _settings.job_user:
        from runners.process.isolation import gaps

        for gap in gaps(_settings.job_user):
            server.log.warning(gap)


def post_worker_init(worker: Any) -> None:
    """End log followers as soon as their worker has to end, so that the worker never waits for them."""
    watcher = _watcher_of(worker)
    if watcher is not None:
        watcher.should_close = lambda: not worker.alive or os.getppid() != worker.ppid


def _watcher_of(worker: Any) -> Any:
    """Return the watcher of the worker's application; None if the application could not be imported."""
    from polyjob.logs.watcher import EXTENSION

    return getattr(getattr(worker, "wsgi", None), "extensions", {}).get(EXTENSION)


def child_exit(server: Any, worker: Any) -> None:
    counts.withdraw(worker.age)
    record_start(_settings.data_dir, "web", Clock())  # another worker replaces it


def on_exit(server: Any) -> None:
    record_orderly_end(_settings.data_dir, "web")


def worker_exit(server: Any, worker: Any) -> None:
    watcher = _watcher_of(worker)
    if watcher is not None:
        watcher.close()
