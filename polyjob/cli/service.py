"""`polyjob install` and `polyjob uninstall`: polyjob as a service of the machine."""

from __future__ import annotations

import subprocess
import sys
import time

import click

from polyjob.cli.output import fail, say

SIGN_IN_SECONDS = 30.0
"""Time for which `install` waits for the new server."""

_systemd_option = click.option("--systemd", is_flag=True, required=True, help="Use systemd.")


@click.command()
@_systemd_option
@click.option("--dry-run", is_flag=True, help="Print the files, and change nothing.")
@click.option("--no-start", is_flag=True, help="Do not start or restart the server now; it starts with the machine.")
def install(systemd: bool, dry_run: bool, no_start: bool) -> None:
    """Run polyjob as a service that starts with the machine. Needs root.

    The service has an account of its own, keeps its data in /var/lib/polyjob, and reads settings from
    /etc/default/polyjob. Run the command again after an upgrade: the server restarts, and running jobs continue.
    """
    from polyjob.server.systemd import CannotInstall, Layout, environment_text, unit_text
    from polyjob.server.systemd import install as install_service

    layout = Layout()
    if dry_run:
        for path, text in ((layout.unit, unit_text(layout)), (layout.environment, environment_text())):
            click.echo(f"== {path}\n{text}")
        return
    try:
        install_service(layout, click.echo, start=not no_start)
    except (CannotInstall, OSError, subprocess.CalledProcessError) as error:
        fail(error)
    if not no_start:
        _print_sign_in_link(str(layout.data_dir))


def _print_sign_in_link(data_dir: str) -> None:
    """Print a link that signs in, as soon as the server runs."""
    from polyjob.server.systemd import ACCOUNT

    command = [sys.executable, "-P", "-m", "polyjob", "token", "link", "--data-dir", data_dir]
    deadline = time.monotonic() + SIGN_IN_SECONDS
    while time.monotonic() < deadline:
        # As the service's account, so that no file of the data folder belongs to root.
        done = subprocess.run(["runuser", "-u", ACCOUNT, "--", *command], capture_output=True, text=True, check=False)
        if done.returncode == 0:
            click.echo(f"Sign in, once, within an hour: {done.stdout.strip()}")
            return
        time.sleep(1)
    say("polyjob: the server does not answer yet; see `systemctl status polyjob`.")


@click.command()
@_systemd_option
def uninstall(systemd: bool) -> None:
    """Stop the service and remove it. Running jobs continue; data and settings stay. Needs root."""
    from polyjob.server.systemd import CannotInstall, Layout
    from polyjob.server.systemd import uninstall as uninstall_service

    try:
        uninstall_service(Layout(), click.echo)
    except (CannotInstall, OSError, subprocess.CalledProcessError) as error:
        fail(error)


commands = {"install": install, "uninstall": uninstall}
