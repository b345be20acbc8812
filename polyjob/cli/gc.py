"""`polyjob gc`: what may go, removed at once. The server does the same every hour."""

from __future__ import annotations

from pathlib import Path

import click

from polyjob.cli.data_dir import opened
from polyjob.formatting import format_size


@click.command()
@click.option("--data-dir", type=click.Path(file_okay=False, path_type=Path), help="Folder that holds everything.")
@click.option("--dry-run", "-n", is_flag=True, help="Remove nothing; say what would go.")
def gc(data_dir: Path | None, dry_run: bool) -> None:
    """Remove images and virtualenvs of builds, and log and outputs of old jobs, as far as POLYJOB_CACHE_LIMIT,
    POLYJOB_KEEP_DAYS and POLYJOB_KEEP_GB say. Nothing that is in use goes; jobs stay listed. What was archived more
    than POLYJOB_ARCHIVE_DAYS ago is deleted.

    The settings are those of the running server. Where none runs, they are those of this shell.
    """
    import runners
    from polyjob.db.models import Build, Meta
    from polyjob.engine.gc import find
    from polyjob.services.specs import runner_settings
    from polyjob.storage.store import Store
    from runners.base import RunnerError

    with opened(data_dir) as settings:
        told = runner_settings(settings, Meta.get_by_id("installation").value)
        names = {row.runner for row in Build.select(Build.runner).distinct()}
        loaded = {name: runners.load(name, told, lambda: None) for name in sorted(names)}
        total = failed = 0
        for garbage in find(settings, Store(settings.data_dir), loaded):
            try:
                if not dry_run:
                    garbage.remove()
            except (RunnerError, OSError) as error:
                click.echo(f"polyjob: {garbage.what} {garbage.name} could not be removed: {error}", err=True)
                failed += 1
                continue
            total += garbage.size
            click.echo(f"{format_size(garbage.size):>10}  {garbage.what} {garbage.name}: {garbage.why}")
        click.echo(f"{format_size(total)} {'would be' if dry_run else 'were'} freed.")
    if failed:
        raise SystemExit(1)


commands = {"gc": gc}
