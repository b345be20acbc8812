"""`polyjob upgrade --check`: whether this polyjob can take over a data folder, without changing anything."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import click

import polyjob
from polyjob.cli.data_dir import settings_of_server, settings_or_exit
from polyjob.cli.findings import Finding, print_findings
from polyjob.cli.options import data_dir_option, json_option
from polyjob.cli.output import fail
from polyjob.engine_link import engine_pid
from polyjob.formatting import format_size
from polyjob.settings import SettingError, Settings

_RUNNING_JOBS = (
    "SELECT runner, COUNT(*) FROM job WHERE is_managed = 1 AND status IN ('scheduled', 'building', 'running') "
    "GROUP BY runner ORDER BY runner"
)


@click.command()
@click.option("--check", is_flag=True, required=True, help="Only check, and change nothing.")
@data_dir_option
@json_option
def upgrade(check: bool, data_dir: Path | None, is_json: bool) -> None:
    """Check whether this version of polyjob can take over a data folder. Its server can run meanwhile.

    Install the new version, and run this before you restart the server. It migrates a copy of the database, and checks
    the disk, the settings and the jobs that run. Exits with 1 if the upgrade would fail.
    """
    settings = settings_or_exit(data_dir)
    if not (settings.data_dir / "polyjob.db").exists():
        fail(f"{settings.data_dir} is not a polyjob data folder; create one with `polyjob serve`")
    print_findings(list(check_upgrade(settings)), is_json)


def check_upgrade(settings: Settings) -> Iterator[Finding]:
    """Check everything that a start of this polyjob needs from a data folder and its server's settings."""
    from polyjob.db.migrations import MigrationError, latest_version, pending_migrations, stored_version

    folder = settings.data_dir
    pid = engine_pid(folder)
    server = f"a server runs, process {pid}" if pid else "no server runs"
    yield Finding("data folder", True, f"{folder}; {server}")
    yield _check_settings(settings)
    try:
        version = stored_version(folder)
    except MigrationError as error:
        yield Finding("version", False, f"{error}.")
        return
    text = f"polyjob {polyjob.__version__} with schema {latest_version()}; the database has schema {version}"
    yield Finding("version", True, text)
    if pending := pending_migrations(version):
        yield from _check_migrations(folder, pending)
    else:
        yield Finding("migrations", True, "none is pending: the next start does not change the database")
    yield from _check_jobs(folder)


def _check_settings(settings: Settings) -> Finding:
    from polyjob.server.settings_check import check_settings

    try:
        settings, origin = settings_of_server(settings)
        check_settings(settings)
    except PermissionError as error:
        return Finding("settings", False, f"{error.filename} cannot be read by this account. Use sudo.")
    except (SettingError, RuntimeError) as error:
        return Finding("settings", False, f"{error}.")
    return Finding("settings", True, f"valid; they are those of {origin}")


def _check_migrations(folder: Path, pending: list[str]) -> Iterator[Finding]:
    from polyjob.db.migrations import MigrationError, latest_version, needed_bytes, try_migrations

    needed, free = needed_bytes(folder), shutil.disk_usage(folder).free
    has_space = free >= needed
    advice = "" if has_space else "; make room"
    yield Finding("disk space", has_space, f"needs {format_size(needed)}, and {format_size(free)} are free{advice}")
    text = f"{len(pending)} {'is' if len(pending) == 1 else 'are'} pending: {', '.join(pending)}"
    if not has_space:
        yield Finding("migrations", None, f"{text}. They were not tried, for lack of space.")
        return
    began_at = time.monotonic()
    try:
        try_migrations(folder)
    except (MigrationError, OSError) as error:
        yield Finding("migrations", False, f"{text}. {str(error)[0].upper()}{str(error)[1:]}.")
        return
    yield Finding("migrations", True, f"{text}. They took {time.monotonic() - began_at:.1f} s on a copy.")
    copy = folder / f"polyjob.db.before-{latest_version():04d}"
    yield Finding("going back", None, f"the next start keeps a copy of the present database, {copy}")


def _check_jobs(folder: Path) -> Iterator[Finding]:
    """Check that this polyjob can go on with the jobs that run: it has their runners, and knows their keepers."""
    from polyjob.db.migrations import reading
    from runners.process.protocols import newer_protocols
    from runners.registry import UnusableRunner, runner_class

    with reading(folder) as connection:
        counts = connection.execute(_RUNNING_JOBS).fetchall()
    for runner, count in counts:
        jobs = f"{count} {'job runs' if count == 1 else 'jobs run'} on the runner {runner}"
        try:
            runner_class(runner)
        except (ImportError, UnusableRunner) as error:
            yield Finding("jobs", False, f"{jobs}, which this polyjob cannot use: {error}.")
        else:
            yield Finding("jobs", True, f"{jobs}, and {'goes' if count == 1 else 'go'} on during the upgrade")
    if not counts:
        yield Finding("jobs", True, "none is running")
    if newer_protocols(folder):
        text = "keepers of a newer polyjob run jobs, and this one may not understand how they end; wait for these jobs"
        yield Finding("keepers", False, text)


commands = {"upgrade": upgrade}
