"""The commands that run the server: `serve`, `engine`, and the hidden `helper`."""

from __future__ import annotations

import logging
import sys
from pathlib import Path

import click

from polyjob.cli.data_dir import settings_or_exit
from polyjob.cli.options import data_dir_option
from polyjob.cli.output import fail
from polyjob.settings import SettingError


@click.command()
@click.option("--host", help="Address to listen on.  [default: 127.0.0.1]")
@click.option("--port", type=click.IntRange(0, 65535), help="Port to listen on; 0 picks a free one.  [default: 8000]")
@data_dir_option
@click.option("--runner", help="Runner of new jobs, instead of POLYJOB_RUNNERS.  [default: process]")
def serve(host: str | None, port: int | None, data_dir: Path | None, runner: str | None) -> None:
    """Serve the API and the pages and run the jobs, until Ctrl-C.

    Each option is also a setting: POLYJOB_HOST, POLYJOB_PORT, POLYJOB_DATA_DIR, POLYJOB_RUNNER.
    """
    from polyjob.server.serve import CannotServe, run

    settings = settings_or_exit(data_dir, host=host, port=port, runner=runner)
    try:
        sys.exit(run(settings))
    except CannotServe as error:
        fail(error)


@click.command()
@data_dir_option
def engine(data_dir: Path | None) -> None:
    """Run the jobs of a data folder without a web server, until Ctrl-C. Running jobs continue after that."""
    from peewee import DatabaseError

    from polyjob.engine import EngineRunning, run
    from polyjob.server.bootstrap import UnusableDataDir
    from polyjob.server.settings_check import check_settings
    from polyjob.server.supervisor import end_with_parent

    has_parent = end_with_parent()
    settings = settings_or_exit(data_dir)
    try:
        if not has_parent:  # a parent has checked them
            check_settings(settings)
        logging.basicConfig(level=settings.log_level.upper(), format="%(asctime)s %(levelname)s %(name)s: %(message)s")
        sys.exit(run(settings))
    except (EngineRunning, SettingError, RuntimeError) as error:
        fail(error)
    except (OSError, DatabaseError) as error:
        fail(UnusableDataDir(settings.data_dir, error))


@click.command(hidden=True)
@click.argument("pid", type=int)
def helper(pid: int) -> None:
    """Keep an engine running as long as the process PID runs."""
    from polyjob.server.supervisor import help_process

    help_process(pid, settings_or_exit())


commands = {"serve": serve, "engine": engine, "helper": helper}
