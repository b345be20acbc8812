"""The command line. Each command's module is loaded when it is called: looking at jobs loads no web server."""

from __future__ import annotations

import contextlib
import errno
import importlib
import os
import sys
from typing import Any, NoReturn

import click

import polyjob
from polyjob.cli.streams import OutputFailed, open_closed_streams, silence

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
    "gc": ("gc", "Remove what nobody has used for long; on the server's machine."),
    "give-up": ("abandon", "End jobs whose back end never comes back; on the server's machine."),
    "engine": ("server", "Run the jobs of a data folder, without a web server."),
    "helper": ("server", ""),
}
# fmt: on
"""Command → (its module here, its line in the help; none = not shown)."""

FAILED = 125
"""The exit code of `RUNNING` where polyjob itself failed; of others it is 1."""
STOPPED = 130
"""The exit code after a Ctrl-C."""
LOST_SERVER = 123
"""The exit code of `RUNNING` where the server stopped answering while the job goes on."""
RUNNING = ("run", "wait", "restart", "resume", "copy")
"""Commands whose exit code is the job's."""
EXIT_CODES = (
    "Exits with the job's own code, also if somebody else stopped it; 128+n if signal n ended it (143: stopped). "
    "123: the server stopped answering, and the job goes on. 125: the job has no exit code (polyjob or its build "
    "failed, it was lost, or stopped before it ran), or it ended with 0 and yet did not succeed, as when it answers a "
    "stop with 0. 130: Ctrl-C."
)
"""The help of `RUNNING`; docs/command-line.md has the table."""
OUTPUT_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EFBIG, errno.EBADF)
"""Errors of writing to the standard output."""


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
        except OSError as error:
            if error.errno not in OUTPUT_ERRORS:
                raise
            end_without_output(error, FAILED if ctx.invoked_subcommand in RUNNING else 1)

    def main(self, *args: Any, **extra: Any) -> Any:
        """Run a command and end the process: see `click.Group.main`.

        An output that cannot be written, also one that is still buffered at the end, ends the command with one line.
        """
        open_closed_streams()
        try:
            try:
                return super().main(*args, **extra)
            finally:
                sys.stdout.flush()
        except BrokenPipeError:
            silence(sys.stdout)
            raise SystemExit(1) from None
        except OSError as error:
            if error.errno not in OUTPUT_ERRORS:
                raise
            end_without_output(error, 1)


def end_without_output(error: OSError, code: int) -> NoReturn:
    """Say on the standard error that the output cannot be written, and end the process."""
    silence(sys.stdout)
    with contextlib.suppress(OSError):
        click.echo(f"polyjob: {OutputFailed(error)}", err=True)
    raise SystemExit(code)


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(polyjob.__version__, prog_name="polyjob")
def main() -> None:
    """A job server: it builds, runs and keeps every job it accepted.

    Commands speak to the server at POLYJOB_URL with the key POLYJOB_TOKEN, or else to the one on this machine.
    """
