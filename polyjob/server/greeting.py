"""The greeting of `polyjob serve`: addresses, a sign-in link, whose rights jobs have, and commands to try."""

from __future__ import annotations

import json
import os
import pwd
import shlex

from peewee import DatabaseError

from polyjob.db.database import close_database, database, open_database
from polyjob.db.models import CLAIMED, Job
from polyjob.server.bootstrap import new_sign_in_token, stored_token
from polyjob.server.bootstrap_names import PROJECT, TOKEN_FILE, USER
from polyjob.server.terminal import warn
from polyjob.settings import Settings
from polyjob.storage.store import Store
from runners.process.isolation import gaps
from runners.registry import runner_facts

FIRST_JOB = {"version": 1, "kind": "job", "run": {"cmd": "for i in 1 2 3; do echo hello $i; sleep 1; done"}}
FIRST_IMAGE = "busybox"
"""Image of the first job, if jobs of the runner need one."""


def greeting(settings: Settings) -> list[str]:
    """Return the lines of the greeting. The sign-in link in it is new. Needs the open database."""
    return [
        f"polyjob is running on {settings.url}",
        "",
        *_address_lines(settings),
        *_account_lines(settings),
        "",
        *_first_commands(settings),
        "",
        "Ctrl-C stops the server. Running jobs continue.",
    ]


def _address_lines(settings: Settings) -> list[str]:
    path = settings.data_dir / TOKEN_FILE
    link = _sign_in_token(settings)
    return [
        f"  page:  {settings.url}/sign-in/{link}  (signs {USER} in, once, within an hour)"
        if link
        else f"  page:  {settings.url}/",
        f"  data:  {settings.data_dir}",
        f"  token: {path if stored_token(settings.data_dir) else f'not in {path}; set POLYJOB_TOKEN to yours'}",
    ]


def _sign_in_token(settings: Settings) -> str | None:
    try:
        return new_sign_in_token()
    except (OSError, DatabaseError):
        free = Store(settings.data_dir).free_bytes() >> 10
        warn(f"no sign-in link could be created: the database cannot be written, {free} KiB are free")
        return None


def _account_lines(settings: Settings) -> list[str]:
    """Return lines that tell with whose rights the jobs of the process runner run."""
    if "process" not in settings.runner_names:
        return []
    if settings.job_user:
        return [
            f"  jobs:  run as user {settings.job_user}",
            *(f"  Warning: {gap}" for gap in gaps(settings.job_user)),
        ]
    account = _account()
    return [
        "",
        f'  Warning: jobs run as user "{account}". Anyone who can submit jobs can do anything {account} can.',
    ]


def _account() -> str:
    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        return str(os.geteuid())


def _first_commands(settings: Settings) -> list[str]:
    """Return curl commands that submit a job and follow its log."""
    token = stored_token(settings.data_dir)
    jobs_url = f"{settings.url}/api/v1/{USER}/{PROJECT}/jobs"
    header = f"Authorization: token {token or '$POLYJOB_TOKEN'}"
    authorization = shlex.quote(header) if token else f'"{header}"'
    body = json.dumps({"config": FIRST_JOB | _first_build(settings)})
    job_id = next_job_id()
    log_url = shlex.quote(f"{jobs_url}/{job_id}/logs?follow=true")
    return [
        "Submit a job:",
        "",
        f"  curl -s -X POST -H {authorization} -H 'Content-Type: application/json' -d {shlex.quote(body)} {jobs_url}",
        "",
        f"Follow its log (the next job is number {job_id}):",
        "",
        f"  curl -s -N -H {authorization} {log_url}",
    ]


def _first_build(settings: Settings) -> dict[str, dict[str, str]]:
    """Return the `build` section of the first job.

    On a cluster, its image is the helper image: the nodes need that one in any case, even without a network.
    """
    if "build.image" not in runner_facts(settings.runner).required_parts:
        return {}
    image = settings.kubernetes.helper_image if settings.runner == "kubernetes" else FIRST_IMAGE
    return {"build": {"image": image}}


def next_job_id() -> int:
    """Return the id of the next job that is submitted."""
    row = database.execute_sql("SELECT seq FROM sqlite_sequence WHERE name = 'job'").fetchone()
    return (row[0] if row else 0) + 1


def running_jobs_message(settings: Settings) -> str | None:
    """Return how many jobs continue without the server; None if there are none, or if the data folder is missing."""
    try:
        open_database(settings.data_dir)
        count = Job.select().where(CLAIMED, Job.exit.is_null()).count()
    except (OSError, DatabaseError):
        return None
    finally:
        close_database()
    if count == 1:
        return "1 job is still running. The next start of polyjob continues with it."
    return f"{count} jobs are still running. The next start of polyjob continues with them." if count else None
