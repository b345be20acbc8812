"""`polyjob members`: the users who may read, use or manage a project."""

from __future__ import annotations

from urllib.parse import quote

import click

from polyjob.cli.connect import connect
from polyjob.cli.errors import exit_on_error
from polyjob.cli.names import project_path
from polyjob.cli.options import json_option, project_option
from polyjob.cli.output import ago, print_json, print_table, say

ROLES = ("read", "submit", "manage")


@click.group()
def members() -> None:
    """Share a project with other users.

    `read`: see its jobs. `submit`: the same, and submit, stop and change jobs. `manage`: everything that its owner may
    do.
    """


@members.command()
@project_option
@json_option
def ls(project: str | None, is_json: bool) -> None:
    """List the members of a project. Its owner is not among them."""
    with exit_on_error():
        client = connect()
        rows = list(client.items(f"{project_path(client, project)}/members", None))
    if is_json:
        print_json(rows)
        return
    print_table(["USER", "ROLE", "SINCE"], [[row["username"], row["role"], ago(row["created_at"])] for row in rows])


@members.command()
@click.argument("user")
@click.option("--role", type=click.Choice(ROLES), default="submit", show_default=True, help="What the user may do.")
@project_option
@json_option
def add(user: str, role: str, project: str | None, is_json: bool) -> None:
    """Add a user to a project, or change the role of a member."""
    with exit_on_error():
        client = connect()
        path = project_path(client, project)
        member = client.post(f"{path}/members", {"username": user, "role": role})
    if is_json:
        print_json(member)
    else:
        say(f"{user} has the role {role} in {path[1:]}.")


@members.command()
@click.argument("user")
@project_option
def rm(user: str, project: str | None) -> None:
    """Remove a member from a project. Their jobs go on."""
    with exit_on_error():
        client = connect()
        client.send("DELETE", f"{project_path(client, project)}/members/{quote(user, safe='')}")


commands = {"members": members}
