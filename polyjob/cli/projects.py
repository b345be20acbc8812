"""`polyjob projects`: list, show, make, change, archive, delete."""

from __future__ import annotations

import sys

import click

from polyjob.cli.client import connect, exit_on_error, project_path, say
from polyjob.cli.output import ago, local, print_facts, print_json, print_table

as_json = click.option("--json", "is_json", is_flag=True, help="Print JSON.")


@click.group()
def projects() -> None:
    """List, show and change projects."""


@projects.command()
@click.option("--user", "-u", help="Whose; one's own if not given.")
@as_json
def ls(user: str | None, is_json: bool) -> None:
    """List projects, last changed first."""
    with exit_on_error():
        client = connect()
        found = list(client.walk(f"/{user or client.me}", None))
    if is_json:
        print_json(found)
        return
    rows = [
        [
            row["unique_name"],
            "public" if row["is_public"] else "private",
            ago(row["updated_at"]),
            row["description"] or "",
        ]
        for row in found
    ]
    print_table(["PROJECT", "READ BY", "CHANGED", "DESCRIPTION"], rows)


@projects.command()
@click.argument("project", required=False)
@as_json
def show(project: str | None, is_json: bool) -> None:
    """Show a project."""
    with exit_on_error():
        client = connect()
        shown = client.get(project_path(client, project))
    if is_json:
        print_json(shown)
        return
    print_facts(
        [
            ("project", shown["unique_name"]),
            ("description", shown["description"]),
            ("public", "yes" if shown["is_public"] else "no"),
            ("jobs", shown["num_jobs"]),
            ("builds", shown["num_builds"]),
            ("code", "uploaded" if shown["has_code"] else None),
            ("tags", ", ".join(shown["tags"] or [])),
            ("made", local(shown["created_at"])),
        ]
    )


@projects.command()
@click.argument("name")
@click.option("--description", "-d")
@click.option("--public/--private", default=None, help="Whether every user reads it.")
def create(name: str, description: str | None, public: bool | None) -> None:
    """Make a project."""
    with exit_on_error():
        made = connect().post("/projects", {"name": name, "description": description, "is_public": public})
    click.echo(made["unique_name"])


@projects.command()
@click.argument("project")
@click.option("--name", help="A new name.")
@click.option("--description", "-d")
@click.option("--public/--private", default=None, help="Whether every user reads it.")
def update(project: str, name: str | None, description: str | None, public: bool | None) -> None:
    """Change a project."""
    given = {"name": name, "description": description, "is_public": public}
    with exit_on_error():
        client = connect()
        body = {key: value for key, value in given.items() if value is not None}
        click.echo(client.send("PATCH", project_path(client, project), json=body).json()["unique_name"])


@projects.command()
@click.argument("project")
def archive(project: str) -> None:
    """Hide a project with all that belongs to it, and stop its jobs."""
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
@click.option("--yes", "-y", is_flag=True, help="Do not ask.")
def delete(project: str, yes: bool) -> None:
    """Delete a project with all that belongs to it; its jobs are stopped."""
    with exit_on_error():
        client = connect()
        path = project_path(client, project)
        shown = client.get(path)
        if not yes and sys.stdin.isatty():
            what = f"{shown['unique_name']} with {shown['num_jobs']} jobs, their logs and outputs"
            click.confirm(f"Delete {what}?", abort=True, err=True)
        client.send("DELETE", path)
        say(f"{shown['unique_name']} is deleted.")


commands = {"projects": projects}
