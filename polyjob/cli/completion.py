"""Shell completion: the scripts of the shells, and the numbers and names of jobs."""

from __future__ import annotations

import click
from click.shell_completion import CompletionItem, get_completion_class

from polyjob.cli.names import ALL_JOBS
from polyjob.cli.streams import printable

TIMEOUTS_SECONDS = (0.5, 2.0)
"""Times to connect and to read. Without an answer, nothing is completed."""
SUGGESTED_JOBS = 50
"""Jobs that are suggested, last submitted first."""


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print the script that completes commands, options and jobs.

    \b
      bash, in ~/.bashrc:  eval "$(polyjob completion bash)"
      zsh, in ~/.zshrc:    eval "$(polyjob completion zsh)"
      fish:                polyjob completion fish > ~/.config/fish/completions/polyjob.fish
    """
    from polyjob.cli import main

    script = get_completion_class(shell)
    assert script is not None
    click.echo(script(main, {}, "polyjob", "_POLYJOB_COMPLETE").source())


def complete_jobs(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Return the numbers, or the names, of the latest jobs that begin with `incomplete`. Never raises."""
    try:
        from polyjob.cli.connect import connect

        with ctx.scope(cleanup=False):  # where `connect` finds `--server`
            client = connect()
        params: dict[str, str | int] = {"sort": "-created_at", "limit": SUGGESTED_JOBS}
        address = f"{client.url}/api/v1{ALL_JOBS}"
        response = client.http.get(address, params=params, timeout=TIMEOUTS_SECONDS, verify=client.ca_file or True)
        jobs = response.json()["results"]
    except Exception:  # an error would be printed into the command line that is being typed
        return []
    is_number = not incomplete or incomplete.isdecimal()
    words = [(str(job["id"]) if is_number else job["name"] or "", job) for job in jobs]
    return [
        CompletionItem(word, help=printable(f"{job['last_status']}  {job['command'] or ''}"))
        for word, job in words
        if word and word.startswith(incomplete)
    ]


def complete_servers(incomplete: str) -> list[CompletionItem]:
    """Return the saved servers whose names begin with `incomplete`. Never raises."""
    try:
        from polyjob.cli.profiles import read_profiles

        profiles, _ = read_profiles()
    except Exception:
        return []
    return [CompletionItem(name, help=one.url) for name, one in profiles.items() if name.startswith(incomplete)]


commands = {"completion": completion}
