"""For commands that work on the data folder itself, on the server's machine, beside a server or without one."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from polyjob.cli.server import fail, read
from polyjob.engine_link import engine_pid
from polyjob.settings import Settings, read_settings


@contextlib.contextmanager
def opened(data_dir: Path | None) -> Iterator[Settings]:
    """Open the database of a data folder and give the settings: those of the server that runs there, else this shell's.

    Ends with one line and exit code 1 if there is no database, if it is another version's, and if it cannot be used.
    """
    from peewee import DatabaseError

    from polyjob.db.database import close_database, open_database
    from polyjob.db.migrations import current_version, latest_version

    settings = read(data_dir)
    if not (settings.data_dir / "polyjob.db").exists():
        fail(f"there is no polyjob in {settings.data_dir}; start one with `polyjob serve`")
    settings = of_running_server(settings) or settings
    try:
        open_database(settings.data_dir)
        if current_version() != latest_version():
            fail("the database is another version's; start this one with `polyjob serve` first")
        yield settings
    except (OSError, DatabaseError) as error:
        fail(error)
    finally:
        close_database()


def of_running_server(settings: Settings) -> Settings | None:
    """Return the settings that the engine of this data folder was started with, or None if none runs.

    The engine's environment holds them, options of `polyjob serve` included. None also where this account may not read
    it.
    """
    pid = engine_pid(settings.data_dir)
    if pid is None:
        return None
    try:
        variables = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return None
    pairs = (os.fsdecode(variable).partition("=") for variable in variables)
    environment = {name: value for name, _, value in pairs if name.startswith("POLYJOB_")}
    return read_settings(environment, data_dir=settings.data_dir)
