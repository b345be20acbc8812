"""The URLs of projects, jobs and builds on the pages."""

from __future__ import annotations

from flask import url_for

from polyjob.db.models import Build, Job, Project


def project_url(project: Project) -> str:
    return url_for("pages.project_jobs", username=project.user.username, project_name=project.name)


def job_url(job: Job) -> str:
    return f"{project_url(job.project)}/jobs/{job.id}"


def build_url(build: Build) -> str:
    return f"{project_url(build.project)}/builds/{build.id}"


def run_url(run: Job | Build) -> str:
    return job_url(run) if isinstance(run, Job) else build_url(run)
