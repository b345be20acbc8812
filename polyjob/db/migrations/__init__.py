"""Migrations of the database schema: the file `NNNN_name.sql` migrates version NNNN - 1 to NNNN.

A database stores its schema version in SQLite's `user_version`. A released migration is never changed.

The migrations run on a copy first, and the migrated copy is checked. Only then do they run on the database itself, in
one transaction. The copy does not replace the database:

- Other processes can have the database open, such as the workers of an old server. After a rename they would go on
  writing to the replaced file, and jobs that they accept would be lost. A transaction they see, or wait for.
- The database consists of two files, `polyjob.db` and its WAL, and no rename replaces both at once. After a crash in
  between, a WAL would stand beside a database that it does not belong to.
- A transaction is atomic at every instant without further precautions.
"""

from __future__ import annotations

import contextlib
import datetime
import fcntl
import os
import re
import secrets
import shutil
import sqlite3
import urllib.parse
from collections.abc import Callable, Iterator
from importlib import resources
from pathlib import Path
from typing import Any

import polyjob
from polyjob.clock import now
from polyjob.db.database import database, write
from polyjob.storage.durable import create_private, fsync_path, rename_durably

REHEARSAL_FILE = "polyjob.db.rehearsal"
"""The copy on which migrations run first. One that a crash left behind is replaced by the next."""
CHECK_FILE = "polyjob.db.check"
"""The copy of `try_migrations`. One that a crash left behind is replaced by the next."""
NEEDED_COPIES = 3
"""Free disk space that migrations need, in sizes of the database: the backup, and the rehearsal or the WAL."""

WRITER = "polyjob"
"""Key of `meta`: the version of the polyjob that has migrated the database last."""

_NAME = re.compile(r"(\d{4})_\w+\.sql")
_COPY = "polyjob.db.before-*"
_USER_VERSION_OFFSET = 60
"""Position of the schema version in the file of a database, as SQLite documents it."""


class MigrationError(RuntimeError):
    """The database cannot be migrated, and was not changed. The text says why in one line."""


def _migrations() -> dict[int, str]:
    files = (file for file in resources.files(__name__).iterdir() if _NAME.fullmatch(file.name))
    return {int(file.name[:4]): file.read_text() for file in sorted(files, key=lambda file: file.name)}


def latest_version() -> int:
    """Return the schema version of this polyjob."""
    return max(_migrations())


def current_version() -> int:
    """Return the schema version of the open database; 0 means that it is empty."""
    return int(database.execute_sql("PRAGMA user_version").fetchone()[0])


def pending_migrations(version: int) -> list[str]:
    """Return the names of the migrations that a database with this schema version needs."""
    names = (file.name for file in resources.files(__name__).iterdir() if _NAME.fullmatch(file.name))
    by_number = {int(name[:4]): name.removesuffix(".sql") for name in names}
    return [by_number.get(number, f"{number:04d}") for number in sorted(_migrations()) if number > version]


def check_version(version: int, execute: Callable[[str], Any], data_dir: Path) -> None:
    """Raise MigrationError if a newer polyjob has written the database, which has this schema version.

    `execute` runs a statement on it. The text names that polyjob, and the copy with which this one can go on.
    """
    latest = latest_version()
    if version <= latest:
        return
    row = execute(f"SELECT value FROM meta WHERE key = '{WRITER}'").fetchone()
    is_known = row is not None and row[0] != polyjob.__version__
    writer = f"polyjob {row[0]}" if is_known else "a newer polyjob"
    text = (
        f"the database was written by {writer} and has schema {version}, but this is polyjob {polyjob.__version__}, "
        f"which supports up to {latest}. Install {writer if is_known else 'the newer one'} again"
    )
    copy = copy_to_go_back_to(data_dir)
    if copy is not None:
        made_at = datetime.datetime.fromtimestamp(copy.stat().st_mtime)
        text += (
            f", or go back to the copy that was made before the upgrade, {copy} of {made_at:%Y-%m-%d %H:%M}, as the "
            'section "Upgrade and go back" of docs/reliability.md describes'
        )
    raise MigrationError(text)


def copy_to_go_back_to(data_dir: Path) -> Path | None:
    """Return the newest copy made before a migration that this polyjob can open, or None."""
    copies = [copy for copy in data_dir.glob(_COPY) if 0 < _version_of_file(copy) <= latest_version()]
    return max(copies, key=lambda copy: copy.stat().st_mtime, default=None)


def _version_of_file(path: Path) -> int:
    with path.open("rb") as file:
        file.seek(_USER_VERSION_OFFSET)
        return int.from_bytes(file.read(4))


def migrate(data_dir: Path) -> int:
    """Migrate the open database to the latest version in one transaction, and return the number of migrations.

    Idempotent. A database that is not empty is first copied to `polyjob.db.before-NNNN` beside it, and the migrations
    run on another copy. Raises MigrationError.
    """
    version, latest = current_version(), latest_version()
    check_version(version, database.execute_sql, data_dir)
    if version == latest:
        return 0
    if version:
        check_free_space(data_dir)
        backup = data_dir / f"polyjob.db.before-{latest:04d}"
        _back_up(backup)
        rehearse(backup, data_dir / REHEARSAL_FILE)
    with write("migrate"):
        version = current_version()  # another process may have migrated it meanwhile
        _apply(database.execute_sql, version)
        if not version:
            _insert_first_rows()
        database.execute_sql("REPLACE INTO meta (key, value) VALUES (?, ?)", (WRITER, polyjob.__version__))
    return latest - version


