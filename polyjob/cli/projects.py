"""`polyjob projects`: list, show, create, change, archive and delete projects."""

from __future__ import annotations

import sys
from typing import Any

import click

from polyjob.cli.connect import connect
from polyjob.cli.errors import exit_on_error
from polyjob.cli.names import project_path
from polyjob.cli.options import OptionWithOldLetter, json_option, yes_option
from polyjob.cli.output import ago, local_time, print_facts, print_json, print_table, say

description_option = click.option("--description", "-d", cls=OptionWithOldLetter, help="Text about the project.")
public_option = click.option("--public/--private", default=None, help="Whether all users can read the project.")


@click.group()
def projects() -> None:
    """List, show and change projects."""


@projects.command()
@click.option("--user", "-u", cls=OptionWithOldLetter, help="List only the projects of this user.")
@json_option
def ls(user: str | None, is_json: bool) -> None:
    """List the projects that you may read, last changed first."""
    with exit_on_error():
        rows = list(connect().items(f"/{user}" if user else "/projects", None))
    if is_json:
        print_json(rows)
        return
    cells = [
        [
            row["unique_name"],
            "public" if row["is_public"] else "private",
            ago(row["updated_at"]),
            row["description"] or "",
        ]
        for row in rows
    ]
    print_table(["PROJECT", "VISIBILITY", "CHANGED", "DESCRIPTION"], cells)


@projects.command()
@click.argument("project", required=False)
@json_option
def show(project: str | None, is_json: bool) -> None:
    """Show a project."""
    with exit_on_error():
        client = connect()
        view = client.get(project_path(client, project))
    if is_json:
        print_json(view)
        return
    print_facts(
        [
            ("project", view["unique_name"]),
            ("description", view["description"]),
            ("public", "yes" if view["is_public"] else "no"),
            ("jobs", view["num_jobs"]),
            ("builds", view["num_builds"]),
            ("upload", "yes" if view["has_code"] else None),
            ("tags", ", ".join(view["tags"] or [])),
            ("created", local_time(view["created_at"])),
        ]
    )


@projects.command()
@click.argument("name")
@description_option
@public_option
@json_option
def create(name: str, description: str | None, public: bool | None, is_json: bool) -> None:
    """Create a project."""
    with exit_on_error():
        project = connect().post("/projects", {"name": name, "description": description, "is_public": public})
    _print_name(project, is_json)


@projects.command()
@click.argument("project")
@click.option("--name", help="New name.")
@description_option
@public_option
@json_option
def update(project: str, name: str | None, description: str | None, public: bool | None, is_json: bool) -> None:
    """Change a project."""
    fields = {"name": name, "description": description, "is_public": public}
    with exit_on_error():
        client = connect()
        body = {key: value for key, value in fields.items() if value is not None}
        _print_name(client.send("PATCH", project_path(client, project), json=body).json(), is_json)


def _print_name(project: dict[str, Any], is_json: bool) -> None:
    if is_json:
        print_json(project)
    else:
        click.echo(project["unique_name"])


@projects.command()
@click.argument("project")
def archive(project: str) -> None:
    """Hide a project with its jobs and builds, and stop its jobs."""
    with exit_on_error():
        client = connect()
        client.post(f"{project_path(client, project)}/archive")


@projects.command()
@click.argument("project")
def restore(project: str) -> None:
    """Show an archived project again."""
    with exit_on_error():
        client = connect()
        client.post(f"{project_path(client, project)}/restore")


@projects.command()
@click.argument("project")
@yes_option
def delete(project: str, yes: bool) -> None:
    """Delete a project with its jobs and builds. Running jobs are stopped."""
    with exit_on_error():
        client = connect()
        path = project_path(client, project)
        view = client.get(path)
        if not yes and sys.stdin.isatty():
            subject = f"{view['unique_name']} with {view['num_jobs']} jobs, their logs and outputs"
            click.confirm(f"Delete {subject}?", abort=True, err=True)
        client.send("DELETE", path)
        say(f"{view['unique_name']} was deleted.")


commands = {"projects": projects}
