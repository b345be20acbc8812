"""Commands that list, show, stop and delete jobs."""

from __future__ import annotations

import signal
import sys
from typing import Any

import click

from polyjob.cli.attach import last_status
from polyjob.cli.connect import connect
from polyjob.cli.errors import exit_on_error
from polyjob.cli.log_follower import Follower, describe_end
from polyjob.cli.names import ALL_JOBS, chosen_project, project_path, run_path
from polyjob.cli.options import (
    OptionWithOldLetter,
    complete_jobs,
    job_argument,
    jobs_argument,
    json_option,
    project_option,
    yes_option,
)
from polyjob.cli.output import (
    ago,
    coloured,
    duration_of,
    fit_columns,
    has_started,
    local_time,
    print_facts,
    print_json,
    print_table,
    say,
    terminal_width,
)
from polyjob.cli.refusals import name_options
from polyjob.cli.streams import printable, unbuffered, write_all
from polyjob.cli.sweeps import group_option, stop_group
from polyjob.formatting import describe_position, status_message
from polyjob.jobconfig.compose import working_folder
from polyjob.jobconfig.volumes import volume_names

CHUNK_BYTES = 1 << 16


@click.command()
@click.option("--project", "-p", metavar="PROJECT", help="Project, or user/project.  [default: POLYJOB_PROJECT or all]")
@click.option(
    "--query", "-q", cls=OptionWithOldLetter, help="Conditions, such as status:failed,created_at:>=2026-11-01."
)
@group_option
@click.option("--sort", "-s", default="-created_at", show_default=True, help="Field to sort by.")
@click.option("--limit", "-n", type=click.IntRange(1), default=20, show_default=True, help="Maximum number of jobs.")
@click.option("--all", "-a", "is_all", is_flag=True, help="List all jobs.")
@json_option
def ls(
    project: str | None, query: str | None, group: str | None, sort: str, limit: int, is_all: bool, is_json: bool
) -> None:
    """List jobs, last submitted first."""
    with exit_on_error(), name_options({"sort": "--sort", "query": "--query"}):
        client = connect()
        project = chosen_project(project)
        conditions = [f"project:{client.get(project_path(client, project))['id']}"] if project else []
        conditions += [f"tags:{group}"] if group else []
        conditions += [query] if query else []
        cursor = "" if is_all else None
        query = ",".join(conditions) or None
        jobs = list(client.items(ALL_JOBS, None if is_all else limit, query=query, sort=sort, cursor=cursor))
    if is_json:
        print_json(jobs)
    elif jobs:
        _print_jobs(jobs)
    else:
        say("No jobs match." if query else "There are no jobs. Run one: polyjob run echo hello")


def _print_jobs(jobs: list[dict[str, Any]]) -> None:
    projects = {job["project"] for job in jobs}
    has_owners = len({project.partition(".")[0] for project in projects}) > 1
    has_users = len({job["user"] for job in jobs}) > 1
    rows = [
        [
            str(job["id"]),
            coloured(job["last_status"]),
            job["reason"] or describe_position(job.get("queue_position")) or ("waits" if _is_held(job) else ""),
            _project_name(job["project"], has_owners) if len(projects) > 1 else "",
            job["name"] or "",
            job["user"] if has_users else "",
            ago(job["created_at"]),
            duration_of(job),
            _first_line(job["command"] or ""),
        ]
        for job in jobs
    ]
    headings = ["ID", "STATUS", "REASON", "PROJECT", "NAME", "USER", "SUBMITTED", "DURATION", "COMMAND"]
    print_table(*fit_columns(headings, rows, ["USER", "SUBMITTED", "NAME", "PROJECT"], terminal_width()))


def _is_held(job: dict[str, Any]) -> bool:
    """Return whether a job waits for a time or for other jobs; `show` names them."""
    return bool(job["last_status"] == "created" and job["is_managed"] and not job.get("queue_position"))


def _project_name(unique_name: str, has_owners: bool) -> str:
    return unique_name.replace(".", "/") if has_owners else unique_name.partition(".")[2]


def _first_line(command: str) -> str:
    first, *others = command.strip().splitlines() or [""]
    return f"{first} …" if others else first


