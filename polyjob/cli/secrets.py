"""`polyjob secret`: secrets that jobs receive as variables."""

from __future__ import annotations

import copy
import sys
from urllib.parse import quote

import click

from polyjob.cli.client import Client
from polyjob.cli.connect import connect
from polyjob.cli.errors import exit_on_error
from polyjob.cli.names import project_path
from polyjob.cli.options import json_option, project_option
from polyjob.cli.output import ago, fail, print_json, print_table, say
from polyjob.cli.refusals import name_options
from polyjob.cli.run import create_project

all_option = click.option(
    "--all-projects", "for_all", is_flag=True, help="Secrets for the jobs of all projects; for administrators."
)


@click.group()
def secret() -> None:
    """Manage secrets, which jobs receive as variables: polyjob run --secret NAME.

    Nobody can read a value back, and logs of the jobs show *** for it.
    """


@secret.command("set")
@click.argument("name")
@project_option
@all_option
@json_option
def set_(name: str, project: str | None, for_all: bool, is_json: bool) -> None:
    """Store a secret, or replace its value.

    The value is the standard input without the line break at its end. On a terminal, polyjob asks for it.
    """
    value = _read_value(name)
    with exit_on_error(), name_options({"name": "NAME"}):
        client = connect()
        if not for_all:
            create_project(client, project_path(client, project), is_json)
        stored = client.send("PUT", _path(client, project, for_all, name), json={"value": value}).json()
    if is_json:
        print_json(stored)
    else:
        say(f"Stored {name}. A job receives it by `polyjob run --secret {name}`.")


@secret.command()
@project_option
@all_option
@json_option
def ls(project: str | None, for_all: bool, is_json: bool) -> None:
    """List the secrets that jobs of a project can name, without their values."""
    with exit_on_error():
        client = connect()
        rows = list(client.items(_path(client, project, for_all), None))
    if is_json:
        print_json(rows)
        return
    cells = [[row["name"], row["scope"], row["user"] or "", ago(row["updated_at"])] for row in rows]
    print_table(["NAME", "SCOPE", "SET BY", "SET"], cells)


@secret.command()
@click.argument("name")
@project_option
@all_option
def rm(name: str, project: str | None, for_all: bool) -> None:
    """Remove a secret. A job that waits and names it will fail."""
    with exit_on_error():
        client = connect()
        client.send("DELETE", _path(client, project, for_all, name))


def _read_value(name: str) -> str:
    if sys.stdin.isatty():
        return str(click.prompt(f"Value of {name}", hide_input=True, confirmation_prompt=True, err=True))
    try:
        value = sys.stdin.buffer.read().decode()
    except UnicodeDecodeError:
        fail("The value is not text in UTF-8. Encode it first, for example by base64.")
    return value.removesuffix("\n").removesuffix("\r")


def _path(client: Client, project: str | None, for_all: bool, name: str = "") -> str:
    base = "/cluster" if for_all else project_path(client, project)
    return f"{base}/secrets/{quote(name, safe='')}" if name else f"{base}/secrets"


other_name = copy.copy(ls)
other_name.hidden = True
secret.add_command(other_name, "list")
commands = {"secret": secret}
