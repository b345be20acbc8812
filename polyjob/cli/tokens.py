"""`polyjob token`: a user's tokens, and the link that signs a browser in."""

from __future__ import annotations

from pathlib import Path

import click

from polyjob.cli.connect import connect, first_line
from polyjob.cli.data_dir import open_data_dir
from polyjob.cli.errors import exit_on_error
from polyjob.cli.options import OptionWithOldLetter, data_dir_option, json_option
from polyjob.cli.output import ago, fail, local_time, print_json, print_table
from polyjob.server.bootstrap_names import ADDRESS_FILE


@click.group()
def token() -> None:
    """Create, list and revoke tokens."""


@token.command()
@click.argument("name")
@click.option(
    "--scope", type=click.Choice(["read", "submit", "admin"]), default="submit", show_default=True,
    help="Permissions of the token.",
)  # fmt: skip
@click.option("--project", "-p", help="Limit the token to this project.")
@click.option("--days", type=click.FloatRange(0, min_open=True), help="Days after which the token expires.")
@json_option
def create(name: str, scope: str, project: str | None, days: float | None, is_json: bool) -> None:
    """Create a token and print it. It cannot be shown again."""
    expires_in = int(days * 86_400) or 1 if days else None
    with exit_on_error():
        body = {"name": name, "scope": scope, "project": project, "expires_in": expires_in}
        created = connect().post("/tokens", body)
    if is_json:
        print_json(created)
    else:
        click.echo(created["token"])


@token.command()
@click.option("--user", "-u", cls=OptionWithOldLetter, help="List the tokens of this user; for administrators.")
@json_option
def ls(user: str | None, is_json: bool) -> None:
    """List your tokens."""
    with exit_on_error():
        tokens = list(connect().items("/tokens", None, user=user))
    if is_json:
        print_json(tokens)
        return
    rows = [
        [
            str(row["id"]),
            row["name"],
            row["scope"],
            row["project"] or "all",
            ago(row["last_used_at"]) or "never",
            local_time(row["expires_at"]) or "never",
        ]
        for row in tokens
    ]
    print_table(["ID", "NAME", "SCOPE", "PROJECT", "LAST USED", "EXPIRES"], rows)


@token.command()
@click.argument("token_id", metavar="ID", type=int)
def revoke(token_id: int) -> None:
    """Revoke a token by its ID. It stops working at once."""
    with exit_on_error():
        connect().send("DELETE", f"/tokens/{token_id}")


@token.command()
@data_dir_option
def link(data_dir: Path | None) -> None:
    """Print a link that signs a browser in as the first user. It works once, within an hour.

    The link is created in the data folder, so only an account that can write there can create one.
    """
    from polyjob.server.bootstrap import new_sign_in_token

    with open_data_dir(data_dir) as settings:
        link_token = new_sign_in_token()
    if link_token is None:
        fail("The user `root` does not exist any more.")
    address = settings.public_url.rstrip("/") or first_line(settings.data_dir / ADDRESS_FILE)
    with exit_on_error():
        click.echo(f"{address or connect().url}/sign-in/{link_token}")


commands = {"token": token}
