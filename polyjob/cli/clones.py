"""`polyjob restart`, `resume` and `copy`: run the config of a job again, in a new job."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NoReturn

import click

from polyjob.cli import EXIT_CODES_HELP, EXIT_FAILED
from polyjob.cli.attach import submit
from polyjob.cli.caller import CALLER_VARIABLES
from polyjob.cli.client import Client
from polyjob.cli.connect import connect
from polyjob.cli.errors import exit_on_error
from polyjob.cli.names import run_path
from polyjob.cli.options import (
    backend_option,
    env_option,
    existing_file,
    job_argument,
    param_option,
    parse_env,
    parse_params,
    project_option,
    quiet_option,
)
from polyjob.cli.origins import Origins
from polyjob.jobconfig.compose import JobFields, compose_job


def _clone_command(strategy: str, help: str) -> click.Command:
    @click.command(strategy, help=help, epilog=EXIT_CODES_HELP)
    @job_argument
    @project_option
    @click.option("--cmd", "command", metavar="COMMAND", help="Run another command, as shell text.")
    @click.option("--file", "-f", "file", type=existing_file, help="Patch of the config, YAML or JSON.")
    @env_option
    @param_option
    @backend_option
    @click.option("--update-code", is_flag=True, help="Use the newest upload of the project.")
    @click.option("--clean", is_flag=True, help="Run in a new folder, without the variables of the first job's shell.")
    @click.option("--detach", "-d", is_flag=True, help="Print the new job's number and do not wait.")
    @quiet_option
    def clone(job: str, project: str | None, detach: bool, quiet: bool, **options: Any) -> NoReturn:
        with exit_on_error(EXIT_FAILED):
            client = connect()
            path = run_path(client, job, project)
            origins = Origins(command="--cmd")
            body = _clone_body(client, path, origins, **options)
            with origins.name_in_errors():
                submit(client, f"{path}/{strategy}", body, detach, quiet)

    return clone


def _clone_body(
    client: Client,
    path: str,
    origins: Origins,
    command: str | None,
    file: Path | None,
    env_vars: tuple[str, ...],
    params: tuple[str, ...],
    backend: str | None,
    update_code: bool,
    clean: bool,
) -> dict[str, Any]:
    patch = origins.read(file) if file else {}
    pairs = parse_env(env_vars)
    if (pairs or clean) and not _sets_env_vars(patch):
        replaced = {name for name, _ in pairs} | set(CALLER_VARIABLES if clean else ())
        pairs = [*_other_env_vars(client.get(path)["config"] or {}, replaced), *pairs]
    if clean:
        patch = _with_own_folder(patch)
    fields = JobFields(command=command, env_vars=pairs, params=parse_params(params), backend=backend or "")
    job = compose_job(fields, patch)
    origins.note(job)
    body = {"config": job.body["config"]} if job.body["config"] else {}
    return body | ({"update_code": True} if update_code else {})


def _with_own_folder(patch: dict[str, Any]) -> dict[str, Any]:
    """Return the patch, with the original's working folder and variables removed unless it sets its own."""
    section = patch.get("environment") or {}
    if not isinstance(section, dict):
        return patch
    return patch | {"environment": {"workdir": None, "env_vars": []} | section}


def _sets_env_vars(patch: dict[str, Any]) -> bool:
    """Return whether a patch sets variables. They replace all variables of the original job."""
    section = patch.get("environment")
    return isinstance(section, dict) and section.get("env_vars") is not None


def _other_env_vars(config: dict[str, Any], names: set[str]) -> list[tuple[str, str]]:
    """Return the variables of a config except `names`."""
    env_vars = (config.get("environment") or {}).get("env_vars") or []
    return [(name, value) for name, value in env_vars if name not in names]


commands = {
    "restart": _clone_command("restart", "Run a job's config again, in a new job with empty outputs."),
    "resume": _clone_command("resume", "Run a job's config again, in a new job that continues with its outputs."),
    "copy": _clone_command("copy", "Run a job's config again, in a new job with a copy of its outputs."),
}
