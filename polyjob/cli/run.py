"""`polyjob run` and `polyjob wait`: a job with the output, signals and exit code of a command."""

from __future__ import annotations

import shlex
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NoReturn

import click

from polyjob.cli import EXIT_CODES_HELP, EXIT_FAILED
from polyjob.cli.attach import last_status, submit
from polyjob.cli.caller import Caller, is_on_this_machine
from polyjob.cli.client import Client
from polyjob.cli.connect import connect
from polyjob.cli.errors import ServerError, UsageError, exit_on_error
from polyjob.cli.log_follower import RECONNECT_SECONDS, describe_end, exit_code_of, path_of_retry
from polyjob.cli.names import project_path, run_path
from polyjob.cli.options import (
    Duration,
    backend_option,
    env_option,
    existing_file,
    jobs_argument,
    param_option,
    parse_after,
    parse_env,
    parse_inputs_from,
    parse_params,
    project_option,
    quiet_option,
    secret_option,
)
from polyjob.cli.origins import Origins
from polyjob.cli.output import say
from polyjob.cli.sweeps import parse_sweep, print_numbers, submit_sweep, warn_of_unused
from polyjob.formatting import format_size, status_word
from polyjob.jobconfig.compose import RESOURCES, JobFields, compose_job, working_folder

LONG_POLL_SECONDS = 30.0
EXIT_TIMEOUT = 124


