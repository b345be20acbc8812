"""`polyjob run` and `polyjob wait`: a command as a job, with the output, signals and exit code of a command."""

from __future__ import annotations

import re
import shlex
import tempfile
from pathlib import Path
from typing import Any, NoReturn

import click

from polyjob.cli import EXIT_CODES, FAILED
from polyjob.cli.attach import last_status, submit
from polyjob.cli.client import (
    Client,
    ServerError,
    UsageError,
    connect,
    exit_on_error,
    project_path,
    run_path,
    say,
)
from polyjob.cli.log_follower import BROKEN, ending, exit_code
from polyjob.cli.origins import Origins
from polyjob.formatting import format_size
from polyjob.jobconfig.commands import literal_command

MAX_SECONDS = 10 * 366 * 86_400
_DURATION = re.compile(r"(?:(\d+)d)?(?:(\d+)h)?(?:(\d+)m(?:in)?)?(?:(\d+(?:\.\d+)?)s?)?", re.IGNORECASE)


class Duration(click.ParamType):
    """A time such as `90`, `1h30m`, `2d` or `45s`; the value is in seconds."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        match = _DURATION.fullmatch(str(value).replace(" ", ""))
        if not match or not any(match.groups()):
            self.fail(f"`{value}` is not a time; give seconds, or a time such as 1h30m.", param, ctx)
        days, hours, minutes, seconds = (float(group or 0) for group in match.groups())
        total = ((days * 24 + hours) * 60 + minutes) * 60 + seconds
        if total > MAX_SECONDS:
            self.fail(f"`{value}` is longer than 10 years.", param, ctx)
        return total


a_file = click.Path(exists=True, dir_okay=False, allow_dash=True, path_type=Path)


@click.command(
    context_settings={"allow_interspersed_args": False},
    epilog=EXIT_CODES,
)
@click.option("--project", "-p", metavar="PROJECT", help="Project, or user/project.  [default: POLYJOB_PROJECT]")
@click.option("--image", "-i", help="Image that the job runs in, where the runner has images.")
@click.option("--step", "steps", multiple=True, metavar="COMMAND", help="Build step; may be given several times.")
@click.option("--env", "-e", "variables", multiple=True, metavar="NAME=VALUE", help="Variable of the job.")
@click.option("--param", "params", multiple=True, metavar="NAME=VALUE", help="Parameter of the config.")
@click.option("--file", "-f", "file", type=a_file, help="Config file, YAML or JSON.")
@click.option("--upload", "-u", type=click.Path(path_type=Path), metavar="FOLDER", help="Code that the job runs with.")
@click.option("--cpu", metavar="CORES", help="Cores that the job may use, such as 2 or 500m.")
@click.option("--memory", metavar="SIZE", help="Memory that it may use, such as 512Mi or 4Gi.")
@click.option("--gpu", metavar="COUNT", help="GPUs that it is given.")
@click.option("--name", help="The job's name, once in its project.")
@click.option("--tag", "tags", multiple=True, help="Tag; may be given several times.")
@click.option("--timeout", type=Duration(), help="Time that the job may run, in seconds or such as 1h30m.")
@click.option("--detach", "-d", is_flag=True, help="Print the job's number, and do not wait.")
@click.option("--quiet", "-q", is_flag=True, help="Show nothing but what the job writes.")
@click.argument("command", nargs=-1, type=click.UNPROCESSED)
def run(command: tuple[str, ...], detach: bool, quiet: bool, project: str | None, **given: Any) -> NoReturn:
    """Run COMMAND as a job, and show what it writes.

    Options of polyjob stand before the command. One word is shell text as it is; several words are one command, each
    word kept whole:

    \b
      polyjob run 'make && make test'
      polyjob run python train.py --epochs 3
    """
    origins = Origins()
    with exit_on_error(FAILED):
        body = config_of(command, origins, **given)
        client = connect()
        path = project_path(client, project)
        _make_project(client, path, quiet)
        if given["upload"] is not None:
            _upload(client, path, given["upload"], quiet)
        with origins.explained():
            submit(client, f"{path}/jobs", body, detach, quiet)


def config_of(command: tuple[str, ...], origins: Origins, **given: Any) -> dict[str, Any]:
    """Return the body that submits the job, and note in `origins` what made each part. Raises Wrong where what was
    given makes none."""
    config = origins.read(given["file"]) if given["file"] else {}
    if command:
        config["run"] = {"cmd": literal_command(command[0] if len(command) == 1 else shlex.join(command))}
        origins.note("COMMAND", "config", "run")
    elif not config:
        raise UsageError("There is no command. Name it after the options: polyjob run echo hello")
    if given["image"]:
        set_in(config, origins, "--image", "build", image=given["image"])
    if given["steps"]:
        extend(config, origins, "--step", "build", "build_steps", list(given["steps"]))
    if given["variables"]:
        extend(config, origins, "--env", "environment", "env_vars", pairs_of(given["variables"], "--env"))
    for kind in ("cpu", "memory", "gpu"):
        if given[kind]:
            set_in(config, origins, f"--{kind}", "environment", "resources", **{kind: {"limits": given[kind]}})
    if given["params"]:
        set_params(config, origins, given["params"])
    if given["timeout"] is not None:
        set_in(config, origins, "--timeout", "termination", timeout=given["timeout"])
    body: dict[str, Any] = {"config": config}
    if given["name"]:
        body["name"] = given["name"]
        origins.note("--name", "name")
    if given["tags"]:
        body["tags"] = list(given["tags"])
        origins.note("--tag", "tags")
    return body


def set_in(config: dict[str, Any], origins: Origins, option: str, *sections: str, **values: Any) -> None:
    """Set values that an option gives in a section of a config, made where it is missing.

    A section that is not a mapping stays as it is: the server's refusal names it better than a guess here would.
    """
    here: Any = config
    for section in sections:
        if here.get(section) is None:
            here[section] = {}
        here = here[section]
        if not isinstance(here, dict):
            return
    here.update(values)
    for name in values:
        origins.note(option, "config", *sections, name)


def set_params(config: dict[str, Any], origins: Origins, params: tuple[str, ...]) -> None:
    """Set the parameters that `--param` gives. Raises Wrong."""
    values = {name: value_of(text) for name, text in pairs_of(params, "--param")}
    set_in(config, origins, "--param", "params", **values)


def extend(config: dict[str, Any], origins: Origins, option: str, section: str, name: str, items: list[Any]) -> None:
    """Add items that an option gives to a list of a section; pairs also to a mapping. Another value stays as it is."""
    set_in(config, origins, option, section)
    inside = config[section]
    before = inside.get(name) if isinstance(inside, dict) else None
    if isinstance(before, dict):
        before = [list(pair) for pair in before.items()]
    if isinstance(inside, dict) and isinstance(before, list | None):
        inside[name] = [*(before or []), *items]
        for index in range(len(before or []), len(inside[name])):
            origins.note(option, "config", section, name, index)


def pairs_of(texts: tuple[str, ...], option: str) -> list[list[str]]:
    """[name, value] of each NAME=VALUE. Raises Wrong."""
    pairs = []
    for text in texts:
        name, equals, value = text.partition("=")
        if not (name and equals):
            raise UsageError(f"`{option} {text}` names no value; it takes NAME=VALUE.")
        pairs.append([name, value])
    return pairs


def value_of(text: str) -> Any:
    """A parameter as the server reads YAML: 3 is a number, true a truth, [1, 2] a list, everything else text."""
    import json

    from polyjob.errors import Invalid
    from polyjob.jobconfig.parsing import parse_content

    try:
        value = parse_content(text)
        json.dumps(value, allow_nan=False)
    except (Invalid, ValueError):
        return text
    return value


def _make_project(client: Client, path: str, quiet: bool) -> None:
    """Where it is not there yet and is one's own."""
    try:
        client.get(path)
    except ServerError as error:
        user, name = path.strip("/").split("/")
        if error.status != 404 or user != client.me:
            raise
        client.post("/projects", {"name": name})
        if not quiet:
            say(f"Made the project {user}.{name}.")


