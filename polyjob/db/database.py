"""The SQLite file: how it is opened, and the one way to write to it.

Writers of all processes queue at `<data>/write.lock`, a blocking lock, because SQLite's own busy handler starves them.
Readers take no lock. Each thread keeps its connection open, since a new one per write costs twelve times as much.
Nothing here survives a fork: open the database after it.
"""

from __future__ import annotations

import contextlib
import datetime
import fcntl
import json
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from peewee import BigIntegerField, SqliteDatabase, TextField

from polyjob.clock import from_microseconds, to_microseconds
from polyjob.crash_points import crash_point
from polyjob.storage import reserve

PRAGMAS = {
    "journal_mode": "wal",
    "synchronous": "full",
    "foreign_keys": "on",
    "busy_timeout": 30_000,
    "cache_size": -8_000,
    "temp_store": "memory",
}


class _Database(SqliteDatabase):
    def rollback(self) -> None:
        """Roll back, unless SQLite has done so by itself, as on a full disk. A second one would hide the reason."""
        if self.is_closed() or self.connection().in_transaction:
            super().rollback()


database = _Database(None)

_thread_lock = threading.RLock()
_lock_file: int | None = None
_depth = 0


def open_database(data_dir: Path) -> None:
    """Point every model of this process at `<data_dir>/polyjob.db`, which is made when first written. Idempotent.

    On a full disk this takes the reserve, because the first connection needs room for SQLite's own files.
    """
    global _lock_file
    close_database()
    reserve.release(data_dir)
    database.init(str(data_dir / "polyjob.db"), pragmas=PRAGMAS)
    _lock_file = os.open(data_dir / "write.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)


def close_database() -> None:
    """Close this thread's connection and the write lock's file. Idempotent."""
    global _lock_file
    if not database.is_closed():
        database.close()
    if _lock_file is not None:
        os.close(_lock_file)
        _lock_file = None


@contextlib.contextmanager
def write(name: str, makes_room: bool = False) -> Iterator[None]:
    """One transaction that commits, synced to disk, when the block ends, and leaves nothing behind if it raises.

    Blocks until no other thread or process writes. Nested, it is part of the outer transaction. `name` names its crash
    points: `name:before` and `name:after` the commit. Nothing slow belongs inside: no file, network or runner call.
    `makes_room`: on a full disk the transaction takes the reserve, because something ends or is deleted by it.
    """
    global _depth
    if _lock_file is None:
        raise RuntimeError("the database is not open")
    if makes_room:
        reserve.release(Path(database.database).parent)
    with _thread_lock:
        if _depth:
            yield
            return
        fcntl.lockf(_lock_file, fcntl.LOCK_EX)
        _depth += 1
        try:
            with database.atomic("IMMEDIATE"):
                yield
                crash_point(f"{name}:before")
            crash_point(f"{name}:after")
        finally:
            _depth -= 1
            fcntl.lockf(_lock_file, fcntl.LOCK_UN)


class InstantField(BigIntegerField):
    """A point in time: an aware datetime in UTC here, whole microseconds since 1970 in the file."""

    def db_value(self, value: datetime.datetime | None) -> int | None:
        return None if value is None else to_microseconds(value)

    def python_value(self, value: int | None) -> datetime.datetime | None:
        return None if value is None else from_microseconds(value)


class JSONField(TextField):
    """A JSON value as text. None is NULL."""

    def db_value(self, value: Any) -> str | None:
        return None if value is None else json.dumps(value, ensure_ascii=False, separators=(",", ":"))

    def python_value(self, value: str | None) -> Any:
        return None if value is None else json.loads(value)
