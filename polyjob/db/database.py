"""Open the SQLite database, and write to it in transactions.

- Writers of all processes wait in a queue for the lock on `<data>/write.lock`. SQLite's own busy handler has no queue,
  so a writer could starve.
- Readers take no lock.
- Each thread keeps its connection open. A new connection for each write would cost twelve times as much.
- Open the database after a fork, not before: neither connections nor the lock survive one.
"""

from __future__ import annotations

import contextlib
import datetime
import fcntl
import json
import os
import sqlite3
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from peewee import BigIntegerField, SqliteDatabase, TextField, __exception_wrapper__  # type: ignore[attr-defined]

from polyjob.clock import from_microseconds, to_microseconds
from polyjob.crash_points import crash_point
from polyjob.storage import reserve

PRAGMAS = {
    "journal_mode": "wal",
    "synchronous": "full",
    "foreign_keys": "on",
    "busy_timeout": 30_000,
    "cache_size": -8_000,  # KiB; with 2,000, a page in the middle of 100,000 jobs takes one and a half times as long
    "temp_store": "memory",
}


class _Database(SqliteDatabase):
    def execute_sql(self, sql: str, params: Sequence[Any] | Mapping[str, Any] | None = None) -> sqlite3.Cursor:
        """Execute a statement. Without peewee's logging and hooks, which take longer than a short statement."""
        with __exception_wrapper__:
            cursor: sqlite3.Cursor = self.connection().execute(sql, params or ())
            return cursor

    def rollback(self) -> None:
        """Roll back, unless SQLite has done so itself, as on a full disk. A second rollback would hide the reason."""
        if self.is_closed() or self.connection().in_transaction:
            super().rollback()


database = _Database(None)

_thread_lock = threading.RLock()
_lock_fd: int | None = None
_nesting = 0


def open_database(data_dir: Path) -> None:
    """Bind the models of this process to `<data_dir>/polyjob.db`, which the first write creates. Idempotent.

    On a full disk this uses the reserve, because the first connection needs space for SQLite's own files.
    """
    global _lock_fd
    close_database()
    reserve.release(data_dir)
    database.init(str(data_dir / "polyjob.db"), pragmas=PRAGMAS)
    _lock_fd = os.open(data_dir / "write.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)


def close_database() -> None:
    """Close this thread's connection and the write lock. Idempotent."""
    global _lock_fd
    if not database.is_closed():
        database.close()
    if _lock_fd is not None:
        os.close(_lock_fd)
        _lock_fd = None


@contextlib.contextmanager
def write(name: str, use_reserve: bool = False) -> Iterator[None]:
    """Run the block in one transaction. It is committed and synced to disk at the end, or rolled back if it raises.

    - Blocks until no other thread or process writes.
    - A nested `write` is part of the outer transaction.
    - `name` gives the crash points `name:before` and `name:after` the commit.
    - `use_reserve` lets the transaction use the reserve on a full disk, because it ends or deletes something.
    - Do nothing slow in the block: no file, network or runner calls.
    """
    global _nesting
    if _lock_fd is None:
        raise RuntimeError("the database is not open")
    if use_reserve:
        reserve.release(Path(database.database).parent)
    with _thread_lock:
        if _nesting:
            yield
            return
        fcntl.lockf(_lock_fd, fcntl.LOCK_EX)
        _nesting += 1
        try:
            with database.atomic("IMMEDIATE"):
                yield
                crash_point(f"{name}:before")
            crash_point(f"{name}:after")
        finally:
            _nesting -= 1
            fcntl.lockf(_lock_fd, fcntl.LOCK_UN)


class InstantField(BigIntegerField):
    """A point in time: an aware datetime in UTC, stored as microseconds since 1970."""

    def db_value(self, value: datetime.datetime | None) -> int | None:
        return None if value is None else to_microseconds(value)

    def python_value(self, value: int | None) -> datetime.datetime | None:
        return None if value is None else from_microseconds(value)


class JSONField(TextField):
    """A JSON value, stored as text; None is stored as NULL."""

    def db_value(self, value: Any) -> str | None:
        return None if value is None else json.dumps(value, ensure_ascii=False, separators=(",", ":"))

    def python_value(self, value: str | None) -> Any:
        return None if value is None else json.loads(value)
