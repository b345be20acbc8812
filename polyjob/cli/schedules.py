"""`polyjob schedule`: schedules, which run a job at certain times."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

import click

from polyjob.cli.attach import submit
from polyjob.cli.client import Client
from polyjob.cli.connect import connect
from polyjob.cli.errors import ServerError, exit_on_error
from polyjob.cli.names import project_path
from polyjob.cli.options import json_option, project_option, quiet_option
from polyjob.cli.origins import Origins
from polyjob.cli.output import fit_columns, local_time, print_facts, print_json, print_table, say, terminal_width
from polyjob.cli.run import job_options, prepare_job

LOCAL_TIME = Path("/etc/localtime")
_FIELD_OPTIONS = {
    "cron": "CRON", "at": "--at", "timezone": "--tz", "missed": "--missed", "overlap": "--overlap",
}  # fmt: skip
"""Field of a schedule → the argument or option that sets it."""

schedule_argument = click.argument("schedule_id", metavar="ID", type=int)


@click.group()
def schedule() -> None:
    """Run jobs at certain times: every night, or once."""


class _Add(click.Command):
    """A command whose first word is CRON, before its options. The command of the job is the last argument."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if args and not args[0].startswith("-"):
            args = ["--cron", *args]
        return super().parse_args(ctx, args)

    def collect_usage_pieces(self, ctx: click.Context) -> list[str]:
        return ["[CRON]", *super().collect_usage_pieces(ctx)]


@schedule.command(cls=_Add, context_settings={"allow_interspersed_args": False})
@click.option("--cron", hidden=True)
@click.option("--at", metavar="TIME", help="One time instead of CRON, such as 2026-12-24T18:00.")
@click.option("--tz", "timezone", metavar="ZONE", help="Time zone, such as Europe/Berlin.  [default: this machine's]")
@click.option(
    "--missed", type=click.Choice(["skip", "once", "all"]), default="skip", show_default=True,
    help="For runs that were missed while the server was down.",
)  # fmt: skip
@click.option(
    "--overlap", type=click.Choice(["allow", "skip", "queue", "stop"]), default="allow", show_default=True,
    help="For a run that is due while an earlier job is not done; `stop` stops that job.",
)  # fmt: skip
@job_options
@json_option
def add(command: tuple[str, ...], clean: bool, project: str | None, is_json: bool, **options: Any) -> None:
    """Run COMMAND as a job at the times of CRON, and print the number of the schedule.

    CRON is an expression of five fields. The other options are those of `polyjob run`:

    \b
      polyjob schedule add '0 3 * * *' --tz Europe/Berlin -- make nightly
      polyjob schedule add --at 2026-12-24T18:00 -- echo done
    """
    fields = {name: options.pop(name) for name in _FIELD_OPTIONS}
    if fields["cron"] is None and fields["at"] is None and command:
        fields["cron"], command = command[0], command[1:]
        command = command[1:] if command[:1] == ("--",) else command
    fields["timezone"] = fields["timezone"] or local_timezone()
    origins = Origins()
    origins.note_fields(_FIELD_OPTIONS)
    with exit_on_error():
        client, path, job = prepare_job(command, origins, clean, is_json, project, **options)
        with origins.name_in_errors(), _without_job_pointer():
            created = client.post(f"{path}/schedules", fields | {"job": job}, is_idempotent=True)
    if is_json:
        print_json(created)
        return
    click.echo(created["id"])
    say(f"{created['unique_name']} runs next at {local_time(created['next_at'])}: {created['urls']['page']}")


@contextmanager
def _without_job_pointer() -> Iterator[None]:
    """Let the pointers of a refused schedule's job be those of the job."""
    try:
        yield
    except ServerError as error:
        problems = [(pointer.removeprefix("/job"), detail) for pointer, detail in error.problems]
        raise ServerError(error.status, str(error), problems) from None


def local_timezone() -> str | None:
    """Return the name of this machine's time zone, or None if it has none."""
    name = os.environ.get("TZ", "").removeprefix(":")
    if not name and LOCAL_TIME.is_symlink():
        name = str(LOCAL_TIME.readlink()).partition("zoneinfo/")[2]
    return name or None


