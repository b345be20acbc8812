"""`polyjob user`: what administrators do with users, and one's own password."""

from __future__ import annotations

import sys

import click

from polyjob.cli.client import connect, exit_on_error, say
from polyjob.cli.output import ago, print_json, print_table


@click.group()
def user() -> None:
    """Manage users."""


@user.command()
@click.option("--json", "is_json", is_flag=True, help="Print JSON.")
def ls(is_json: bool) -> None:
    """List the users; for administrators."""
    with exit_on_error():
        found = list(connect().walk("/users/list", None))
    if is_json:
        print_json(found)
        return
    rows = [
        [
            row["username"],
            "administrator" if row["is_superuser"] else "user",
            "yes" if row["is_active"] else "no",
            "yes" if row["has_password"] else "no",
            ago(row["created_at"]),
            row["email"] or "",
        ]
        for row in found
    ]
    print_table(["USER", "KIND", "LET IN", "PASSWORD", "MADE", "E-MAIL"], rows)


@user.command()
@click.argument("username")
@click.option("--email")
@click.option("--admin", is_flag=True, help="Make an administrator.")
@click.option("--password/--no-password", "with_password", default=True, help="Ask for a password.")
def create(username: str, email: str | None, admin: bool, with_password: bool) -> None:
    """Make a user; for administrators. The password is asked for, or read from a pipe."""
    password = _new_password() if with_password else None
    with exit_on_error():
        body = {"username": username, "email": email, "is_admin": admin, "password": password}
        click.echo(connect().post("/users/create", body)["username"])


@user.command()
@click.argument("username")
@click.option("--yes", "-y", is_flag=True, help="Do not ask.")
def delete(username: str, yes: bool) -> None:
    """Delete a user who owns no project, with every key; for administrators."""
    if not yes and sys.stdin.isatty():
        click.confirm(f"Delete the user {username}?", abort=True, err=True)
    with exit_on_error():
        connect().send("DELETE", f"/users/delete/{username}")


@user.command()
@click.argument("username", required=False)
def password(username: str | None) -> None:
    """Set one's own password, or for administrators somebody's."""
    with exit_on_error():
        client = connect()
        own = username in (None, client.me)
        old = (
            click.prompt("Old password", hide_input=True, default="", show_default=False, err=True)
            if own and sys.stdin.isatty()
            else None
        )
        body = {"password": _new_password(), "old_password": old or None, "username": username}
        client.post("/users/password", body)
        say("The password is set.")


def _verb(name: str, path: str, line: str) -> None:
    @user.command(name, help=line)
    @click.argument("username")
    def command(username: str) -> None:
        with exit_on_error():
            connect().post(f"/{path}/{username}")


_verb("activate", "users/activate", "Let a user in again; for administrators.")
_verb("deactivate", "users/deactivate", "Lock a user out, jobs go on; for administrators.")
_verb("grant", "superusers/grant", "Make a user an administrator; for administrators.")
_verb("revoke", "superusers/revoke", "Make an administrator a user like others; for administrators.")


def _new_password() -> str:
    if not sys.stdin.isatty():
        return sys.stdin.readline().rstrip("\n")
    return str(click.prompt("New password", hide_input=True, confirmation_prompt=True, err=True))


commands = {"user": user}
