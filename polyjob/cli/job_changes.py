"""Commands that change how jobs are shown: archive, bookmark, tag, rename; and `polyjob open`."""

from __future__ import annotations

import os
import sys

import click

from polyjob.cli.connect import connect
from polyjob.cli.errors import exit_on_error
from polyjob.cli.names import run_path
from polyjob.cli.options import job_argument, jobs_argument, project_option
from polyjob.cli.refusals import name_options


def _for_each_job(jobs: tuple[str, ...], project: str | None, action: str, method: str = "POST") -> None:
    """Send one request for each job. All jobs are looked up before the first one changes."""
    with exit_on_error():
        client = connect()
        for path in [run_path(client, job, project) for job in jobs]:
            client.send(method, f"{path}/{action}")


@click.command()
@jobs_argument
@project_option
def archive(jobs: tuple[str, ...], project: str | None) -> None:
    """Hide jobs from lists. Running jobs are stopped."""
    _for_each_job(jobs, project, "archive")


@click.command()
@jobs_argument
@project_option
def unarchive(jobs: tuple[str, ...], project: str | None) -> None:
    """Show archived jobs in lists again."""
    _for_each_job(jobs, project, "restore")


@click.command()
@jobs_argument
@project_option
@click.option("--remove", is_flag=True, help="Remove the bookmarks.")
def bookmark(jobs: tuple[str, ...], project: str | None, remove: bool) -> None:
    """Bookmark jobs."""
    if remove:
        _for_each_job(jobs, project, "unbookmark", "DELETE")
    else:
        _for_each_job(jobs, project, "bookmark")


@click.command()
@job_argument
@click.argument("tags", nargs=-1, required=True, metavar="TAG...")
@project_option
@click.option("--remove", is_flag=True, help="Remove the tags.")
def tag(job: str, tags: tuple[str, ...], project: str | None, remove: bool) -> None:
    """Add tags to a job."""
    with exit_on_error(), name_options({"tags": "TAG"}):
        client = connect()
        path = run_path(client, job, project)
        if remove:
            remaining = [each for each in client.get(path)["tags"] or [] if each not in tags]
            client.send("PATCH", path, json={"tags": remaining})
        else:
            client.send("PATCH", path, json={"tags": list(tags), "merge": True})


@click.command()
@job_argument
@click.argument("name")
@project_option
def rename(job: str, name: str, project: str | None) -> None:
    """Change the name of a job."""
    with exit_on_error(), name_options({"name": "NAME"}):
        client = connect()
        client.send("PATCH", run_path(client, job, project), json={"name": name})


@click.command("open")
@click.argument("job", required=False)
@project_option
def open_page(job: str | None, project: str | None) -> None:
    """Print the address of the page of JOB, or of the server; on a graphical desktop, open it in the browser."""
    with exit_on_error():
        client = connect()
        address = client.get(run_path(client, job, project))["urls"]["page"] if job else client.url
    click.echo(address)
    has_desktop = sys.platform == "darwin" or os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
    if has_desktop and sys.stdout.isatty():
        click.launch(address)


commands = {
    "archive": archive,
    "unarchive": unarchive,
    "bookmark": bookmark,
    "tag": tag,
    "rename": rename,
    "open": open_page,
}