@schedule.command()
@project_option
@json_option
def ls(project: str | None, is_json: bool) -> None:
    """List the schedules of a project with the next and the last run."""
    with exit_on_error():
        client = connect()
        rows = list(client.items(f"{project_path(client, project)}/schedules", None))
    if is_json:
        print_json(rows)
        return
    if not rows:
        say("There are no schedules. `polyjob schedule add '0 3 * * *' -- COMMAND` adds one.")
        return
    cells = [
        [
            str(row["id"]),
            _describe_times(row),
            "paused" if row["is_paused"] else local_time(row["next_at"]) or "ended",
            _describe_fire(row["last_fire"]) if row["last_fire"] else "",
            str(row["missed_count"] or ""),
            row["name"] or row["command"] or "",
        ]
        for row in rows
    ]
    headings, cells = fit_columns(["ID", "WHEN", "NEXT", "LAST", "MISSED", "JOB"], cells, ["MISSED"], terminal_width())
    print_table(headings, cells)


def _describe_times(row: dict[str, Any]) -> str:
    return f"{row['cron']} {row['timezone']}" if row["cron"] else f"once {local_time(row['at'])}"


def _describe_fire(fire: dict[str, Any]) -> str:
    """Return the outcome of a fire, such as `#12 succeeded` or `skipped`."""
    if fire["job"]:
        return f"#{fire['job'].rsplit('.', 1)[-1]} {fire['job_status']}"
    return f"{fire['outcome']} × {fire['count']}" if fire["count"] > 1 else str(fire["outcome"])


@schedule.command()
@schedule_argument
@project_option
@json_option
def show(schedule_id: int, project: str | None, is_json: bool) -> None:
    """Show a schedule and the outcome of its latest runs."""
    with exit_on_error():
        client = connect()
        view = client.get(_path(client, schedule_id, project))
    if is_json:
        print_json(view)
        return
    print_facts(
        [
            ("schedule", view["unique_name"]),
            ("when", _describe_times(view)),
            ("next", "paused" if view["is_paused"] else local_time(view["next_at"]) or "ended"),
            ("missed runs", view["missed"]),
            ("overlap", view["overlap"]),
            ("name", view["name"]),
            ("command", view["command"]),
            ("user", view["user"]),
            ("page", view["urls"]["page"]),
        ]
    )
    if view["fires"]:
        click.echo()
        cells = [[local_time(fire["due_at"]), _describe_fire(fire), fire["reason"] or ""] for fire in view["fires"]]
        print_table(["DUE", "OUTCOME", "REASON"], cells)


@schedule.command()
@schedule_argument
@project_option
def pause(schedule_id: int, project: str | None) -> None:
    """Pause a schedule: it does not run until it is resumed."""
    with exit_on_error():
        client = connect()
        client.post(f"{_path(client, schedule_id, project)}/pause")


@schedule.command()
@schedule_argument
@project_option
def resume(schedule_id: int, project: str | None) -> None:
    """Resume a paused schedule."""
    with exit_on_error():
        client = connect()
        view = client.post(f"{_path(client, schedule_id, project)}/resume")
    say(f"{view['unique_name']} runs next at {local_time(view['next_at'])}." if view["next_at"] else "It has ended.")


@schedule.command()
@schedule_argument
@project_option
@click.option("--detach", "-d", is_flag=True, help="Print the job's number and do not wait.")
@quiet_option
def run(schedule_id: int, project: str | None, detach: bool, quiet: bool) -> NoReturn:
    """Run the job of a schedule now and show its output."""
    with exit_on_error():
        client = connect()
        submit(client, f"{_path(client, schedule_id, project)}/run", {}, detach, quiet)


@schedule.command()
@schedule_argument
@project_option
def rm(schedule_id: int, project: str | None) -> None:
    """Delete a schedule. Its jobs stay."""
    with exit_on_error():
        client = connect()
        client.send("DELETE", _path(client, schedule_id, project))


def _path(client: Client, schedule_id: int, project: str | None) -> str:
    return f"{project_path(client, project)}/schedules/{schedule_id}"


commands = {"schedule": schedule}
