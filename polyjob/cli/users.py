"""`polyjob user`: manage users, and change a password."""

from __future__ import annotations

import sys
from urllib.parse import quote

import click

from polyjob.cli.client import Client
from polyjob.cli.connect import connect
from polyjob.cli.errors import exit_on_error
from polyjob.cli.members import ROLES
from polyjob.cli.names import project_path
from polyjob.cli.options import json_option, yes_option
from polyjob.cli.output import ago, local_time, print_json, print_table, say

_project_of_invites = click.option(
    "--project", "-p", metavar="PROJECT", help="A project that you manage.  [default: all, for administrators]"
)


@click.group()
def user() -> None:
    """Manage users."""


@user.command()
@json_option
def ls(is_json: bool) -> None:
    """List the users; for administrators."""
    with exit_on_error():
        users = list(connect().items("/users/list", None))
    if is_json:
        print_json(users)
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
        for row in users
    ]
    print_table(["USER", "ROLE", "ACTIVE", "PASSWORD", "CREATED", "E-MAIL"], rows)


@user.command()
@click.argument("username")
@click.option("--email", help="E-mail address of the user.")
@click.option("--admin", is_flag=True, help="Create an administrator.")
@click.option("--password/--no-password", "with_password", default=True, help="Ask for a password.")
@json_option
def create(username: str, email: str | None, admin: bool, with_password: bool, is_json: bool) -> None:
    """Create a user; for administrators. The command asks for the password, or reads it from a pipe."""
    password = _read_new_password() if with_password else None
    with exit_on_error():
        body = {"username": username, "email": email, "is_admin": admin, "password": password}
        created = connect().post("/users/create", body)
    if is_json:
        print_json(created)
    else:
        click.echo(created["username"])


@user.command()
@click.option("--project", "-p", metavar="PROJECT", help="Also give the new user a role in this project.")
@click.option("--role", type=click.Choice(ROLES), help="The role.  [default: submit]")
@json_option
def invite(project: str | None, role: str | None, is_json: bool) -> None:
    """Print a link with which a person chooses a username and a password; for administrators.

    It works once, within three days.
    """
    if role and not project:
        raise click.UsageError("`--role` needs `--project`.")
    with exit_on_error():
        body = {"project": project, "role": (role or "submit") if project else None}
        created = connect().post("/users/invite", body)
    if is_json:
        print_json(created)
    else:
        click.echo(created["url"])
        end = local_time(created["expires_at"])
        say(f"The link works once, until {end}. `polyjob user withdraw {created['id']}` ends it earlier.")


@user.command()
@_project_of_invites
@json_option
def invites(project: str | None, is_json: bool) -> None:
    """List the invite links that can still be used: all of them for administrators, or those of a project."""
    with exit_on_error():
        client = connect()
        links = list(client.items(_path_of_invites(client, project), None))
    if is_json:
        print_json(links)
        return
    rows = [
        [link["id"], link["project"] or "", link["role"] or "", link["created_by"], local_time(link["expires_at"])]
        for link in links
    ]
    print_table(["ID", "PROJECT", "ROLE", "CREATED BY", "EXPIRES"], rows)


@user.command()
@click.argument("invite_id", metavar="ID")
@_project_of_invites
def withdraw(invite_id: str, project: str | None) -> None:
    """Withdraw an invite link; `invites` lists the IDs."""
    with exit_on_error():
        client = connect()
        client.send("DELETE", f"{_path_of_invites(client, project)}/{quote(invite_id, safe='')}")


def _path_of_invites(client: Client, project: str | None) -> str:
    return f"{project_path(client, project)}/invites" if project else "/users/invites"


@user.command()
@click.argument("username")
@yes_option
def delete(username: str, yes: bool) -> None:
    """Delete a user who owns no project, with all tokens; for administrators."""
    if not yes and sys.stdin.isatty():
        click.confirm(f"Delete the user {username}?", abort=True, err=True)
    with exit_on_error():
        connect().send("DELETE", f"/users/delete/{username}")


@user.command()
@click.argument("username", required=False)
def password(username: str | None) -> None:
    """Change your password; administrators can change that of any user."""
    with exit_on_error():
        client = connect()
        old_password = ""
        if username in (None, client.me) and sys.stdin.isatty():
            old_password = click.prompt("Old password", hide_input=True, default="", show_default=False, err=True)
        body = {"password": _read_new_password(), "old_password": old_password or None, "username": username}
        client.post("/users/password", body)
        say("The password was changed.")


def _add_action(name: str, path: str, help: str) -> None:
    @user.command(name, help=help)
    @click.argument("username")
    def command(username: str) -> None:
        with exit_on_error():
            connect().post(f"/{path}/{username}")


_add_action("activate", "users/activate", "Let a user sign in again; for administrators.")
_add_action("deactivate", "users/deactivate", "Lock a user out; running jobs continue. For administrators.")
_add_action("grant", "superusers/grant", "Make a user an administrator; for administrators.")
_add_action("revoke", "superusers/revoke", "Make an administrator an ordinary user; for administrators.")


def _read_new_password() -> str:
    if not sys.stdin.isatty():
        return sys.stdin.readline().rstrip("\n")
    return str(click.prompt("New password", hide_input=True, confirmation_prompt=True, err=True))


commands = {"user": user}
