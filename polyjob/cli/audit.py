"""`polyjob audit`: the changes on the server, or those of one job."""

from __future__ import annotations

import click

from polyjob.cli.connect import connect
from polyjob.cli.errors import exit_on_error
from polyjob.cli.names import run_path
from polyjob.cli.options import json_option, project_option
from polyjob.cli.output import local_time, print_json, print_table, say


@click.command()
@click.argument("job", required=False)
@project_option
@click.option("--limit", "-n", type=click.IntRange(1), default=20, show_default=True, help="Maximum number of changes.")
@json_option
def audit(job: str | None, project: str | None, limit: int, is_json: bool) -> None:
    """Show who changed JOB, last change first. Without JOB, show all changes on the server, for administrators."""
    with exit_on_error():
        client = connect()
        path = f"{run_path(client, job, project)}/audit" if job else "/audit"
        entries = list(client.items(path, limit))
    if is_json:
        print_json(entries)
        return
    if not entries:
        say("There are no changes.")
        return
    rows = [
        [
            local_time(entry["created_at"]),
            entry["user"],
            entry["token"] or "",
            entry["address"] or "",
            entry["action"],
            entry["target"],
        ]
        for entry in entries
    ]
    print_table(["WHEN", "USER", "TOKEN", "ADDRESS", "ACTION", "TARGET"], rows)


commands = {"audit": audit}
