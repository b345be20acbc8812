"""The URLs of the pages, which each page builds many times."""

from __future__ import annotations

from functools import lru_cache

from flask import request, url_for

from polyjob.db.models import Build, Job, Project

MAX_REMEMBERED_URLS = 1024


def page_url(endpoint: str, **values: str | int) -> str:
    """Return the same as `url_for`, and remember it: to build a URL takes longer than to render a cell of a list."""
    return _remembered_url(request.environ.get("SCRIPT_NAME", ""), endpoint, **values)


@lru_cache(MAX_REMEMBERED_URLS)
def _remembered_url(script_name: str, endpoint: str, **values: str | int) -> str:
    """Build the URL. Of the request, it depends on `script_name` alone."""
    return url_for(endpoint, **values)  # type: ignore[arg-type]


def own_path() -> str:
    """Return the path of the page that this request is for."""
    return f"{request.script_root}{request.path}"


def project_url(project: Project) -> str:
    return page_url("pages.project_jobs", username=project.user.username, project_name=project.name)


def job_url(job: Job) -> str:
    return f"{project_url(job.project)}/jobs/{job.id}"


def build_url(build: Build) -> str:
    return f"{project_url(build.project)}/builds/{build.id}"


def run_url(run: Job | Build) -> str:
    return job_url(run) if isinstance(run, Job) else build_url(run)


def api_url(run: Job | Build) -> str:
    """Return the URL of a job or build in the API, on this server."""
    return f"{request.script_root}{api_path(run)}"


def api_path(run: Job | Build) -> str:
    """Return the same below the path of this server, to be added to its address."""
    return f"/api/v1{run_url(run).removeprefix(request.script_root)}"
