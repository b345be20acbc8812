"""`polyjob abandon`: end jobs whose backend does not answer any more."""

from __future__ import annotations

from pathlib import Path

import click

from polyjob.cli.data_dir import open_data_dir
from polyjob.cli.options import data_dir_option, json_option
from polyjob.cli.output import print_json, say


@click.command()
@click.argument("jobs", nargs=-1, type=click.IntRange(1))
@click.option("--all", "is_all", is_flag=True, help="Abandon all jobs that wait for a backend.")
@data_dir_option
@json_option
def abandon(jobs: tuple[int, ...], is_all: bool, data_dir: Path | None, is_json: bool) -> None:
    """End JOBS (numbers) whose backend is lost for good. They fail with reason `lost`, and keep the log so far.

    Without JOBS, list the jobs that wait for a backend that does not answer. polyjob never abandons a job by itself,
    because the job may still be running. If the backend comes back later, polyjob removes these jobs from it.
    """
    from polyjob.services.abandon import abandon_jobs, stalled_jobs, stalled_reason

    if jobs and is_all:
        raise click.UsageError("Use either JOBS or --all.")
    with open_data_dir(data_dir) as settings:
        if jobs or is_all:
            abandoned = abandon_jobs(None if is_all else jobs, settings)
            if is_json:
                print_json([{"job": job.unique_name} for job in abandoned])
            for job in [] if is_json else abandoned:
                click.echo(f"{job.unique_name} was abandoned.")
            others = sorted(set(jobs) - {job.id for job in abandoned})
            for job_id in others:
                say(f"polyjob: job {job_id} does not wait for a backend")
            if others:
                raise SystemExit(1)
            return
        stalled = stalled_jobs()
        if is_json:
            print_json([{"job": job.unique_name, "reason": stalled_reason(job)} for job in stalled])
            return
        for job in stalled:
            click.echo(f"{job.unique_name}: {stalled_reason(job)}")
        if stalled:
            click.echo("Abandon them by their numbers, or with --all.")
        else:
            click.echo("No job waits for a backend that does not answer.")


commands = {"abandon": abandon, "give-up": abandon}
