"""The commands that look at jobs and act on them."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import click
import yaml

from polyjob.cli import EXIT_CODES, FAILED
from polyjob.cli.attach import last_status, submit
from polyjob.cli.client import Client, connect, exit_on_error, project_path, run_path, say
from polyjob.cli.log_follower import Follower, ending, lasted
from polyjob.cli.origins import Origins
from polyjob.cli.output import ago, coloured, local, print_facts, print_json, print_table
from polyjob.cli.run import a_file, extend, pairs_of, set_in, set_params
from polyjob.cli.streams import printable, unbuffered, write_all

as_json = click.option("--json", "is_json", is_flag=True, help="Print JSON.")
of_project = click.option("--project", "-p", help="Project, or user/project.  [default: POLYJOB_PROJECT]")


@click.command()
@of_project
@click.option("--query", "-q", help="Conditions, such as status:failed,created_at:>=2026-11-01.")
@click.option("--sort", "-s", help="Such as -created_at.")
@click.option("--limit", "-n", type=click.IntRange(1), default=20, show_default=True, help="Jobs at most.")
@click.option("--all", "-a", "everything", is_flag=True, help="All of them.")
@as_json
def ls(project: str | None, query: str | None, sort: str | None, limit: int, everything: bool, is_json: bool) -> None:
    """List the jobs of a project, last changed first."""
    with exit_on_error():
        client = connect()
        path = f"{project_path(client, project)}/jobs"
        parameters = {"query": query, "sort": sort, "cursor": "" if everything and "," not in (sort or "") else None}
        found = list(client.walk(path, None if everything else limit, **parameters))
    if is_json:
        print_json(found)
        return
    if not found:
        say("There are no jobs. Run one: polyjob run -- echo hello" if not query else "No job is like that.")
        return
    rows = [
        [
            str(job["id"]),
            coloured(job["last_status"]),
            job["name"] or "",
            ago(job["created_at"]),
            lasted(job),
            "" if job["exit_code"] is None else str(job["exit_code"]),
            job["user"],
        ]
        for job in found
    ]
    print_table(["ID", "STATUS", "NAME", "SUBMITTED", "TOOK", "CODE", "USER"], rows)


@click.command()
@click.argument("job")
@of_project
@as_json
def show(job: str, project: str | None, is_json: bool) -> None:
    """Show a job."""
    with exit_on_error():
        client = connect()
        shown = client.get(run_path(client, job, project))
    if is_json:
        print_json(shown)
        return
    end = shown["exit"] or {}
    print_facts(
        [
            ("job", shown["unique_name"]),
            ("name", shown["name"]),
            ("status", coloured(shown["last_status"])),
            ("waiting", shown["waiting"]),
            ("exit code", shown["exit_code"]),
            ("signal", end.get("signal")),
            ("reason", end.get("reason") if end.get("reason") != "exited" else None),
            ("message", end.get("message")),
            ("user", shown["user"]),
            ("submitted", local(shown["created_at"])),
            ("started", local(shown["started_at"])),
            ("finished", local(shown["finished_at"])),
            ("took", lasted(shown)),
            ("build", shown["build_job"]),
            ("original", f"{shown['original']} ({shown['cloning_strategy']})" if shown["original"] else None),
            ("node", shown["node_scheduled"]),
            ("tags", ", ".join(shown["tags"] or [])),
            ("description", shown["description"]),
            ("page", shown["urls"]["page"]),
        ]
    )
    for note in shown["notes"]:
        click.echo(click.style(printable(note["text"]), fg="yellow"))
    if shown["config"]:
        click.echo()
        click.echo(yaml.safe_dump(shown["config"], sort_keys=False, allow_unicode=True).rstrip())


@click.command()
@click.argument("job")
@of_project
@click.option("--follow", "-f", is_flag=True, help="Go on until the job is done.")
@click.option("--tail", "-n", type=click.IntRange(0), help="Only the last so many lines.")
@click.option("--build", "-b", is_flag=True, help="JOB is a build.")
def logs(job: str, project: str | None, follow: bool, tail: int | None, build: bool) -> None:
    """Print the log of a job or build, byte for byte.

    With -f, what the job waits for, the log of its build and its end show on the standard error.
    """
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    with exit_on_error():
        client = connect()
        path = run_path(client, job, project, "builds" if build else "jobs")
        if follow and tail is None and not build:
            say(ending(Follower(client, path).follow(), last_status(client, path)))
            return
        parameters = {"follow": "true" if follow else "false"} | ({} if tail is None else {"tail": str(tail)})
        with client.send("GET", f"{path}/logs", params=parameters, stream=True) as answer:
            out = unbuffered(sys.stdout)
            while data := answer.raw.read1(1 << 16):
                write_all(data, out)


@click.command()
@click.argument("job")
@of_project
@as_json
def statuses(job: str, project: str | None, is_json: bool) -> None:
    """Show what became of a job, and when."""
    with exit_on_error():
        client = connect()
        found = list(client.walk(f"{run_path(client, job, project)}/statuses", None))
    if is_json:
        print_json(found)
        return
    rows = [[local(row["created_at"]), coloured(row["status"]), row["message"] or ""] for row in found]
    print_table(["WHEN", "STATUS", "MESSAGE"], rows)


@click.command()
@click.argument("jobs", nargs=-1, required=True, metavar="JOB...")
@of_project
@click.option("--wait", "-w", "waits", is_flag=True, help="Until nothing is left of them.")
def stop(jobs: tuple[str, ...], project: str | None, waits: bool) -> None:
    """Stop jobs. Those that are done stay as they are."""
    with exit_on_error():
        client = connect()
        paths = [run_path(client, job, project) for job in jobs]
        for path in paths:
            client.post(f"{path}/stop")
        for path in paths if waits else []:
            Follower(client, path).until_done()


@click.command()
@click.argument("jobs", nargs=-1, required=True, metavar="JOB...")
@of_project
@click.option("--yes", "-y", is_flag=True, help="Do not ask.")
def delete(jobs: tuple[str, ...], project: str | None, yes: bool) -> None:
    """Delete jobs with all that they wrote; those that run are stopped first."""
    with exit_on_error():
        client = connect()
        paths = [run_path(client, job, project) for job in jobs]
        if not yes and sys.stdin.isatty():
            click.confirm(f"Delete {', '.join(jobs)} with logs and outputs?", abort=True, err=True)
        for path in paths:
            client.send("DELETE", path)


def _clone(strategy: str, line: str) -> click.Command:
    @click.command(strategy, help=line, epilog=EXIT_CODES)
    @click.argument("job")
    @of_project
    @click.option("--file", "-f", "file", type=a_file, help="Patch of the config, YAML or JSON.")
    @click.option(
        "--env", "-e", "variables", multiple=True, metavar="NAME=VALUE", help="Variable, beside the config's."
    )
    @click.option("--param", "params", multiple=True, metavar="NAME=VALUE", help="Parameter of the config.")
    @click.option("--update-code", is_flag=True, help="With the project's newest code.")
    @click.option("--detach", "-d", is_flag=True, help="Print the new job's number, and do not wait.")
    @click.option("--quiet", "-q", is_flag=True, help="Show nothing but what the job writes.")
    def command(job: str, project: str | None, detach: bool, quiet: bool, **given: Any) -> NoReturn:
        with exit_on_error(FAILED):
            client = connect()
            path = run_path(client, job, project)
            origins = Origins()
            patch = _patch(client, path, origins, **given)
            with origins.explained():
                submit(client, f"{path}/{strategy}", patch, detach, quiet)

    return command


def _patch(
    client: Client,
    path: str,
    origins: Origins,
    file: Path | None,
    variables: tuple[str, ...],
    params: tuple[str, ...],
    update_code: bool,
) -> dict[str, Any]:
    patch = origins.read(file) if file else {}
    if variables:
        pairs = pairs_of(variables, "--env")
        if not _has_variables(patch):
            config, names = client.get(path)["config"] or {}, {name for name, _ in pairs}
            before = (config.get("environment") or {}).get("env_vars") or []
            kept = [list(pair) for pair in before if pair[0] not in names]
            set_in(patch, origins, "--env", "environment", env_vars=kept)
        extend(patch, origins, "--env", "environment", "env_vars", pairs)
    if params:
        set_params(patch, origins, params)
    return ({"config": patch} if patch else {}) | ({"update_code": True} if update_code else {})


def _has_variables(patch: dict[str, Any]) -> bool:
    """Return whether a patch sets variables, which then take the place of the job's own."""
    section = patch.get("environment")
    return isinstance(section, dict) and section.get("env_vars") is not None


commands: dict[str, click.Command | Callable[..., Any]] = {
    "ls": ls,
    "show": show,
    "logs": logs,
    "statuses": statuses,
    "stop": stop,
    "delete": delete,
    "restart": _clone("restart", "Run a job's config again, in a new job with empty outputs."),
    "resume": _clone("resume", "Run a job's config again, in a new job that goes on with its outputs."),
    "copy": _clone("copy", "Run a job's config again, in a new job with a copy of its outputs."),
}