def needed_bytes(data_dir: Path) -> int:
    """Return the free disk space that migrations of a data folder need."""
    files = (data_dir / name for name in ("polyjob.db", "polyjob.db-wal"))
    return NEEDED_COPIES * sum(file.stat().st_size for file in files if file.exists())


def check_free_space(data_dir: Path) -> None:
    """Raise MigrationError if the disk has too little space to migrate the database."""
    needed, free = needed_bytes(data_dir), shutil.disk_usage(data_dir).free
    if free < needed:
        raise MigrationError(
            f"the upgrade of the database needs {_mebibytes(needed)} MiB of free disk space, and {free >> 20} MiB are "
            "free. Nothing was changed; make room and start again"
        )


def rehearse(source: Path, copy: Path) -> None:
    """Migrate a copy of a database that no process has open, check the result, and remove it.

    Raises MigrationError if the migrations fail, or if the result is damaged.
    """
    copy.unlink(missing_ok=True)
    try:
        create_private(copy)
        shutil.copyfile(source, copy)
        _migrate_copy(copy)
    finally:
        copy.unlink(missing_ok=True)


def try_migrations(data_dir: Path) -> None:
    """Migrate a copy of the database of a data folder, and remove it. Changes nothing else.

    The database may be in use. Raises MigrationError, and OSError.
    """
    copy = data_dir / CHECK_FILE
    descriptor = os.open(copy, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise MigrationError("another check of this data folder runs") from None
    try:
        os.truncate(descriptor, 0)
        with reading(data_dir) as connection:
            connection.execute("VACUUM INTO ?", (str(copy),))
        _migrate_copy(copy)
    except sqlite3.Error as error:
        raise MigrationError(f"the database cannot be copied: {error}") from error
    finally:
        copy.unlink(missing_ok=True)
        os.close(descriptor)


@contextlib.contextmanager
def reading(data_dir: Path) -> Iterator[sqlite3.Connection]:
    """Yield a connection that only reads the database, whatever its schema."""
    path = urllib.parse.quote(str(data_dir / "polyjob.db"))
    with contextlib.closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as connection:
        yield connection


def stored_version(data_dir: Path) -> int:
    """Return the schema version of a database that need not be open in this process.

    Raises MigrationError if a newer polyjob has written it, or if it cannot be read.
    """
    try:
        with reading(data_dir) as connection:
            version = int(connection.execute("PRAGMA user_version").fetchone()[0])
            check_version(version, connection.execute, data_dir)
    except sqlite3.Error as error:
        raise MigrationError(f"the database cannot be read: {error}") from error
    return version


def _migrate_copy(copy: Path) -> None:
    try:
        with contextlib.closing(sqlite3.connect(copy, isolation_level=None)) as connection:
            # Faster, and never read again after a crash.
            connection.executescript("PRAGMA journal_mode = memory; PRAGMA synchronous = off; PRAGMA foreign_keys = on")
            version = int(connection.execute("PRAGMA user_version").fetchone()[0])
            connection.execute("BEGIN IMMEDIATE")
            _apply(connection.execute, version)
            connection.execute("COMMIT")
        with contextlib.closing(sqlite3.connect(copy)) as connection:
            (finding,) = connection.execute("PRAGMA integrity_check(1)").fetchone()
        if finding != "ok":
            raise MigrationError(f"the migrated copy of the database is damaged ({finding}). Nothing was changed")
    except sqlite3.Error as error:
        text = f"the migrations failed on a copy of the database: {error}. Nothing was changed"
        raise MigrationError(text) from error


def _apply(execute: Callable[[str], Any], version: int) -> None:
    """Run the migrations after `version` in an open transaction."""
    latest = latest_version()
    for number in range(version + 1, latest + 1):
        for statement in _statements(_migrations()[number]):
            execute(statement)
    execute(f"PRAGMA user_version = {latest}")


def _back_up(path: Path) -> None:
    partial = path.with_name(f"{path.name}.part")
    partial.unlink(missing_ok=True)
    create_private(partial)
    database.execute_sql("VACUUM INTO ?", (str(partial),))
    fsync_path(partial)
    rename_durably(partial, path, "back-up-database")


def _mebibytes(size: int) -> int:
    return -(-size // (1 << 20))


def _statements(script: str) -> Iterator[str]:
    statement = ""
    for line in script.splitlines(keepends=True):
        statement += line
        if statement.strip() and sqlite3.complete_statement(statement):
            yield statement
            statement = ""


def _insert_first_rows() -> None:
    insert = "INSERT INTO meta (key, value) VALUES (?, ?)"
    database.execute_sql(insert, ("installation", secrets.token_hex(16)))
    database.execute_sql(insert, ("secret", secrets.token_hex(32)))
    database.execute_sql(insert, ("made_at", now().isoformat()))
