"""`polyjob token`: one's keys, and the link that signs a browser in."""

from __future__ import annotations

import click

from polyjob.cli.client import connect, exit_on_error, fail
from polyjob.cli.data_dir import opened
from polyjob.cli.output import ago, local, print_json, print_table


@click.group()
def token() -> None:
    """Make, list and revoke keys."""


@token.command()
@click.argument("name")
@click.option("--scope", type=click.Choice(["read", "submit", "admin"]), default="submit", show_default=True)
@click.option("--project", "-p", help="The one project that it is good for.")
@click.option("--days", type=click.FloatRange(0, min_open=True), help="After so many days it is dead.")
@click.option("--json", "is_json", is_flag=True, help="Print JSON.")
def create(name: str, scope: str, project: str | None, days: float | None, is_json: bool) -> None:
    """Make a key and print it, this once."""
    body = {"name": name, "scope": scope, "project": project, "expires_in": int(days * 86_400) or 1 if days else None}
    with exit_on_error():
        made = connect().post("/tokens", body)
    if is_json:
        print_json(made)
    else:
        click.echo(made["token"])


@token.command()
@click.option("--user", "-u", help="Whose; for administrators.")
@click.option("--json", "is_json", is_flag=True, help="Print JSON.")
def ls(user: str | None, is_json: bool) -> None:
    """List one's keys."""
    with exit_on_error():
        found = list(connect().walk("/tokens", None, user=user))
    if is_json:
        print_json(found)
        return
    rows = [
        [
            str(row["id"]),
            row["name"],
            row["scope"],
            row["project"] or "all",
            ago(row["last_used_at"]) or "never",
            local(row["expires_at"]) or "never",
        ]
        for row in found
    ]
    print_table(["ID", "NAME", "SCOPE", "PROJECT", "USED", "EXPIRES"], rows)


@token.command()
@click.argument("number", type=int)
def revoke(number: int) -> None:
    """Revoke a key by its ID; it is dead at once."""
    with exit_on_error():
        connect().send("DELETE", f"/tokens/{number}")


@token.command()
def link() -> None:
    """Print a link that signs a browser in as the first user, once, within the hour.

    It is made in the data folder, so only who may write there makes one.
    """
    from polyjob.cli.client import connect as find
    from polyjob.server.bootstrap import new_sign_in_key

    with opened(None) as settings:
        key = new_sign_in_key()
    if key is None:
        fail("There is no user `root` any more.")
    with exit_on_error():
        click.echo(f"{settings.public_url.rstrip('/') or find().url}/sign-in/{key}")


commands = {"token": token}
