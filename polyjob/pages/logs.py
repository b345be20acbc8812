"""The page of a log: a window on it where scripts run, else a page that grows as the log does."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flask import Response, current_app, render_template, request, url_for
from markupsafe import Markup

from polyjob.api.log_download import log_length
from polyjob.api.request_context import find_project, me, store
from polyjob.api.run_events import follow_run
from polyjob.auth.permissions import Access, requires
from polyjob.db.models import Build, Job
from polyjob.logs.follow import AccessRevoked, FollowInterrupted, LogChunk, RunDeleted, RunEvent, SlotReassigned
from polyjob.logs.line_index import Lines
from polyjob.logs.lines import style_at
from polyjob.logs.watcher import CHUNK_BYTES
from polyjob.pages import formatting
from polyjob.pages.log_html import Rows
from polyjob.services import builds, jobs

PLAIN_BYTES = 1 << 20
"""Without script, the page of a log that is longer begins so far from its end."""
FLUSH = 1.0
"""Seconds without a word after which a line that is not ended is shown as far as it is there."""
SILENCE = 15
"""So many of these, and a line feed is sent, so that no proxy takes the page for dead."""
_MARK = "<!-- rows -->"


@dataclass(frozen=True)
class LogView:
    """What the templates of a log need to know."""

    kind: str
    """Of what wrote it: job or build."""
    name: str
    page: str
    """The log's own page."""
    api: str
    """The log itself; `/lines` and `/search` are below it."""
    up: str
    """The page of what wrote it."""
    is_page: bool


def view_of(run: Job | Build, *, is_page: bool = False) -> LogView:
    """For `log_view.html`, which a page includes with this as `log_view`."""
    kind = "job" if isinstance(run, Job) else "build"
    project = run.project
    names: dict[str, Any] = {"username": project.user.username, "project_name": project.name, f"{kind}_id": run.id}
    page = url_for(f"pages.{kind}_log", **names)
    up = page.removesuffix("/log")
    return LogView(kind, f"Log of {run.name or f'{kind} {run.id}'}", page, f"/api/v1{page}s", up, is_page)


@requires(Access.READ)
def job_log(username: str, project_name: str, job_id: int) -> str | Response:
    job = jobs.find(find_project(username, project_name), job_id)
    return _answer(job, store().job_log(job.uuid))


@requires(Access.READ)
def build_log(username: str, project_name: str, build_id: int) -> str | Response:
    build = builds.find(find_project(username, project_name), build_id)
    return _answer(build, store().build_log(build.uuid))


def is_framed() -> bool:
    """Whether the answer is to stand in another page of this server."""
    return request.endpoint in ("pages.job_log", "pages.build_log") and "frame" in request.args


def _answer(run: Job | Build, log: Path) -> str | Response:
    view = view_of(run, is_page=True)
    if not is_framed() and "plain" not in request.args:
        return render_template("log.html", user=me(), run=run, log_view=view, is_plain=False)
    number, start, rows = _beginning(log)
    html = render_template(
        "log_frame.html" if is_framed() else "log.html",
        user=me(),
        run=run,
        log_view=view,
        is_plain=True,
        first=number,
        rows=Markup(_MARK),
    )
    response = Response(mimetype="text/html")
    response.headers["X-Accel-Buffering"] = "no"
    if request.method == "HEAD":
        return response
    events: Iterable[RunEvent] = _whole(log, start)
    if not run.status.is_done or "all" in request.args:  # either may take long, and only so many may at once
        events = followed = follow_run(run, log, start, idle_after=FLUSH)
        response.call_on_close(followed.close)
    before, _, after = html.partition(_MARK)
    response.response = _page(before, _grown(events, rows, _closing(run, log, view)), after)
    return response


def _beginning(log: Path) -> tuple[int, int, Rows]:
    """The first line to be shown, its first byte, and what makes rows from there on."""
    with Lines(log) as lines:
        number = 0
        if lines.length > PLAIN_BYTES and "all" not in request.args:
            number = min(lines.line_at(lines.length - PLAIN_BYTES) + 1, lines.total - 1)
        start = lines.start(number)
        return number + 1, start, Rows(number + 1, style_at(lines, start))


def _page(before: str, rows: Iterable[str], after: str) -> Iterator[str]:
    yield before
    yield from rows
    yield after


def _grown(events: Iterable[RunEvent], rows: Rows, closing: Callable[[FollowInterrupted | None], str]) -> Iterator[str]:
    """The rows as they come, and how it ended."""
    silent, ending = 0, None
    try:
        for event in events:
            html = rows.add(event.data) if isinstance(event, LogChunk) else rows.so_far()
            silent = silent + 1 if not html else 0
            if html or silent >= SILENCE:
                yield html or "\n"
                silent = 0
    except FollowInterrupted as ended:
        ending = ended
    yield rows.end() + closing(ending)


def _whole(log: Path, start: int) -> Iterator[LogChunk]:
    """The log of what is done."""
    try:
        with log.open("rb", buffering=0) as file:
            file.seek(start)
            while data := file.read(CHUNK_BYTES):
                start += len(data)
                yield LogChunk(data, start)
    except FileNotFoundError:
        return


def _closing(run: Job | Build, log: Path, view: LogView) -> Callable[[FollowInterrupted | None], str]:
    """What makes the last words below the rows, at a time when no request's context is left."""
    template = current_app.jinja_env.get_template("log_end.html")
    start = url_for("pages.all_jobs")

    def close(ending: FollowInterrupted | None) -> str:
        if isinstance(ending, RunDeleted):
            return template.render(said="It was deleted, and its log with it.", link=start, word="All jobs")
        if isinstance(ending, AccessRevoked):
            return template.render(said="You may no longer see this log.", link=start, word="All jobs")
        if isinstance(ending, SlotReassigned):
            said = "Too many logs are followed, and another user needs the place."
            return template.render(said=said, link=view.page, word="Load the log again")
        if ending is not None:
            return template.render(said="The server restarts.", link=view.page, word="Load the log again")
        said, why = _how_it_ended(run)
        said = said if log_length(log) else f"Nothing was written. {said}"
        return template.render(said=said, why=why, link=view.up, word=f"The {view.kind}")

    return close


def _how_it_ended(run: Job | Build) -> tuple[str, str]:
    """(its status, why)"""
    if isinstance(run, Job):
        job = Job.get_by_id(run.id)
        last = list(jobs.list_statuses(job))[-1]
        return _sentence(job.status), formatting.why(job.status, job.exit, last.message, last.details or {}, None)
    build = Build.get_by_id(run.id)
    return _sentence(build.status), ""


def _sentence(status: str) -> str:
    return f"{status.replace('_', ' ').capitalize()}."