def _upload(client: Client, path: str, folder: Path, quiet: bool) -> None:
    from polyjob.cli.upload import Unusable, pack

    with tempfile.TemporaryFile() as file:
        try:
            count = pack(folder, file)
        except Unusable as error:
            raise UsageError(error) from None
        size = file.tell()
        file.seek(0)
        client.send("PUT", f"{path}/repo/upload", files={"repo": ("code.tar.gz", file, "application/gzip")})
    if not quiet:
        say(click.style(f"Uploaded {count} files, {format_size(size)} packed.", dim=True))


@click.command(epilog=f"{EXIT_CODES} 124: --timeout is over.")
@click.argument("jobs", nargs=-1, required=True, metavar="JOB...")
@click.option("--project", "-p", help="Project of the jobs that are numbers.")
@click.option("--timeout", type=Duration(), help="Time to wait at most; then the exit code is 124.")
@click.option("--quiet", "-q", is_flag=True, help="Print nothing.")
def wait(jobs: tuple[str, ...], project: str | None, timeout: float | None, quiet: bool) -> NoReturn:
    """Wait until jobs are done; exit with the code of the first that did not succeed, as `run` does."""
    import time

    deadline = None if timeout is None else time.monotonic() + timeout
    code = 0
    with exit_on_error(FAILED):
        client = connect()
        for name in jobs:
            path = run_path(client, name, project)
            job = client.get(path)
            client.on_outage = say
            while not job["finished_at"]:
                left = 30.0 if deadline is None else deadline - time.monotonic()
                if left <= 0:
                    say(f"{job['unique_name']} is still {job['last_status']}.")
                    raise SystemExit(124)
                client.patience = BROKEN if deadline is None else min(BROKEN, left)
                job = client.get(path, wait=min(30.0, left))
            if not quiet:
                say(ending(job, last_status(client, path)))
            code = code or exit_code(job)
    raise SystemExit(code)


commands = {"run": run, "wait": wait}
