"""The hourly cleanup of rows and files."""

from __future__ import annotations

import datetime
import os

from polyjob.clock import now
from polyjob.db.database import write
from polyjob.db.models import Audit, Token
from polyjob.engine import cleanup
from polyjob.services import audit

from .conftest import raise_


def test_expired_rows_are_removed_every_hour(world, monkeypatch):
    monkeypatch.setattr(cleanup, "BATCH_ROWS", 2)
    actor = audit.Actor(world.user)
    old = now() - datetime.timedelta(days=366)

    def make():
        with write("test"):
            for _ in range(5):
                audit.record_as(actor, "create", world.project, {})
            Audit.update(created_at=old).execute()
            audit.record_as(actor, "stop", world.project, {})
            Token.create(user=world.user, name="x", digest=str(old), created_at=old, expires_at=old)

    make()
    world.settle()
    assert [row.action for row in Audit.select()] == ["stop"]
    assert Token.select().count() == 0
    make()
    world.later(60)
    assert Audit.select().count() == 7
    world.clock.move(3600)
    world.settle()
    assert Audit.select().count() == 1


def test_old_files_without_a_row_are_removed(world):
    job = world.submit()
    world.end(job)
    data = world.settings.data_dir
    old, new, strange = data / "jobs" / ("a" * 32), data / "builds" / ("b" * 32), data / "jobs" / "mine"
    code = data / "code" / f"{'c' * 64}.tar.gz"
    for folder in (old, new, strange):
        folder.mkdir()
    half = data / "code" / f"{'d' * 16}.part"
    for file in (code, half):
        file.write_bytes(b"x")
    for path in (old, strange, code, half, world.store.job_folder(job.uuid)):
        os.utime(path, (1, 1))
    world.clock.move(3600)
    world.settle()
    assert [path.exists() for path in (old, new, strange, code, half)] == [False, True, True, False, False]
    assert world.store.job_folder(job.uuid).exists()


def test_failed_cleanup_stops_no_job(world, monkeypatch, caplog):
    monkeypatch.setattr(cleanup, "_stale_names", lambda folder: raise_(OSError("no")))
    world.clock.move(3600)
    job = world.submit()
    world.end(job)
    assert "files that belong to no row could not be removed" in caplog.text
