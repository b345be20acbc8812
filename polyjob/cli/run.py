"""`polyjob run` and `polyjob wait`: a command as a job, with the output, signals and exit code of a command."""

from __future__ import annotations

import contextlib
import shlex
import signal
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

import click

from polyjob.cli.client import (
    FAILED,
    Client,
    Failing,
    NoServer,
    ServerError,
    connect,
    fail,
    project_path,
    run_path,
    say,
)
from polyjob.cli.following import STOPPED, Follower, ending, exit_code


class Interrupted(Exception):
    """INT or TERM has come."""


class Signals:
    """INT and TERM as exceptions, from now on."""

    def __init__(self) -> None:
        self._is_held = False
        self._waiting: int | None = None
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._arrive)

    def _arrive(self, number: int, frame: Any) -> None:
        if not self._is_held:
            raise Interrupted(number)
        self._waiting = number

    @contextlib.contextmanager
    def held_back(self) -> Iterator[None]:
        """One that comes within is raised behind."""
        self._is_held = True
        try:
            yield
        finally:
            self._is_held = False
        if self._waiting is not None:
            number, self._waiting = self._waiting, None
            raise Interrupted(number)


@click.command(
    context_settings={"ignore_unknown_options": False},
    epilog="Exits with the job's code, 128+n after signal n, 125 if polyjob itself failed, 130 if Ctrl-C stopped it.",
)
@click.option("--project", "-p", metavar="PROJECT", help="Project, or user/project.  [default: POLYJOB_PROJECT]")
@click.option("--image", "-i", help="Image that the job runs in, where the runner has images.")
@click.option("--step", "steps", multiple=True, metavar="COMMAND", help="Build step; may be given several times.")
@click.option("--env", "-e", "variables", multiple=True, metavar="NAME=VALUE", help="Variable of the job.")
@click.option("--param", "params", multiple=True, metavar="NAME=VALUE", help="Parameter of the config.")
@click.option("--file", "-f", "file", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="Config file.")
@click.option("--upload", "-u", type=click.Path(path_type=Path), metavar="FOLDER", help="Code that the job runs with.")
@click.option("--name", help="The job's name, once in its project.")
@click.option("--tag", "tags", multiple=True, help="Tag; may be given several times.")
@click.option("--timeout", type=float, help="Seconds that the job may run.")
@click.option("--detach", "-d", is_flag=True, help="Print the job's number, and do not wait.")
@click.option("--quiet", "-q", is_flag=True, help="Show nothing but what the job writes.")
@click.argument("command", nargs=-1, type=click.UNPROCESSED)
def run(command: tuple[str, ...], detach: bool, quiet: bool, project: str | None, **given: Any) -> NoReturn:
    """Run COMMAND as a job, and show what it writes.

    One word is shell text as it is; several words are one command, each word kept whole:

    \b
      polyjob run -- 'make && make test'
      polyjob run -- python -c 'print("a  b")'
    """
    with Failing(FAILED):
        body = config_of(command, **given)
        client = connect()
        path = project_path(client, project)
        _make_project(client, path, quiet)
        if given["upload"] is not None:
            _upload(client, path, given["upload"], quiet)
        job = client.post(f"{path}/jobs", body, once=True)
        at = "/" + job["unique_name"].replace(".", "/")
        if detach:
            click.echo(job["id"])
            if not quiet:
                say(f"{job['unique_name']} is queued: {job['urls']['page']}")
            raise SystemExit(0)
        if not quiet:
            say(click.style(f"{job['unique_name']}  {job['urls']['page']}", dim=True))
            for note in job["notes"]:
                say(click.style(note["text"], fg="yellow"))
        raise SystemExit(attend(client, at, quiet))


def config_of(command: tuple[str, ...], **given: Any) -> dict[str, Any]:
    """The body that submits the job. Ends the command where what was given makes none."""
    config = _read_file(given["file"]) if given["file"] else {}
    if command:
        config["run"] = {"cmd": command[0] if len(command) == 1 else shlex.join(command)}
    elif not config:
        fail("There is no command. Say what to run behind `--`, such as: polyjob run -- echo hello", FAILED)
    build = dict(config.get("build") or {})
    if given["image"]:
        build["image"] = given["image"]
    if given["steps"]:
        build["build_steps"] = [*(build.get("build_steps") or []), *given["steps"]]
    if build:
        config["build"] = build
    if given["variables"]:
        environment = dict(config.get("environment") or {})
        before = environment.get("env_vars") or []
        pairs = [list(pair) for pair in before.items()] if isinstance(before, dict) else list(before)
        environment["env_vars"] = [*pairs, *_pairs(given["variables"], "--env")]
        config["environment"] = environment
    if given["params"]:
        config["params"] = dict(config.get("params") or {}) | {
            name: _value(text) for name, text in _pairs(given["params"], "--param")
        }
    if given["timeout"] is not None:
        config["termination"] = dict(config.get("termination") or {}) | {"timeout": given["timeout"]}
    body: dict[str, Any] = {"config": config}
    if given["name"]:
        body["name"] = given["name"]
    if given["tags"]:
        body["tags"] = list(given["tags"])
    return body


