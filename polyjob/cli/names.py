"""The names of projects, jobs and builds on the command line, as paths of the API."""

from __future__ import annotations

import os
import re
from urllib.parse import quote

from polyjob.cli.client import Client
from polyjob.cli.errors import UsageError
from polyjob.server.bootstrap_names import PROJECT

ALL_JOBS = "/projects/jobs"
"""The path of the list of the jobs of all projects."""
_NAME = re.compile(r"\w[-\w]*\Z", re.ASCII)
"""Names of jobs. One that begins with `-` has to be written with its project."""


def chosen_project(name: str | None) -> str | None:
    """Return the project of the option, or else POLYJOB_PROJECT, or None."""
    return name or os.environ.get("POLYJOB_PROJECT") or None


def project_path(client: Client, name: str | None) -> str:
    """Return `/user/project` for `project`, `user/project` or `user.project`.

    Without a name, the project is POLYJOB_PROJECT, or else the one of the first start. Raises UsageError.
    """
    name = chosen_project(name) or PROJECT
    parts = name.replace(".", "/").strip("/").split("/")
    if len(parts) > 2 or not all(parts):
        raise UsageError(f"`{name}` is not a project; use `project` or `user/project`.")
    parts = parts if len(parts) == 2 else [client.me, *parts]
    return "/" + "/".join(quote(part, safe="", errors="replace") for part in parts)


def run_path(client: Client, name: str, project: str | None, kind: str = "jobs") -> str:
    """Return `/user/project/jobs/7` for `7`, `project/7`, `user/project/7` or `user.project.jobs.7`.

    A job's name can stand in place of its number. Without a project and POLYJOB_PROJECT, a job is looked for in all
    projects. `kind` is "jobs" or "builds". Raises UsageError.
    """
    singular = kind.removesuffix("s")
    parts = name.replace(".", "/").split("/")
    if len(parts) == 4 and parts[2] in ("jobs", "builds") and parts.pop(2) != kind:
        raise UsageError(f"`{name}` is not a {singular}.")
    is_name = kind == "jobs" and _NAME.match(parts[-1]) and not parts[-1].isdecimal()
    if not (is_name or parts[-1].isdecimal()) or len(parts) > 3:
        or_name = "a name, " if kind == "jobs" else ""
        raise UsageError(
            f"`{name}` is not a {singular}; use a number, {or_name}`project/7` or `user.project.{kind}.7`."
        )
    project = "/".join(parts[:-1]) or chosen_project(project)
    if kind == "jobs" and (is_name or not project):
        return _find_job(client, parts[-1], project_path(client, project) if project else None)
    return f"{project_path(client, project)}/{kind}/{parts[-1]}"


def _find_job(client: Client, name: str, project: str | None) -> str:
    """Return the path of the job with this number or name: in the project at this path, or in all projects.

    Archived jobs are found as well. Raises UsageError if there is none, or if there are several.
    """
    condition = f"{'id' if name.isdecimal() else 'name'}:{name}"
    path = f"{project}/jobs" if project else ALL_JOBS
    jobs = client.get(path, query=condition)["results"]
    jobs = jobs or client.get(path, query=f"{condition},archived:true")["results"]
    if not jobs:
        subject = f"job {name}" if name.isdecimal() else f"job named `{name}`"
        raise UsageError(f"There is no {subject}, or you may not see it. `polyjob ls` lists the jobs.")
    if len(jobs) > 1:
        names = ", ".join(job["unique_name"] for job in jobs)
        raise UsageError(f"Several jobs are named `{name}`: {names}. Use one of their numbers, or `-p PROJECT`.")
    return "/" + str(jobs[0]["unique_name"]).replace(".", "/")