def job_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options that describe a job, and its command as the last argument."""
    for option in reversed(_JOB_OPTIONS):
        command = option(command)
    return command


_JOB_OPTIONS = (
    project_option,
    click.option("--image", "-i", help="Image of the job, for runners that use images."),
    backend_option,
    click.option("--step", "build_steps", multiple=True, metavar="COMMAND", help="Add a build step; repeatable."),
    env_option,
    secret_option,
    param_option,
    click.option(
        "--file", "-f", "file", type=existing_file, help="Config file, YAML or JSON; - is the standard input."
    ),
    click.option(
        "--upload", "-u", type=click.Path(path_type=Path), metavar="FOLDER", help="Upload a folder for the job."
    ),
    click.option("--cpu", metavar="CORES", help="CPU limit, such as 2 or 500m."),
    click.option("--memory", metavar="SIZE", help="Memory limit, such as 512Mi or 4Gi."),
    click.option("--gpu", metavar="COUNT", help="Number of GPUs."),
    click.option("--volume", "volumes", multiple=True, metavar="NAME", help="Use a volume of the server; repeatable."),
    click.option("--name", help="Name of the job, unique in its project."),
    click.option("--tag", "tags", multiple=True, help="Add a tag; repeatable."),
    click.option("--timeout", type=Duration(), help="Time limit, in seconds or such as 1h30m."),
    click.option("--retries", type=click.IntRange(0), metavar="N", help="Try again up to N times if the job fails."),
    click.option("--notify", metavar="URL", help="URL that gets a message at the end of the job."),
    click.option(
        "--after",
        multiple=True,
        metavar="JOB[:ON]",
        callback=parse_after,
        help="Start after this job has succeeded, or after its `failure` or `end`; repeatable.",
    ),
    click.option(
        "--inputs-from",
        multiple=True,
        metavar="JOB",
        callback=parse_inputs_from,
        help="Put the outputs of this job into $POLYJOB_INPUTS_PATH/JOB, once it has succeeded; repeatable.",
    ),
    click.option("--clean", is_flag=True, help="Run in a new folder, without the variables of this shell."),
    click.argument("command", nargs=-1, type=click.UNPROCESSED),
)


@click.command(
    context_settings={"allow_interspersed_args": False},
    epilog=EXIT_CODES_HELP,
)
@job_options
@click.option(
    "--sweep",
    "sweeps",
    multiple=True,
    metavar="NAME=VALUES",
    help="Submit a job for each value of a param, such as lr=0.1,0.2 or seed=1..5; repeatable.",
)
@click.option("--group", help="Name of the group of the jobs of a sweep.")
@click.option("--detach", "-d", is_flag=True, help="Print the job's number and do not wait.")
@quiet_option
def run(
    command: tuple[str, ...],
    clean: bool,
    detach: bool,
    quiet: bool,
    project: str | None,
    sweeps: tuple[str, ...],
    group: str | None,
    **options: Any,
) -> NoReturn:
    """Run COMMAND as a job and show its output.

    Write polyjob's options before the command. A command of one word is shell text. Several words are one command and
    its arguments:

    \b
      polyjob run 'make && make test'
      polyjob run python train.py --epochs 3

    On the machine of the server, the job runs in the current folder, with the PATH and the virtualenv of this shell.
    From elsewhere, -u . uploads the folder.

    With --sweep, a job is submitted for each combination of values. The command names a param as {{ NAME }}.
    """
    origins = Origins()
    with exit_on_error(EXIT_FAILED):
        sweep = parse_sweep(sweeps)
        if group and not sweep:
            raise UsageError("`--group` needs `--sweep`.")
        client, path, body = prepare_job(command, origins, clean, quiet, project, **options)
        for name in sweep:
            origins.note_field(("sweep", name), f"--sweep {name}")
        origins.note_field(("group",), "--group")
        with origins.name_in_errors():
            if not sweep:
                submit(client, f"{path}/jobs", body, detach, quiet)
            if command and not quiet:
                warn_of_unused(sweep, command)
            jobs = submit_sweep(client, path, body, sweep, group, quiet)
        if detach:
            print_numbers(jobs)
        raise SystemExit(_wait_for_all(client, jobs, None, quiet))


def prepare_job(
    command: tuple[str, ...], origins: Origins, clean: bool, quiet: bool, project: str | None, **options: Any
) -> tuple[Client, str, dict[str, Any]]:
    """Create the project if it is missing, and upload the folder of `--upload`.

    Return the client, the path of the project, and the body that submits the job. Raises ServerError, NoServer and
    UsageError.
    """
    config = origins.read(options["file"]) if options["file"] else {}
    client = connect()
    caller = None if clean else _caller_of(client, config, **options)
    body = job_body(command, config, caller, origins, **options)
    if not (caller or clean or quiet or options["upload"]):
        say("This folder is not uploaded; `-u .` uploads it and runs the job in the copy.")
    path = project_path(client, project)
    create_project(client, path, quiet)
    if options["upload"] is not None:
        _upload(client, path, options["upload"], quiet)
    return client, path, body


def _caller_of(client: Client, config: Mapping[str, Any], **options: Any) -> Caller | None:
    """Return what the job takes over from the caller; None if it does not run on this machine. Raises UsageError."""
    if options["upload"] is not None and working_folder(config) is not None:
        raise UsageError("The config sets `environment.workdir`, so the job would not run in the upload. Omit one.")
    if not is_on_this_machine(client, options["backend"] or config.get("backend")):
        return None
    return Caller.capture(with_folder=options["upload"] is None)


def job_body(
    command: tuple[str, ...], config: Mapping[str, Any], caller: Caller | None, origins: Origins, **options: Any
) -> dict[str, Any]:
    """Return the body that submits the job, and note in `origins` which option set each field. Raises UsageError."""
    if not command and not config:
        raise UsageError("There is no command. Write it after the options: polyjob run echo hello")
    text = command[0] if len(command) == 1 else shlex.join(command)
    fields = JobFields(
        command=text if command else None,
        image=options["image"] or "",
        build_steps=options["build_steps"],
        env_vars=parse_env(options["env_vars"]),
        secrets=options["secrets"],
        workdir=caller.folder if caller else "",
        caller_vars=caller.variables if caller else (),
        resources={kind: options[kind] for kind in RESOURCES if options[kind]},
        volumes=options["volumes"],
        params=parse_params(options["params"]),
        backend=options["backend"] or "",
        timeout=options["timeout"],
        retries=options["retries"],
        after=options["after"],
        inputs_from=options["inputs_from"],
        name=options["name"] or "",
        tags=options["tags"],
        notify=options["notify"] or "",
    )
    job = compose_job(fields, config)
    origins.note(job)
    return job.body


def create_project(client: Client, path: str, quiet: bool) -> None:
    """Create the project if it is missing and would belong to the user."""
    try:
        client.get(path)
    except ServerError as error:
        user, name = path.strip("/").split("/")
        if error.status != 404 or user != client.me:
            raise
        client.post("/projects", {"name": name})
        if not quiet:
            say(f"Created the project {user}.{name}.")


def _upload(client: Client, path: str, folder: Path, quiet: bool) -> None:
    from polyjob.cli.upload import UnusableUpload, pack

    with tempfile.TemporaryFile() as file:
        try:
            count = pack(folder, file)
        except UnusableUpload as error:
            raise UsageError(error) from None
        size = file.tell()
        file.seek(0)
        client.send("PUT", f"{path}/repo/upload", files={"repo": ("code.tar.gz", file, "application/gzip")})
    if not quiet:
        say(click.style(f"Uploaded {count} files, {format_size(size)} packed.", dim=True))


@click.command(epilog=f"{EXIT_CODES_HELP} {EXIT_TIMEOUT}: --timeout has passed.")
@jobs_argument
@project_option
@click.option("--timeout", type=Duration(), help=f"Longest time to wait; after it, the exit code is {EXIT_TIMEOUT}.")
@click.option("--quiet", "-q", is_flag=True, help="Print nothing.")
def wait(jobs: tuple[str, ...], project: str | None, timeout: float | None, quiet: bool) -> NoReturn:
    """Wait until jobs have finished. Exit with the exit code of the first one that did not succeed, as `run` does.

    A job that is retried has finished when its last retry has.
    """
    deadline = None if timeout is None else time.monotonic() + timeout
    with exit_on_error(EXIT_FAILED):
        client = connect()
        raise SystemExit(_wait_for_all(client, [run_path(client, name, project) for name in jobs], deadline, quiet))


def _wait_for_all(client: Client, paths: list[str], deadline: float | None, quiet: bool) -> int:
    """Wait for jobs and their retries, one after the other. Return the exit code of the first that did not succeed."""
    exit_code = 0
    for path in paths:
        job = _wait_for(client, path, deadline)
        while True:
            if not quiet:
                say(describe_end(job, last_status(client, path)))
            if not (next_path := path_of_retry(job)):
                break
            path = next_path
            job = _wait_for(client, path, deadline)
        exit_code = exit_code or exit_code_of(job)
    return exit_code


def _wait_for(client: Client, path: str, deadline: float | None) -> dict[str, Any]:
    """Return the job once it has finished. Ends the command at the deadline."""
    job: dict[str, Any] = client.get(path)
    client.on_outage = say
    while not job["finished_at"]:
        remaining = LONG_POLL_SECONDS if deadline is None else deadline - time.monotonic()
        if remaining <= 0:
            say(f"{job['unique_name']} is still {status_word(job['last_status'])}.")
            raise SystemExit(EXIT_TIMEOUT)
        client.patience = RECONNECT_SECONDS if deadline is None else min(RECONNECT_SECONDS, remaining)
        job = client.get(path, wait=min(LONG_POLL_SECONDS, remaining))
    return job


commands = {"run": run, "wait": wait}
