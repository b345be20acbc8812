"""Migrations of the database schema: the file `NNNN_name.sql` migrates version NNNN - 1 to NNNN.

A database stores its schema version in SQLite's `user_version`. A released migration is never changed.
"""

from __future__ import annotations

import contextlib
import re
import secrets
import sqlite3
from collections.abc import Iterator
from importlib import resources
from pathlib import Path

from polyjob.clock import now
from polyjob.db.database import database, write

_NAME = re.compile(r"(\d{4})_\w+\.sql")


def _migrations() -> dict[int, str]:
    files = (file for file in resources.files(__name__).iterdir() if _NAME.fullmatch(file.name))
    return {int(file.name[:4]): file.read_text() for file in sorted(files, key=lambda file: file.name)}


def latest_version() -> int:
    """Return the schema version of this polyjob."""
    return max(_migrations())


def current_version() -> int:
    """Return the schema version of the open database; 0 means that it is empty."""
    return int(database.execute_sql("PRAGMA user_version").fetchone()[0])


def migrate(data_dir: Path) -> int:
    """Migrate the open database to the latest version in one transaction, and return the number of migrations.

    Idempotent. A database that is not empty is first copied to `polyjob.db.before-NNNN` beside it. Raises RuntimeError
    if a newer polyjob has written the database.
    """
    version, latest = current_version(), latest_version()
    if version > latest:
        raise RuntimeError(
            f"the database has schema version {version}, but this polyjob supports only {latest}:"
            " install a newer polyjob"
        )
    if version == latest:
        return 0
    if version:
        _back_up(data_dir / f"polyjob.db.before-{latest:04d}")
    with write("migrate"):
        version = current_version()  # another process may have migrated it meanwhile
        for number in range(version + 1, latest + 1):
            for statement in _statements(_migrations()[number]):
                database.execute_sql(statement)
        database.execute_sql(f"PRAGMA user_version = {latest}")
        if not version:
            _insert_first_rows()
    return latest - version


def _back_up(path: Path) -> None:
    partial = path.with_name(f"{path.name}.part")
    for old in (path, partial):
        with contextlib.suppress(FileNotFoundError):
            old.unlink()
    database.execute_sql("VACUUM INTO ?", (str(partial),))
    partial.rename(path)


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
