"""The database's schema, as numbered steps: file `NNNN_name.sql` brings schema NNNN - 1 to NNNN.

The number of the schema in a file is SQLite's own `user_version`. Steps are never changed once released.
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


def _steps() -> dict[int, str]:
    files = (file for file in resources.files(__name__).iterdir() if _NAME.fullmatch(file.name))
    return {int(file.name[:4]): file.read_text() for file in sorted(files, key=lambda file: file.name)}


def latest_version() -> int:
    """The schema that this code works with."""
    return max(_steps())


def current_version() -> int:
    """The schema of the open database; 0 = empty."""
    return int(database.execute_sql("PRAGMA user_version").fetchone()[0])


def migrate(data_dir: Path) -> int:
    """Bring the open database to `latest_version`, in one transaction, and return how many steps that took. Idempotent.

    A database that holds something is backed up first, beside itself, as `polyjob.db.before-NNNN`. Raises RuntimeError
    for a database that a newer polyjob has written.
    """
    found, wanted = current_version(), latest_version()
    if found > wanted:
        raise RuntimeError(f"the database has schema {found}, this polyjob knows only {wanted}: install the newer one")
    if found == wanted:
        return 0
    if found:
        _back_up(data_dir / f"polyjob.db.before-{wanted:04d}")
    with write("migrate"):
        found = current_version()  # another process may have come first
        for number in range(found + 1, wanted + 1):
            for statement in _statements(_steps()[number]):
                database.execute_sql(statement)
        database.execute_sql(f"PRAGMA user_version = {wanted}")
        if not found:
            _first_rows()
    return wanted - found


def _back_up(path: Path) -> None:
    part = path.with_name(f"{path.name}.part")
    for old in (path, part):
        with contextlib.suppress(FileNotFoundError):
            old.unlink()
    database.execute_sql("VACUUM INTO ?", (str(part),))
    part.rename(path)


def _statements(script: str) -> Iterator[str]:
    statement = ""
    for line in script.splitlines(keepends=True):
        statement += line
        if statement.strip() and sqlite3.complete_statement(statement):
            yield statement
            statement = ""


def _first_rows() -> None:
    insert = "INSERT INTO meta (key, value) VALUES (?, ?)"
    database.execute_sql(insert, ("installation", secrets.token_hex(16)))
    database.execute_sql(insert, ("secret", secrets.token_hex(32)))
    database.execute_sql(insert, ("made_at", now().isoformat()))
