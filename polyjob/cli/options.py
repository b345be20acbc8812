"""Options that several commands share.

A letter means the same in every command, except `-f`: it is `--file`, and `--follow` of `logs`, as in kubectl.
"""

from __future__ import annotations

import copy
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from polyjob.cli.errors import UsageError

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

MAX_DURATION_SECONDS = 10 * 366 * 86_400
_DURATION = re.compile(r"(?:(\d+)d)?(?:(\d+)h)?(?:(\d+)m(?:in)?)?(?:(\d+(?:\.\d+)?)s?)?", re.IGNORECASE)


class Duration(click.ParamType):
    """A duration such as `90`, `1h30m`, `2d` or `45s`; the value is in seconds."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        match = _DURATION.fullmatch(str(value).replace(" ", ""))
        if not match or not any(match.groups()):
            self.fail(f"`{value}` is not a duration; use seconds, or for example 1h30m.", param, ctx)
        days, hours, minutes, seconds = (float(group or 0) for group in match.groups())
        total = ((days * 24 + hours) * 60 + minutes) * 60 + seconds
        if total > MAX_DURATION_SECONDS:
            self.fail(f"`{value}` is longer than 10 years.", param, ctx)
        return total


class OptionWithOldLetter(click.Option):
    """An option whose one-letter spelling still works but is not shown: the letter means something else elsewhere."""

    def get_help_record(self, ctx: click.Context) -> tuple[str, str] | None:
        option = copy.copy(self)
        option.opts = [spelling for spelling in self.opts if spelling.startswith("--")]
        return click.Option.get_help_record(option, ctx)


existing_file = click.Path(exists=True, dir_okay=False, allow_dash=True, path_type=Path)


def complete_jobs(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    from polyjob.cli import completion

    return completion.complete_jobs(ctx, param, incomplete)


job_argument = click.argument("job", shell_complete=complete_jobs)
jobs_argument = click.argument("jobs", nargs=-1, required=True, metavar="JOB...", shell_complete=complete_jobs)
json_option = click.option("--json", "is_json", is_flag=True, help="Print JSON.")
project_option = click.option(
    "--project", "-p", metavar="PROJECT", help="Project, or user/project.  [default: POLYJOB_PROJECT]"
)
yes_option = click.option("--yes", "-y", is_flag=True, help="Do not ask for confirmation.")
quiet_option = click.option("--quiet", "-q", is_flag=True, help="Show only the output of the job.")
data_dir_option = click.option(
    "--data-dir",
    metavar="FOLDER",
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder of the database, logs and outputs.  [default: POLYJOB_DATA_DIR]",
)
env_option = click.option(
    "--env", "-e", "env_vars", multiple=True, metavar="NAME[=VALUE]",
    help="Set a variable of the job. NAME alone takes the value of this shell; repeatable.",
)  # fmt: skip
secret_option = click.option(
    "--secret", "secrets", multiple=True, metavar="NAME", help="Give the job a secret as a variable; repeatable."
)
backend_option = click.option("--backend", metavar="NAME", help="Runner of the job, one of the server's.")
param_option = click.option(
    "--param", "params", multiple=True, metavar="NAME=VALUE", help="Set a parameter of the config; repeatable."
)


def parse_after(ctx: click.Context, param: click.Parameter, texts: tuple[str, ...]) -> list[dict[str, Any]]:
    """Return the dependencies of each JOB or JOB:ON of `--after`."""
    dependencies = []
    for text in texts:
        job, _, condition = text.partition(":")
        if condition not in ("", "success", "failure", "end"):
            raise click.BadParameter(f"`{condition}` is not an end of a job; use success, failure or end.", ctx, param)
        dependencies.append({"job": parse_reference(job), "on": condition or "success"})
    return dependencies


def parse_inputs_from(ctx: click.Context, param: click.Parameter, texts: tuple[str, ...]) -> list[int | str]:
    """Return the jobs of `--inputs-from` as a config names them."""
    return [parse_reference(text) for text in texts]


def parse_reference(text: str) -> int | str:
    """Return the number or unique name of a job."""
    return int(text) if text.isdecimal() else text


def parse_pairs(texts: tuple[str, ...], option: str) -> list[tuple[str, str]]:
    """Return (name, value) of each NAME=VALUE. Raises UsageError."""
    pairs = []
    for text in texts:
        name, equals, value = text.partition("=")
        if not (name and equals):
            raise UsageError(f"`{option} {text}` has no value; use NAME=VALUE.")
        pairs.append((name, value))
    return pairs


def parse_env(texts: tuple[str, ...]) -> list[tuple[str, str]]:
    """Return (name, value) of each NAME=VALUE of `--env`. A NAME alone takes this shell's value. Raises UsageError."""
    for name in texts:
        if "=" not in name and name not in os.environ:
            raise UsageError(f"`--env {name}`: this shell has no variable `{name}`; use NAME=VALUE.")
    return parse_pairs(tuple(text if "=" in text else f"{text}={os.environ[text]}" for text in texts), "--env")


def parse_params(texts: tuple[str, ...]) -> dict[str, Any]:
    """Return the parameters of each NAME=VALUE of `--param`. Raises UsageError."""
    return {name: parse_value(value) for name, value in parse_pairs(texts, "--param")}


def parse_value(text: str) -> Any:
    """Return a parameter's value as the server reads YAML: 3 is a number, [1, 2] a list, and anything else text."""
    import json

    from polyjob.errors import Invalid
    from polyjob.jobconfig.parsing import parse_content

    try:
        value = parse_content(text)
        json.dumps(value, allow_nan=False)
    except (Invalid, ValueError):
        return text
    return value
