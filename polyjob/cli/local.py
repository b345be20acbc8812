"""For commands that work on the data folder itself, on the server's machine, beside a server or without one."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from polyjob.cli.server import fail, read
from polyjob.settings import Settings


@contextlib.contextmanager
def opened(data_dir: Path | None) -> Iterator[Settings]:
    """The settings, with the database of their data folder open. Ends with one line and exit code 1 where there is
    none, where it is another version's, and where it cannot be used."""
    from peewee import DatabaseError

    from polyjob.database import close_database, open_database
    from polyjob.migrations import current, latest

    settings = read(data_dir=data_dir.expanduser().absolute() if data_dir else None)
    if not (settings.data_dir / "polyjob.db").exists():
        fail(f"there is no polyjob in {settings.data_dir}; start one with `polyjob serve`")
    try:
        open_database(settings.data_dir)
        if current() != latest():
            fail("the database is another version's; start this one with `polyjob serve` first")
        yield settings
    except (OSError, DatabaseError) as error:
        fail(error)
    finally:
        close_database()
