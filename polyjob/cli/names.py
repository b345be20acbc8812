"""The names of projects, jobs and builds on the command line, as paths of the API."""

from __future__ import annotations

import os
from urllib.parse import quote

from polyjob.cli.client import Client
from polyjob.cli.errors import UsageError
from polyjob.server.bootstrap_names import PROJECT


def project_path(client: Client, name: str | None) -> str:
    """Return `/user/project` for `project`, `user/project` or `user.project`.

    Without a name, the project is POLYJOB_PROJECT, or else the one of the first start. Raises UsageError.
    """
    name = name or os.environ.get("POLYJOB_PROJECT") or PROJECT
    parts = name.replace(".", "/").strip("/").split("/")
    if len(parts) > 2 or not all(parts):
        raise UsageError(f"`{name}` is not a project; use `project` or `user/project`.")
    parts = parts if len(parts) == 2 else [client.me, *parts]
    return "/" + "/".join(quote(part, safe="", errors="replace") for part in parts)


def run_path(client: Client, name: str, project: str | None, kind: str = "jobs") -> str:
    """Return `/user/project/jobs/7` for `7`, `project/7`, `user/project/7` or `user.project.jobs.7`.

    `kind` is "jobs" or "builds". Raises UsageError.
    """
    singular = kind.removesuffix("s")
    parts = name.replace(".", "/").split("/")
    if len(parts) == 4 and parts[2] in ("jobs", "builds") and parts.pop(2) != kind:
        raise UsageError(f"`{name}` is not a {singular}.")
    if not parts[-1].isdecimal() or len(parts) > 3:
        raise UsageError(f"`{name}` is not a {singular}; use a number, `project/7` or `user.project.{kind}.7`.")
    return f"{project_path(client, '/'.join(parts[:-1]) or project)}/{kind}/{parts[-1]}"
