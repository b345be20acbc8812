"""The rows of a list of jobs as HTML. Python composes them in a fraction of the time that a template takes."""

from __future__ import annotations

from collections.abc import Callable

from markupsafe import Markup, escape

from polyjob.db.models import Job, Project
from polyjob.pages.job_list import Page
from polyjob.pages.markup import status_badge, title_of, took, when
from polyjob.pages.urls import project_url

_BOOKMARKED = ' <span class="bookmarked" title="Bookmarked">★<span class="unseen"> bookmarked</span></span>'


def job_rows(page: Page, shows_projects: bool, restore_button: Callable[[Job], Markup]) -> Markup:
    """Return the rows of the page. What several jobs have in common is escaped and formatted once.

    `restore_button` returns the button of an archived job; empty if the user may not restore it.
    """
    projects = {job.project_id: job.project for job in page.jobs}
    urls = {project_id: escape(project_url(project)) for project_id, project in projects.items()}
    cells = {
        project_id: _project_cell(project, urls[project_id]) if shows_projects else ""
        for project_id, project in projects.items()
    }
    usernames = {name: escape(name) for name in {job.user.username for job in page.jobs}}
    tags = {tag: _tag_link(page, tag) for tag in {tag for job in page.jobs for tag in job.tags or []}}
    rows = []
    for job in page.jobs:
        note = f' <span class="faint">{escape(page.notes[job.id])}</span>' if job.id in page.notes else ""
        duration = f'<span class="phone">took </span>{escape(length)}' if (length := took(job)) else ""
        title = _title(job, f"{urls[job.project_id]}/jobs/{job.id}")
        restore = restore_button(job) if job.archived_at else ""
        bookmark = _BOOKMARKED if job.id in page.bookmarked else ""
        rows.append(f"""
    <tr data-part="job-{job.id}">
      <td>{status_badge(job.status)}{note}</td>
      <th scope="row">{title}{restore}{bookmark}{"".join(tags[tag] for tag in job.tags or [])}</th>
      {cells[job.project_id]}
      <td>{usernames[job.user.username]}</td>
      <td><span class="phone">submitted </span>{when(job.created_at)}</td>
      <td class="changed">{when(job.updated_at)}</td>
      <td class="number">{duration}</td>
    </tr>
    """)
    return Markup("".join(rows))


def _title(job: Job, url: str) -> str:
    """Return the title as a link to the job's page, which an archived job does not have, and its number."""
    title = title_of(job)
    link = title if job.archived_at else f'<a href="{url}">{title}</a>'
    return f'{link} <span class="faint">#{job.id}</span>' if job.name or job.command else link


def _project_cell(project: Project, url: Markup) -> str:
    name = escape(f"{project.user.username}/{project.name}")
    return f'<td><a class="quiet" href="{url}">{name}</a></td>'


def _tag_link(page: Page, tag: str) -> str:
    url = escape(page.request.url(query=f"tags:{tag}"))
    return f' <a class="tag" href="{url}">{escape(tag)}</a>'
