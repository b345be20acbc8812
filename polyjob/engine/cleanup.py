"""What the engine clears away now and then: rows that nobody needs any more, and files that no row names."""

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
from polyjob.engine.call_pools import Done
from polyjob.engine.context import Context
from polyjob.engine.writes import Step
from polyjob.engine_link import write_disk_usage
from polyjob.services import audit
from polyjob.services.idempotency import KEY_LIFETIME
from runners.base import Runner

log = logging.getLogger("polyjob.engine")

EVERY = 3600.0
SWEPT_AFTER = 86_400.0
"""Seconds since its last change after which a folder or archive that no row names is removed: long after whoever made
it has named it, or has died before that."""
MOST = 2000
"""Lines of the audit trail removed at once; where there are more, the next pass goes on."""


class Housekeeping:
    """See the module. What it removes is found by its age alone, so that a crash loses nothing and repeats nothing."""

    def __init__(self, context: Context, backends: Backends) -> None:
        self._context = context
        self._backends = backends
        self._at = context.clock.seconds()

    def steps(self) -> list[Step]:
        if self._context.clock.seconds() < self._at:
            return []
        self._at = self._context.clock.seconds() + EVERY
        calls, key = self._context.calls, ("sweep", 0)
        if not calls.busy(key):
            runners = self._backends.of_builds()
            calls.submit("sweep", key, "sweep", lambda: self._sweep(runners))
        return [Step("clear", self._clear)]

    def ended(self, done: Done) -> None:
        """A sweep that failed comes again with the next hour."""
        if done.error is not None:
            log.error("what belongs to nobody could not be removed", exc_info=done.error)

    def _sweep(self, runners: Mapping[str, Runner]) -> None:
        """Remove what a crash left between its making and its row, code that no project has any more, and what may go
        to make room."""
        data, store = self._context.settings.data_dir, self._context.store
        for folder, table, remove in (("jobs", Job, store.remove_job), ("builds", Build, store.remove_build)):
            for name in _stale(data / folder):
                if not table.select().where(table.uuid == name).exists():
                    log.warning("%s/%s belongs to nobody, and is removed", folder, name)
                    remove(name)
        for name in _stale(data / "code"):
            digest = name.removesuffix(".tar.gz")
            if name.endswith(".part"):
                (data / "code" / name).unlink(missing_ok=True)
            elif not Upload.select().where(Upload.digest == digest).exists():
                store.upload_path(digest).unlink(missing_ok=True)
        gc.collect(self._context.settings, store, runners)
        write_disk_usage(data, disk_usage.measure(runners))

    def _clear(self) -> None:
        moment = self._context.clock.wall()
        Token.delete().where(Token.expires_at < moment - datetime.timedelta(days=1)).execute()
        SignInLink.delete().where(SignInLink.expires_at < moment).execute()
        Idempotency.delete().where(Idempotency.created_at < moment - KEY_LIFETIME).execute()
        if audit.prune(self._context.settings.audit_days, MOST) == MOST:
            self._at = 0.0


def _stale(folder: Path) -> Iterator[str]:
    """The names in it that are ours and old enough."""
    for path in folder.iterdir():
        if not re.fullmatch(r"[0-9a-f]{32}|[0-9a-f]{64}\.tar\.gz|[0-9a-f]{16}\.part", path.name):
            continue
        with contextlib.suppress(FileNotFoundError):  # removed meanwhile
            if time.time() - path.stat(follow_symlinks=False).st_mtime > SWEPT_AFTER:
                yield path.name
