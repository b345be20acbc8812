"""Clean up once an hour: remove rows that are not needed any more, and files that no row names."""

from __future__ import annotations

import contextlib
import datetime
import logging
import re
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from polyjob.db.models import Build, Idempotency, Job, SignInLink, Token, Upload
from polyjob.engine import disk_usage, gc
from polyjob.engine.backends import Backends
from polyjob.engine.call_pools import FunctionCall, Result
from polyjob.engine.context import Context
from polyjob.engine.writes import Write
from polyjob.engine_link import write_disk_usage
from polyjob.services import audit, webhooks
from polyjob.services.idempotency import KEY_LIFETIME
from runners.base import Runner

log = logging.getLogger("polyjob.engine")

CLEANUP_INTERVAL_SECONDS = 3600.0
STALE_AFTER_SECONDS = 86_400.0
"""Seconds since its last change after which a folder or tarball that no row names is removed.

By then, the request that created it has written its row, or has died.
"""
BATCH_ROWS = 2000
"""Entries of the audit trail, and deliveries, removed at once. If there are more, the next pass continues."""


class Cleanup:
    """Finds what to remove by age alone, so that a crash loses nothing and repeats nothing."""

    def __init__(self, context: Context, backends: Backends) -> None:
        self._context = context
        self._backends = backends
        self._due_at = context.clock.seconds()

    def writes(self) -> list[Write]:
        """If a cleanup is due, begin the removal of files, and return the removal of rows."""
        if self._context.clock.seconds() < self._due_at:
            return []
        self._due_at = self._context.clock.seconds() + CLEANUP_INTERVAL_SECONDS
        calls, key = self._context.calls, ("sweep", 0)
        if not calls.is_busy(key):
            runners = self._backends.of_builds()
            calls.submit(FunctionCall("sweep", key, "sweep", lambda: self._remove_files(runners), self._on_done))
        return [Write("clear", self._remove_rows)]

    def _on_done(self, result: Result) -> None:
        """Log a failure. The next cleanup tries again."""
        if result.error is not None:
            log.error("files that belong to no row could not be removed", exc_info=result.error)

    def _remove_files(self, runners: Mapping[str, Runner]) -> None:
        """Remove what a crash left before its row was written, unused uploads, and garbage."""
        data_dir, store = self._context.settings.data_dir, self._context.store
        for folder, table, remove in (("jobs", Job, store.remove_job), ("builds", Build, store.remove_build)):
            for name in _stale_names(data_dir / folder):
                if not table.select().where(table.uuid == name).exists():
                    log.warning("%s/%s belongs to no row, and is removed", folder, name)
                    remove(name)
        for name in _stale_names(data_dir / "code"):
            digest = name.removesuffix(".tar.gz")
            if name.endswith(".part"):
                (data_dir / "code" / name).unlink(missing_ok=True)
            elif not Upload.select().where(Upload.digest == digest).exists():
                store.upload_path(digest).unlink(missing_ok=True)
        gc.collect(self._context.settings, store, runners)
        write_disk_usage(data_dir, disk_usage.measure(runners))

    def _remove_rows(self) -> None:
        now = self._context.clock.wall()
        Token.delete().where(Token.expires_at < now - datetime.timedelta(days=1)).execute()
        SignInLink.delete().where(SignInLink.expires_at < now).execute()
        Idempotency.delete().where(Idempotency.created_at < now - KEY_LIFETIME).execute()
        removed = (audit.prune(self._context.settings.audit_days, BATCH_ROWS), webhooks.remove_old(now, BATCH_ROWS))
        if BATCH_ROWS in removed:
            self._due_at = 0.0


def _stale_names(folder: Path) -> Iterator[str]:
    """Yield the names in a folder that polyjob made and that are old enough."""
    for path in folder.iterdir():
        if not re.fullmatch(r"[0-9a-f]{32}|[0-9a-f]{64}\.tar\.gz|[0-9a-f]{16}\.part", path.name):
            continue
        with contextlib.suppress(FileNotFoundError):  # removed meanwhile
            if time.time() - path.stat(follow_symlinks=False).st_mtime > STALE_AFTER_SECONDS:
                yield path.name
