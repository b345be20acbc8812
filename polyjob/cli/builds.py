"""`polyjob builds`: list the builds of a project."""

from __future__ import annotations

import click

from polyjob.cli.connect import connect
from polyjob.cli.errors import exit_on_error
from polyjob.cli.names import project_path
from polyjob.cli.options import json_option, project_option
from polyjob.cli.output import ago, coloured, duration_of, print_json, print_table, say
from polyjob.cli.refusals import name_options


@click.command()
@project_option
@click.option("--query", help="Conditions, such as status:failed.")
@click.option("--limit", "-n", type=click.IntRange(1), default=20, show_default=True, help="Maximum number of builds.")
@json_option
def builds(project: str | None, query: str | None, limit: int, is_json: bool) -> None:
    """List the builds of a project, last created first."""
    with exit_on_error(), name_options({"query": "--query"}):
        client = connect()
        path = f"{project_path(client, project)}/builds"
        rows = list(client.items(path, limit, query=query, sort="-created_at"))
    if is_json:
        print_json(rows)
        return
    if not rows:
        say("No builds match." if query else "There are no builds.")
        return
    cells = [
        [
            str(row["id"]),
            coloured(row["last_status"]),
            row["name"] or "",
            ago(row["created_at"]),
            duration_of(row),
            "invalidated" if row["invalidated"] else "",
        ]
        for row in rows
    ]
    print_table(["ID", "STATUS", "NAME", "CREATED", "DURATION", ""], cells)


commands = {"builds": builds}
