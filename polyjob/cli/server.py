"""The commands that are the server: serve, engine."""

from __future__ import annotations

import logging
import os
import sys
from pathlib import Path
from typing import Any, NoReturn

import click

from polyjob.settings import SettingError, Settings, absolute_path, read_settings


def fail(error: object) -> NoReturn:
    """One line on the terminal, exit code 1."""
    click.echo(f"polyjob: {error}", err=True)
    sys.exit(1)


def read(data_dir: Path | None = None, **overrides: Any) -> Settings:
    """Return the settings. A wrong one, or an unusable `--data-dir`, ends the command with one line and exit code 1."""
    try:
        folder = absolute_path(data_dir) if data_dir else None
    except ValueError as error:
        fail(f"--data-dir: {error}")
    try:
        return read_settings(os.environ, data_dir=folder, **overrides)
    except SettingError as error:
        fail(error)


@click.command()
@click.option("--host", help="Address to listen on.  [default: 127.0.0.1]")
@click.option("--port", type=click.IntRange(0, 65535), help="Port to listen on; 0 takes a free one.  [default: 8000]")
@click.option("--data-dir", type=click.Path(file_okay=False, path_type=Path), help="Folder that holds everything.")
@click.option("--runner", help="Runner of new jobs.  [default: process]")
def serve(host: str | None, port: int | None, data_dir: Path | None, runner: str | None) -> None:
    """Serve the API and the pages and run the jobs, until Ctrl-C.

    Each option is also a setting: POLYJOB_HOST, POLYJOB_PORT, POLYJOB_DATA_DIR, POLYJOB_RUNNER.
    """
    from polyjob.server.serve import CannotServe, run

    settings = read(data_dir, host=host, port=port, runner=runner)
    try:
        sys.exit(run(settings))
    except CannotServe as error:
        fail(error)


@click.command()
@click.option("--data-dir", type=click.Path(file_okay=False, path_type=Path), help="Folder that holds everything.")
def engine(data_dir: Path | None) -> None:
    """Run the jobs of a data folder, without a web server, until Ctrl-C. The jobs themselves go on."""
    from peewee import DatabaseError

    from polyjob.engine import EngineRunning, run
    from polyjob.server.bootstrap import UnusableFolder, check
    from polyjob.server.supervisor import end_with_parent

    end_with_parent()
    settings = read(data_dir)
    try:
        check(settings)
        logging.basicConfig(level=settings.log_level.upper(), format="%(asctime)s %(levelname)s %(name)s: %(message)s")
        sys.exit(run(settings))
    except (EngineRunning, SettingError, RuntimeError) as error:
        fail(error)
    except (OSError, DatabaseError) as error:
        fail(UnusableFolder(settings.data_dir, error))


@click.command(hidden=True)
@click.argument("pid", type=int)
def helper(pid: int) -> None:
    """Keep an engine alive beside the process PID."""
    from polyjob.server.supervisor import help_process

    help_process(pid, read())


commands = {"serve": serve, "engine": engine, "helper": helper}
