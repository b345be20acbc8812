"""`polyjob give-up`: ends jobs whose back end never comes back."""

from __future__ import annotations

from pathlib import Path

import click

from polyjob.cli.data_dir import opened


@click.command("give-up")
@click.argument("jobs", nargs=-1, type=click.IntRange(1))
@click.option("--all", "is_all", is_flag=True, help="All that wait for a back end that does not answer.")
@click.option("--data-dir", type=click.Path(file_okay=False, path_type=Path), help="Folder that holds everything.")
def give_up(jobs: tuple[int, ...], is_all: bool, data_dir: Path | None) -> None:
    """End the JOBS (their numbers) whose back end is gone for good: they fail, reason `lost`, with the log so far.

    Without JOBS, lists those that wait for a back end that does not answer. polyjob itself never gives one up: it may
    still run. Should the back end come back after all, what it has of them is removed.
    """
    from polyjob.services import abandon

    if jobs and is_all:
        raise click.UsageError("Either JOBS or --all.")
    with opened(data_dir) as settings:
        if jobs or is_all:
            given_up = abandon.abandon_jobs(None if is_all else jobs, settings)
            for job in given_up:
                click.echo(f"{job.unique_name} was given up.")
            left = sorted(set(jobs) - {job.id for job in given_up})
            for number in left:
                click.echo(f"polyjob: job {number} waits for no back end that does not answer", err=True)
            if left:
                raise SystemExit(1)
            return
        waiting = abandon.stalled_jobs()
        for job in waiting:
            click.echo(f"{job.unique_name}: {abandon.stalled_reason(job)}")
        if waiting:
            click.echo("Give them up by their numbers, or with --all.")
        else:
            click.echo("No job waits for a back end that does not answer.")


commands = {"give-up": give_up}
