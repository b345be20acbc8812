"""`polyjob backup` and `polyjob restore`: save a data folder in one file, and make one from it."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import click

from polyjob.cli.data_dir import open_data_dir, settings_or_exit
from polyjob.cli.options import data_dir_option
from polyjob.cli.output import fail, local_time, say
from polyjob.formatting import format_size


@click.command()
@click.argument("file", type=click.Path(dir_okay=False, allow_dash=True, path_type=Path))
@data_dir_option
def backup(file: Path, data_dir: Path | None) -> None:
    """Save the database, logs, outputs and uploads in FILE, a tar; `-` is the standard output.

    The server can run meanwhile. FILE has all tokens, so only you can read it. The key of secrets is not in it.
    """
    from polyjob.services.backups import write_backup
    from polyjob.storage.secret_box import KEY_FILE

    is_stdout = str(file) == "-"
    if is_stdout and sys.stdout.isatty():
        fail("The backup is binary. Redirect the standard output, or name a file.")
    with open_data_dir(data_dir) as settings, _opened_for_writing(file, is_stdout) as out:
        contents = write_backup(settings.data_dir, out)
        key = settings.data_dir / KEY_FILE
    say(f"Saved {contents.files} files, {format_size(contents.bytes)}.")
    if key.exists():
        say(f"The key of secrets is not among them. Keep a copy of it elsewhere: {key}")


@contextlib.contextmanager
def _opened_for_writing(file: Path, is_stdout: bool) -> Iterator[IO[bytes]]:
    from polyjob.storage.durable import durable_file

    if is_stdout:
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()
        return
    with durable_file(file.absolute(), "backup") as out:
        yield out


@click.command()
@click.argument("file", type=click.Path(allow_dash=True, path_type=Path))
@data_dir_option
def restore(file: Path, data_dir: Path | None) -> None:
    """Make a data folder from FILE, which `polyjob backup` has saved; `-` is the standard input.

    The data folder must be absent or empty. Jobs that ran at the time of the backup fail with reason `lost`. Queued
    jobs run once a server starts, so stop the old server first: it would run them, too.
    """
    from peewee import DatabaseError

    from polyjob.services.backups import CannotRestore, restore_backup
    from polyjob.storage.backup_tar import BadBackup
    from polyjob.storage.secret_box import KEY_FILE

    if str(file) != "-" and not file.exists():
        hint = f" To show an archived job again: polyjob unarchive {file}" if str(file).isdecimal() else ""
        fail(f"There is no file {file}.{hint}")
    settings = settings_or_exit(data_dir)
    try:
        with contextlib.ExitStack() as stack:
            source = sys.stdin.buffer if str(file) == "-" else stack.enter_context(file.open("rb"))
            restored = restore_backup(source, settings.data_dir)
    except (CannotRestore, BadBackup, DatabaseError, OSError) as error:
        fail(error)
    click.echo(
        f"Restored {settings.data_dir} as of {local_time(restored.created_at)}:"
        f" {restored.contents.files} files, {format_size(restored.contents.bytes)}."
    )
    for count, fate in (
        (restored.lost_jobs, "ran at that time and will fail with reason `lost`"),
        (restored.queued_jobs, "will run once you start the server"),
    ):
        if count:
            click.echo(f"{count} {'job' if count == 1 else 'jobs'} {fate}.")
    if restored.secrets:
        key = settings.data_dir / KEY_FILE
        click.echo(f"To use the secrets, copy `{KEY_FILE}` of the old server to {key}, or set them again.")


commands = {"backup": backup, "restore": restore}
