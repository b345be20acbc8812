"""`polyjob gc`: remove unused build artifacts and the files of old jobs now. The server does the same every hour."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from polyjob.cli.data_dir import open_data_dir, settings_of_server
from polyjob.cli.options import OptionWithOldLetter, data_dir_option, json_option
from polyjob.cli.output import fail, print_json, say
from polyjob.formatting import format_size
from polyjob.settings import Settings


@click.command()
@data_dir_option
@click.option("--dry-run", "-n", cls=OptionWithOldLetter, is_flag=True, help="List what would be removed.")
@json_option
def gc(data_dir: Path | None, dry_run: bool, is_json: bool) -> None:
    """Remove unused build artifacts, and logs and outputs of old jobs, now.

    The limits are POLYJOB_CACHE_LIMIT, POLYJOB_KEEP_DAYS and POLYJOB_KEEP_GB. Nothing that is in use is removed, and
    jobs stay in the lists. Only jobs that ended more than POLYJOB_DELETE_DAYS ago, and jobs, builds and projects that
    were archived more than POLYJOB_ARCHIVE_DAYS ago, are deleted.

    The settings are those of the server: of the running one, or of the installed service. For any other data folder,
    they are those of this shell. A message says which.
    """
    import runners
    from polyjob.db.models import Build, Meta
    from polyjob.engine.gc import find_garbage
    from polyjob.services.specs import runner_settings
    from polyjob.storage.store import Store
    from runners.base import RunnerError
    from runners.registry import UnusableRunner

    with open_data_dir(data_dir) as settings:
        say(f"The limits are those of {_origin(settings)}.")
        installation = Meta.get_by_id("installation").value
        loaded = {}
        rows: list[dict[str, Any]] = []
        failures = 0
        for name in sorted({row.runner for row in Build.select(Build.runner).distinct()}):
            try:
                loaded[name] = runners.load(name, runner_settings(settings, installation, name), lambda: None)
            except (ImportError, UnusableRunner) as error:
                say(f"polyjob: builds of the {name} runner are left out: {error}")
        for garbage in find_garbage(settings, Store(settings.data_dir), loaded):
            try:
                if not dry_run:
                    garbage.remove()
            except (RunnerError, OSError) as error:
                say(f"polyjob: {garbage.kind} {garbage.name} could not be removed: {error}")
                failures += 1
                continue
            rows.append({name: getattr(garbage, name) for name in ("kind", "name", "size", "reason")})
            if not is_json:
                click.echo(f"{format_size(garbage.size):>10}  {garbage.kind} {garbage.name}: {garbage.reason}")
    if is_json:
        print_json(rows)
    else:
        total = sum(row["size"] for row in rows)
        click.echo(f"{format_size(total)} {'would be' if dry_run else 'were'} freed.")
    if failures:
        raise SystemExit(1)


def _origin(settings: Settings) -> str:
    """Return where the settings of the data folder's server come from. Ends the command if they cannot be read."""
    try:
        return settings_of_server(settings)[1]
    except PermissionError as error:
        fail(f"{error.filename} has the limits of this data folder, and this account cannot read it. Use sudo.")


commands = {"gc": gc}