def _read_file(path: Path) -> dict[str, Any]:
    import yaml

    try:
        document = yaml.safe_load(path.read_text())
    except (OSError, ValueError, yaml.YAMLError) as error:
        fail(f"{path} cannot be read: {error}", FAILED)
    if not isinstance(document, dict):
        fail(f"{path} holds no config: it is no mapping.", FAILED)
    return document


def _pairs(texts: tuple[str, ...], option: str) -> list[list[str]]:
    pairs = []
    for text in texts:
        name, equals, value = text.partition("=")
        if not (name and equals):
            fail(f"`{option} {text}` names no value; it takes NAME=VALUE.", FAILED)
        pairs.append([name, value])
    return pairs


def _value(text: str) -> Any:
    """A parameter as YAML has it: 3 is a number, true a truth, [1, 2] a list, everything else text."""
    import yaml

    try:
        return yaml.safe_load(text)
    except yaml.YAMLError:
        return text


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
            fail(error, FAILED)
        size = file.tell()
        file.seek(0)
        client.send("PUT", f"{path}/repo/upload", files={"repo": ("code.tar.gz", file, "application/gzip")})
    if not quiet:
        say(click.style(f"Uploaded {count} files, {size / 1e6:.1f} MB packed.", dim=True))


# Attending a job.


def attend(client: Client, path: str, quiet: bool) -> int:
    """Show the job until it is done; the exit code of the command. INT and TERM stop the job; a Ctrl-C on a terminal
    asks first."""
    signals, was_stopped = Signals(), False
    follower = Follower(client, path, quiet=quiet, shield=signals.held_back)
    while True:
        try:
            job = follower.follow()
            break
        except Interrupted as interruption:
            try:
                if not was_stopped and _asks(interruption) and _wants_to_leave():
                    say(f"The job goes on. Come back with: polyjob logs -f {path.strip('/').replace('/', '.')}")
                    raise SystemExit(0) from None
            except Interrupted:
                pass  # asked twice: stop
            was_stopped = True
            say("Stopping the job …")
            client.post(f"{path}/stop")
    if not quiet or exit_code(job) == FAILED:
        say(ending(job, _last(client, path)))
    return STOPPED if was_stopped and job["last_status"] == "stopped" else exit_code(job)


def _asks(interruption: Interrupted) -> bool:
    return interruption.args[0] == signal.SIGINT and sys.stdin.isatty() and sys.stderr.isatty()


def _wants_to_leave() -> bool:
    """Asked on the terminal; everything but `d` stops the job."""
    sys.stderr.write("\nStop the job, or detach and let it run? [S/d] ")
    sys.stderr.flush()
    return sys.stdin.readline().strip().lower().startswith("d")


def _last(client: Client, path: str) -> dict[str, Any] | None:
    try:
        statuses = list(client.walk(f"{path}/statuses", 100))
    except (ServerError, NoServer):
        return None
    return statuses[-1] if statuses else None


@click.command()
@click.argument("jobs", nargs=-1, required=True, metavar="JOB...")
@click.option("--project", "-p", help="Project of the jobs that are numbers.")
@click.option("--timeout", type=float, help="Seconds to wait at most; then the exit code is 124.")
@click.option("--quiet", "-q", is_flag=True, help="Print nothing.")
def wait(jobs: tuple[str, ...], project: str | None, timeout: float | None, quiet: bool) -> NoReturn:
    """Wait until jobs are done; exit with the code of the first that did not succeed, as `run` does."""
    import time

    deadline = None if timeout is None else time.monotonic() + timeout
    code = 0
    with Failing(FAILED):
        client = connect()
        for name in jobs:
            path = run_path(client, name, project)
            job = client.get(path)
            while not job["finished_at"]:
                left = 30.0 if deadline is None else deadline - time.monotonic()
                if left <= 0:
                    say(f"{job['unique_name']} is still {job['last_status']}.")
                    raise SystemExit(124)
                job = client.get(path, wait=min(30.0, left))
            if not quiet:
                say(ending(job, _last(client, path)))
            code = code or exit_code(job)
    raise SystemExit(code)


commands = {"run": run, "wait": wait}
