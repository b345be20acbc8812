"""The command line. A command's module is imported when the command runs: commands of clients import no web server."""

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
    "run": ("run", "Run a command as a job and show its output."),
    "attach": ("attach", "Show the output of a job until it has finished."),
    "ls": ("jobs", "List jobs."),
    "show": ("jobs", "Show a job."),
    "logs": ("jobs", "Print the log of a job or build."),
    "statuses": ("jobs", "Show the status history of a job."),
    "wait": ("run", "Wait until jobs have finished; exit with the job's exit code."),
    "outputs": ("outputs", "Download, list or print the output files of a job."),
    "stop": ("jobs", "Stop jobs."),
    "restart": ("clones", "Run a job's config again, with empty outputs."),
    "resume": ("clones", "Run a job's config again, continuing with its outputs."),
    "copy": ("clones", "Run a job's config again, with a copy of its outputs."),
    "archive": ("job_changes", "Hide jobs from lists."),
    "unarchive": ("job_changes", "Show archived jobs in lists again."),
    "bookmark": ("job_changes", "Bookmark jobs."),
    "tag": ("job_changes", "Add tags to a job."),
    "rename": ("job_changes", "Change the name of a job."),
    "open": ("job_changes", "Print the address of a job's page, or open it."),
    "delete": ("jobs", "Delete jobs with their logs and outputs."),
    "schedule": ("schedules", "Run jobs at certain times: every night, or once."),
    "builds": ("builds", "List the builds of a project."),
    "audit": ("audit", "Show who changed a job, or all changes on the server."),
    "projects": ("projects", "List, show and change projects."),
    "members": ("members", "Share a project with other users."),
    "webhook": ("webhooks", "Send events of jobs to a URL."),
    "secret": ("secrets", "Manage secrets, which jobs receive as variables."),
    "token": ("tokens", "Create, list and revoke tokens."),
    "user": ("users", "Manage users."),
    "slots": ("capacity", "Show and change how many jobs run at once."),
    "gpus": ("capacity", "Show and change the GPUs that jobs may use."),
    "volumes": ("volumes", "List the folders of the server that jobs can use."),
    "login": ("login", "Save a server and your token."),
    "completion": ("completion", "Print the completion script of a shell."),
    "doctor": ("doctor", "Check each part of the installation."),
    "backup": ("backups", "Save the database, logs, outputs and uploads in one file, on the server's machine."),
    "restore": ("backups", "Make a data folder from a backup."),
    "upgrade": ("upgrade", "Check whether this version can take over a data folder, on the server's machine."),
    "install": ("service", "Run polyjob as a service that starts with the machine."),
    "uninstall": ("service", "Stop the service and remove it."),
    "gc": ("gc", "Remove unused build artifacts and old jobs' files, on the server's machine."),
    "abandon": ("abandon", "End jobs whose backend does not answer any more, on the server's machine."),
    "give-up": ("abandon", ""),
    "engine": ("server", "Run the jobs of a data folder without a web server."),
    "helper": ("server", ""),
}
# fmt: on
"""Command → (its module in this package, its line in the help; empty = hidden)."""

WITHOUT_SERVER_OPTIONS = frozenset(
    {"serve", "engine", "helper", "backup", "restore", "upgrade", "install", "uninstall", "gc", "abandon", "give-up"}
    | {"completion", "login"}
)
"""Commands that do not talk to a chosen server: they work on this machine, or like `login`, name a server themselves.
"""

ALIASES = {"ps": "ls", "list": "ls", "status": "show", "cancel": "stop"}
"""Other name of a command → the command. For users of other tools."""

EXIT_FAILED = 125
"""Exit code of `JOB_COMMANDS` if polyjob itself failed. For the other commands it is 1."""
EXIT_INTERRUPTED = 130
"""Exit code after Ctrl-C."""
EXIT_LOST_SERVER = 123
"""Exit code of `JOB_COMMANDS` if the server stopped answering while the job continues."""
JOB_COMMANDS = ("run", "attach", "wait", "restart", "resume", "copy")
"""Commands whose exit code is the job's."""
EXIT_CODES_HELP = (
    "The exit code is the job's own, or 128+n if signal n ended the job (143: stopped). 123: the server stopped "
    "answering and the job continues. 125: there is no exit code (wrong usage, no server, a failed build, or a job "
    "that was lost, or stopped before it ran), or the job exited with 0 but did not succeed, for example after a stop. "
    "130: Ctrl-C."
)
"""Help of `JOB_COMMANDS`; docs/command-line.md has the complete table."""
OUTPUT_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EFBIG, errno.EBADF)
"""Errors of writing to the standard output."""


