"""The data folder, for commands that work on it directly: on the server's machine, with or without a running server."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from polyjob.cli.output import fail
from polyjob.engine_link import engine_pid
from polyjob.setting_values import absolute_path
from polyjob.settings import SettingError, Settings, read_settings


def settings_or_exit(data_dir: Path | None = None, **overrides: Any) -> Settings:
    """Return the settings. An invalid one, or an unusable `--data-dir`, ends the command with exit code 1."""
    try:
        path = absolute_path(data_dir) if data_dir else None
    except ValueError as error:
        fail(f"--data-dir: {error}")
    try:
        return read_settings(os.environ, data_dir=path, **overrides)
    except SettingError as error:
        fail(error)


@contextlib.contextmanager
def open_data_dir(data_dir: Path | None) -> Iterator[Settings]:
    """Open the database of a data folder inside the block, and return the settings.

    These are the settings of the folder's server, or else those of this shell; see `settings_of_server`. Ends the
    command with exit code 1 if the database is missing, unusable, or of another version.
    """
    from peewee import DatabaseError

    from polyjob.db.database import close_database, open_database
    from polyjob.db.migrations import current_version, latest_version

    settings = settings_or_exit(data_dir)
    if not (settings.data_dir / "polyjob.db").exists():
        fail(f"{settings.data_dir} is not a polyjob data folder; create one with `polyjob serve`")
    try:
        settings, _ = settings_of_server(settings)
    except SettingError as error:
        fail(error)
    except PermissionError:  # what depends on the settings checks it itself
        pass
    try:
        open_database(settings.data_dir)
        if current_version() != latest_version():
            fail("the database has the schema of another version; start this version with `polyjob serve` first")
        yield settings
    except (OSError, DatabaseError) as error:
        fail(error)
    finally:
        close_database()


def settings_of_server(settings: Settings) -> tuple[Settings, str]:
    """Return the settings of the server of this data folder, and where they come from, for people.

    These are those of the server that runs there, or else those of the service that is installed for the folder, or
    else the given ones, of this shell. Raises SettingError, and PermissionError if only root can read the service's.
    """
    from polyjob.server.systemd import Layout, service_environment

    running = settings_of_running_server(settings)
    if running is not None:
        return running, "the running server"
    layout = Layout()
    try:
        environment = service_environment(layout)
    except PermissionError:
        if settings.data_dir == layout.data_dir:
            raise
        environment = None
    if environment is None or Path(environment.get("POLYJOB_DATA_DIR", "")) != settings.data_dir:
        return settings, "this shell"
    origin = ", ".join(map(str, [layout.environment, *layout.drop_ins()]))
    return read_settings(environment, data_dir=settings.data_dir), f"the service, in {origin}"


def settings_of_running_server(settings: Settings) -> Settings | None:
    """Return the settings that the engine of this data folder was started with, including options of `polyjob serve`.

    They are read from the environment of the engine's process. None if no engine runs, or if this account cannot read
    its environment.
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