@click.command()
@job_argument
@project_option
@json_option
def show(job: str, project: str | None, is_json: bool) -> None:
    """Show a job."""
    with exit_on_error():
        client = connect()
        view = client.get(run_path(client, job, project))
    if is_json:
        print_json(view)
        return
    end = view["exit"] or {}
    print_facts(
        [
            ("job", view["unique_name"]),
            ("name", view["name"]),
            ("status", coloured(view["last_status"])),
            ("command", _first_line(view["command"] or "")),
            ("waiting", view["waiting"]),
            ("exit code", view["exit_code"]),
            ("signal", end.get("signal")),
            ("reason", view["reason"]),
            ("message", end.get("message")),
            ("user", view["user"]),
            ("submitted", local_time(view["created_at"])),
            ("started", local_time(view["started_at"]) if has_started(view) else None),
            ("finished", local_time(view["finished_at"])),
            ("duration", duration_of(view)),
            ("folder", working_folder(view["config"])),
            ("volumes", ", ".join(volume_names(view["config"])) or None),
            ("build", view["build_job"]),
            ("original", f"{view['original']} ({view['cloning_strategy']})" if view["original"] else None),
            ("after", ", ".join(map(_dependency, view["after"])) or None),
            ("retry", _retry_of(view)),
            ("runner", view["backend"] if view["is_managed"] else None),
            ("node", view["node_scheduled"]),
            ("tags", ", ".join(view["tags"] or [])),
            ("description", view["description"]),
            ("page", view["urls"]["page"]),
        ]
    )
    for note in view["notes"]:
        click.echo(click.style(printable(note["text"]), fg="yellow"))
    if view["config"]:
        import yaml

        click.echo()
        click.echo(yaml.safe_dump(view["config"], sort_keys=False, allow_unicode=True).rstrip())


def _dependency(one: dict[str, Any]) -> str:
    text = f"{one['on']} of #{one['job']}"
    return f"{text}, reads its outputs" if one["reads_outputs"] else text


def _retry_of(view: dict[str, Any]) -> str | None:
    """Return `2 of 3 of #12` for a retry, and the number of retries that are left for a first attempt."""
    retries = view["retries"]
    if not retries:
        return None
    if not retries["number"]:
        return f"up to {retries['left']}" + (f", retried by #{retries['next_job']}" if retries["next_job"] else "")
    text = f"{retries['number']} of {retries['number'] + retries['left']}"
    text += f" of #{retries['first_job']}" if retries["first_job"] else ""
    return text + (f", retried by #{retries['next_job']}" if retries["next_job"] else "")


@click.command()
@job_argument
@project_option
@click.option("--follow", "-f", is_flag=True, help="Continue until the job has finished.")
@click.option("--tail", "-n", type=click.IntRange(0), help="Maximum number of lines, from the end of the log.")
@click.option("--build", "-b", "is_build", is_flag=True, help="JOB is a build.")
@click.option("--times", "has_times", is_flag=True, help="Begin each line with the UTC time at which it was written.")
def logs(job: str, project: str | None, follow: bool, tail: int | None, is_build: bool, has_times: bool) -> None:
    """Print the unmodified log of a job or build.

    With -f, the standard error shows the reason why the job waits, the log of its build, and how it ended.
    """
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    with exit_on_error():
        client = connect()
        path = run_path(client, job, project, "builds" if is_build else "jobs")
        if follow and tail is None and not is_build:
            say(describe_end(Follower(client, path, has_times=has_times).follow(), last_status(client, path)))
            return
        params = {"follow": "true" if follow else "false"} | ({} if tail is None else {"tail": str(tail)})
        params |= {"times": "true"} if has_times else {}
        with client.send("GET", f"{path}/logs", params=params, stream=True) as response:
            out = unbuffered(sys.stdout)
            while data := response.raw.read1(CHUNK_BYTES):
                write_all(data, out)


@click.command()
@job_argument
@project_option
@json_option
def statuses(job: str, project: str | None, is_json: bool) -> None:
    """Show the status history of a job."""
    with exit_on_error():
        client = connect()
        history = list(client.items(f"{run_path(client, job, project)}/statuses", None))
    if is_json:
        print_json(history)
        return
    rows = [[local_time(row["created_at"]), coloured(row["status"]), status_message(row["message"])] for row in history]
    print_table(["WHEN", "STATUS", "MESSAGE"], rows)


@click.command()
@click.argument("jobs", nargs=-1, metavar="JOB...", shell_complete=complete_jobs)
@project_option
@group_option
@click.option("--wait", "-w", "should_wait", is_flag=True, help="Wait until all processes of the jobs have ended.")
def stop(jobs: tuple[str, ...], project: str | None, group: str | None, should_wait: bool) -> None:
    """Stop jobs. Jobs that have finished do not change."""
    if bool(jobs) == bool(group):
        raise click.UsageError("Name jobs, or a group with --group.")
    with exit_on_error():
        client = connect()
        paths = [run_path(client, job, project) for job in jobs]
        for path in paths:
            client.post(f"{path}/stop")
        if group:
            paths = stop_group(client, group, project)
        for path in paths if should_wait else []:
            Follower(client, path).wait_for_end()


@click.command()
@jobs_argument
@project_option
@yes_option
def delete(jobs: tuple[str, ...], project: str | None, yes: bool) -> None:
    """Delete jobs with their logs and outputs. Running jobs are stopped first."""
    with exit_on_error():
        client = connect()
        paths = [run_path(client, job, project) for job in jobs]
        if not yes and sys.stdin.isatty():
            click.confirm(f"Delete {', '.join(jobs)} with logs and outputs?", abort=True, err=True)
        for path in paths:
            client.send("DELETE", path)


commands = {"ls": ls, "show": show, "logs": logs, "statuses": statuses, "stop": stop, "delete": delete}