class Commands(click.Group):
    """A group that knows its commands by name and imports only the one that runs."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command. The error for an unknown one suggests the nearest."""
        name = click.utils.make_str(args[0])
        if name in COMMANDS or name in ALIASES or name.startswith("-"):
            return super().resolve_command(ctx, args)
        from polyjob.cli.suggestions import nearest

        suggestion = nearest(name, [*(name for name, (_, line) in COMMANDS.items() if line), *ALIASES])
        hint = f" Did you mean `{suggestion}`?" if suggestion else ""
        raise click.UsageError(f"There is no command `{name}`.{hint}", ctx)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        cmd_name = ALIASES.get(cmd_name, cmd_name)
        if cmd_name not in COMMANDS:
            return None
        module = importlib.import_module(f"polyjob.cli.{COMMANDS[cmd_name][0]}")
        command: click.Command = module.commands[cmd_name]
        if cmd_name not in WITHOUT_SERVER_OPTIONS:
            _add_server_options(command)
        return command

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[click.shell_completion.CompletionItem]:
        """Complete commands without importing them."""
        item = click.shell_completion.CompletionItem
        items = [item(name, help=line) for name, (_, line) in COMMANDS.items() if line and name.startswith(incomplete)]
        return [*items, *click.Command.shell_complete(self, ctx, incomplete)]

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        rows = [(name, line) for name, (_, line) in COMMANDS.items() if line]
        with formatter.section("Commands"):
            formatter.write_dl(rows)
        aliases = ", ".join(f"{alias} = {name}" for alias, name in ALIASES.items())
        formatter.write_paragraph()
        formatter.write_text(f"Other names: {aliases}.")

    def invoke(self, ctx: click.Context) -> Any:
        if os.environ.get("NO_COLOR"):
            ctx.color = False
        warn_of_misspelled_variables()
        try:
            return super().invoke(ctx)
        except click.UsageError as error:
            if ctx.invoked_subcommand not in JOB_COMMANDS:
                raise
            error.show()
            raise SystemExit(EXIT_FAILED) from None
        except KeyboardInterrupt:
            raise SystemExit(EXIT_INTERRUPTED) from None
        except OSError as error:
            if error.errno not in OUTPUT_ERRORS:
                raise
            end_without_output(error, EXIT_FAILED if ctx.invoked_subcommand in JOB_COMMANDS else 1)

    def main(self, *args: Any, **extra: Any) -> Any:
        """Run a command and end the process, as `click.Group.main` does.

        If the output cannot be written, the command ends with one line of error. This includes output that is still
        buffered when the command ends.
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


def _server_options() -> list[click.Option]:
    """Return the options that choose the server. They stand before or after the command, and the last one counts."""

    def use(ctx: click.Context, param: click.Parameter, value: str | None) -> None:
        if value is not None and param.name:
            ctx.meta[param.name] = value  # all contexts of a command line share it

    return [
        click.Option(
            ["--server"], metavar="NAME", help="Use a server that `polyjob login` has saved.",
            shell_complete=_complete_servers, expose_value=False, callback=use,
        ),
        click.Option(
            ["--ca-file"], metavar="FILE", help="Certificate of the authority of the server's certificate.",
            type=click.Path(), expose_value=False, callback=use,
        ),
    ]  # fmt: skip


def _complete_servers(
    ctx: click.Context, param: click.Parameter, incomplete: str
) -> list[click.shell_completion.CompletionItem]:
    module = importlib.import_module("polyjob.cli.completion")
    items: list[click.shell_completion.CompletionItem] = module.complete_servers(incomplete)
    return items


def _add_server_options(command: click.Command) -> None:
    """Give a command, and the commands of a group, the options that choose the server. Idempotent."""
    if not any(param.name == "server" for param in command.params):
        command.params += _server_options()
    for each in command.commands.values() if isinstance(command, click.Group) else ():
        _add_server_options(each)


def warn_of_misspelled_variables() -> None:
    """Warn of each variable of the environment that is probably meant to be a setting."""
    if not any(name.startswith("POLYJOB_") for name in os.environ):
        return
    from polyjob.cli.suggestions import misspelled_variables

    for name, setting in misspelled_variables(os.environ):
        with contextlib.suppress(OSError):
            click.echo(f"polyjob: {name} is not a setting and has no effect; did you mean {setting}?", err=True)


def end_without_output(error: OSError, exit_code: int) -> NoReturn:
    """Report on the standard error that the output cannot be written, and end the process."""
    silence(sys.stdout)
    with contextlib.suppress(OSError):
        click.echo(f"polyjob: {OutputFailed(error)}", err=True)
    raise SystemExit(exit_code)


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(polyjob.__version__, prog_name="polyjob")
def main() -> None:
    """A job server that builds and runs every job it accepts, and keeps its log and outputs.

    Commands talk to the server at POLYJOB_URL with the token POLYJOB_TOKEN. Without these, they talk to the server of
    `polyjob login`, or else to the one on this machine.
    """


main.params += _server_options()
