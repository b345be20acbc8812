"""Sweeps: `polyjob run --sweep` submits a job for each combination of values, as a group."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, NoReturn

import click

from polyjob.cli.client import Client
from polyjob.cli.errors import UsageError
from polyjob.cli.names import ALL_JOBS, chosen_project, project_path
from polyjob.cli.options import parse_pairs, parse_value
from polyjob.cli.output import say

MAX_RANGE_LENGTH = 500
"""Numbers of a range such as `1..5`; no sweep has more jobs."""
STOP_BATCH = 1000
"""Jobs that one request stops."""
_RANGE = re.compile(r"(-?\d{1,9})\.\.(-?\d{1,9})\Z")

group_option = click.option("--group", metavar="GROUP", help="Only the jobs of a sweep, or with this tag.")


def parse_sweep(texts: tuple[str, ...]) -> dict[str, list[Any]]:
    """Return the values of each NAME=VALUES of `--sweep`. VALUES is `0.1,0.2`, or a range `1..5`. Raises UsageError."""
    sweep: dict[str, list[Any]] = {}
    for name, text in parse_pairs(texts, "--sweep"):
        if name in sweep:
            raise UsageError(f"`--sweep {name}=…` is given twice. Write all values in one: {name}=1,2,3")
        sweep[name] = [value for part in text.split(",") for value in _values(name, part.strip())]
    return sweep


def _values(name: str, text: str) -> Iterator[Any]:
    if match := _RANGE.match(text):
        first, last = int(match[1]), int(match[2])
        if not 0 <= last - first < MAX_RANGE_LENGTH:
            raise UsageError(f"`--sweep {name}={text}`: a range goes up, and has at most {MAX_RANGE_LENGTH} numbers.")
        yield from range(first, last + 1)
        return
    if not text:
        raise UsageError(f"`--sweep {name}=…` has an empty value.")
    yield parse_value(text)


def submit_sweep(
    client: Client, path: str, body: dict[str, Any], sweep: dict[str, list[Any]], group: str | None, quiet: bool
) -> list[str]:
    """Submit a sweep to the project at `path`, and return the paths of its jobs. Raises ServerError, NoServer."""
    body = body | {"sweep": sweep} | ({"group": group} if group else {})
    response = client.post(f"{path}/jobs/sweep", body, is_idempotent=True)
    jobs, group = response["jobs"], response["group"]
    if not quiet:
        count = "1 job is" if len(jobs) == 1 else f"{len(jobs)} jobs are"
        say(
            f"{count} queued as the group {group}. See `polyjob ls --group {group}` and `polyjob stop --group {group}`."
        )
    return ["/" + job["unique_name"].replace(".", "/") for job in jobs]


def warn_of_unused(sweep: dict[str, list[Any]], command: tuple[str, ...]) -> None:
    """Warn of each param that a command does not name: its jobs would all do the same."""
    for name in sweep:
        if not re.search(rf"{{{{[^}}]*\b{re.escape(name)}\b", " ".join(command)):
            say(f"The command has no {{{{ {name} }}}}, so its jobs have {name} only in POLYAXON_PARAMS.")


def print_numbers(paths: list[str]) -> NoReturn:
    """Print the numbers of jobs, and end the command."""
    for path in paths:
        click.echo(path.rpartition("/")[2])
    raise SystemExit(0)


def stop_group(client: Client, group: str, project: str | None) -> list[str]:
    """Stop the jobs of a group that have not ended, of one project or of all. Return their paths. Raises UsageError."""
    project = chosen_project(project)
    path = f"{project_path(client, project)}/jobs" if project else ALL_JOBS
    jobs = list(client.items(path, None, query=f"tags:{group}", sort="created_at", cursor=""))
    if not jobs:
        raise UsageError(f"There are no jobs in the group `{group}`, or you may not see them.")
    by_project: dict[str, list[int]] = {}
    for job in jobs:
        by_project.setdefault(job["project"].replace(".", "/"), []).append(job["id"])
    for name, ids in by_project.items():
        for start in range(0, len(ids), STOP_BATCH):
            client.post(f"/{name}/jobs/stop", {"ids": ids[start : start + STOP_BATCH]})
    return ["/" + job["unique_name"].replace(".", "/") for job in jobs]
