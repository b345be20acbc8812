"""The command line. Each command's module is loaded when it is called: looking at jobs loads no web server."""

from __future__ import annotations

import importlib
import os
from typing import Any

import click

import polyjob

# fmt: off
COMMANDS: dict[str, tuple[str, str]] = {
    "serve": ("server", "Serve the API and the pages and run the jobs, until Ctrl-C."),
    "run": ("run", "Run a command as a job, and show what it writes."),
    "ls": ("jobs", "List jobs."),
    "show": ("jobs", "Show a job."),
    "logs": ("jobs", "Print the log of a job or build."),
    "statuses": ("jobs", "Show what became of a job, and when."),
    "wait": ("run", "Wait until jobs are done; exit with the job's code."),
    "outputs": ("outputs", "Download, list or print the files that a job left."),
    "stop": ("jobs", "Stop jobs."),
    "restart": ("jobs", "Run a job's config again, with empty outputs."),
    "resume": ("jobs", "Run a job's config again, going on with its outputs."),
    "copy": ("jobs", "Run a job's config again, with a copy of its outputs."),
    "delete": ("jobs", "Delete jobs with all that they wrote."),
    "projects": ("projects", "List, show and change projects."),
    "token": ("tokens", "Make, list and revoke keys."),
    "user": ("users", "Manage users."),
    "doctor": ("doctor", "Look at each part: fine, or what to do."),
    "gc": ("garbage", "Remove what nobody has used for long; on the server's machine."),
    "give-up": ("giving_up", "End jobs whose back end never comes back; on the server's machine."),
    "engine": ("server", "Run the jobs of a data folder, without a web server."),
    "helper": ("server", ""),
}
# fmt: on
"""Command → (its module here, its line in the help; none = not shown)."""

FAILED = 125
"""The exit code of `RUNNING` where polyjob itself failed; of others it is 1."""
STOPPED = 130
"""The exit code after a Ctrl-C."""
RUNNING = ("run", "wait", "restart", "resume", "copy")
"""Commands whose exit code is the job's."""


class Commands(click.Group):
    """Knows its commands by name, and loads the one that is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module = importlib.import_module(f"polyjob.cli.{COMMANDS[cmd_name][0]}")
        command: click.Command = module.commands[cmd_name]
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        rows = [(name, line) for name, (_, line) in COMMANDS.items() if line]
        with formatter.section("Commands"):
            formatter.write_dl(rows)

    def invoke(self, ctx: click.Context) -> Any:
        if os.environ.get("NO_COLOR"):
            ctx.color = False
        try:
            return super().invoke(ctx)
        except click.UsageError as error:
            if ctx.invoked_subcommand not in RUNNING:
                raise
            error.show()
            raise SystemExit(FAILED) from None
        except KeyboardInterrupt:
            raise SystemExit(STOPPED) from None


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(polyjob.__version__, prog_name="polyjob")
def main() -> None:
    """A job server: it builds, runs and keeps every job it accepted.

    Commands speak to the server at POLYJOB_URL with the key POLYJOB_TOKEN, or else to the one on this machine.
    """
