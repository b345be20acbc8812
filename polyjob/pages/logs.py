"""The page of a log.

With JavaScript, it fetches the visible lines through the API. Without JavaScript, it is one long response that grows
with the log.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from flask import Response, current_app, render_template, request, url_for
from markupsafe import Markup

from polyjob.api.request_context import find_build, find_job, me, store
from polyjob.api.run_events import follow_run
from polyjob.auth.permissions import Access, requires
from polyjob.db.models import Build, Job
from polyjob.formatting import sentence, status_word
from polyjob.logs.files import log_length
from polyjob.logs.follow import AccessRevoked, FollowInterrupted, LogChunk, RunDeleted, RunEvent, SlotReassigned
from polyjob.logs.line_index import LogLines
from polyjob.logs.lines import style_at
from polyjob.logs.times import LineTimes
from polyjob.logs.watcher import CHUNK_BYTES
from polyjob.pages.explanations import explain_status
from polyjob.pages.log_html import LogRows
from polyjob.pages.markup import name_of
from polyjob.pages.urls import api_url, run_url
from polyjob.services import jobs

MAX_PLAIN_BYTES = 1 << 20
"""Without JavaScript, the page of a longer log shows only its last part."""
FLUSH_SECONDS = 1.0
"""The pause in a log after which the page shows the start of an unfinished line."""
KEEPALIVE_EVENTS = 15
"""After so many events without output the page gets a line feed, so that proxies keep the connection open."""
_OPTIONS = ("plain", "wrap", "all", "times")
_ROWS_PLACEHOLDER = "<!-- rows -->"


@dataclass(frozen=True)
class LogView:
    """The description of a log that its templates use."""

    kind: str
    """`job` or `build`."""
    name: str
    page: str
    """The URL of the page that shows only the log."""
    api: str
    """The URL of the raw log; `/lines` and `/search` are below it."""
    run_page: str
    """The URL of the job's or build's page."""
    is_page: bool
    options: Mapping[str, bool]
    """`plain`, `wrap`, `all` and `times`: whether the request has them."""

    @property
    def has_times(self) -> bool:
        return self.options["times"]

    def link(self, **changes: bool) -> str:
        """Return the URL of the page that shows only the log, with changed options."""
        return f"{self.page}{_query({**self.options, **changes})}"

    def times_toggle(self) -> str:
        """Return the URL of the present page with times, or without if it has them."""
        if self.is_page:
            return self.link(times=not self.has_times)
        return f"{self.run_page}{_query({'times': not self.has_times})}#log"


def _query(options: Mapping[str, bool]) -> str:
    names = [name for name, is_set in options.items() if is_set]
    return "?" + "&".join(f"{name}=1" for name in names) if names else ""


def log_view(run: Job | Build, *, is_page: bool = False) -> LogView:
    """Return the variable `log_view` of `log_view.html`."""
    kind = "job" if isinstance(run, Job) else "build"
    page = f"{run_url(run)}/log"
    return LogView(
        kind,
        f"Log of {name_of(run) if isinstance(run, Job) else run.name or f'build {run.id}'}",
        page,
        f"{api_url(run)}/logs",
        run_url(run),
        is_page,
        {name: name in request.args for name in _OPTIONS},
    )


@requires(Access.READ)
def job_log(username: str, project_name: str, job_id: int) -> str | Response:
    job = find_job(username, project_name, job_id)
    return _respond(job, store().job_log(job.uuid))


@requires(Access.READ)
def build_log(username: str, project_name: str, build_id: int) -> str | Response:
    build = find_build(username, project_name, build_id)
    return _respond(build, store().build_log(build.uuid))


def is_framed() -> bool:
    """Return whether the request is for a log page inside another page of this server."""
    return request.endpoint in ("pages.job_log", "pages.build_log") and "frame" in request.args


def _respond(run: Job | Build, log: Path) -> str | Response:
    view = log_view(run, is_page=True)
    if not is_framed() and "plain" not in request.args:
        return render_template("log.html", user=me(), run=run, log_view=view, is_plain=False)
    times = LineTimes(log) if view.has_times else None
    line_number, start, rows = _first_row(log, times)
    html = render_template(
        "log_frame.html" if is_framed() else "log.html",
        user=me(),
        run=run,
        log_view=view,
        is_plain=True,
        first=line_number,
        rows=Markup(_ROWS_PLACEHOLDER),
    )
    response = Response(mimetype="text/html")
    response.headers["X-Accel-Buffering"] = "no"
    if times is not None:
        response.call_on_close(times.close)
    if request.method == "HEAD":
        return response
    events: Iterable[RunEvent] = _read_log(log, start)
    if not run.status.is_done or "all" in request.args:  # these can take long, so they count as followers
        events = followed = follow_run(run, log, start, idle_after=FLUSH_SECONDS)
        response.call_on_close(followed.close)
    before, _, after = html.partition(_ROWS_PLACEHOLDER)
    response.response = _page(before, _rows_html(events, rows, _end_renderer(run, log, view)), after)
    return response


def _first_row(log: Path, times: LineTimes | None) -> tuple[int, int, LogRows]:
    """Return the number of the first line to show, its offset, and the converter that starts there."""
    with LogLines(log) as lines:
        index = 0
        if lines.length > MAX_PLAIN_BYTES and "all" not in request.args:
            index = min(lines.line_at(lines.length - MAX_PLAIN_BYTES) + 1, lines.total - 1)
        start = lines.start(index)
        return index + 1, start, LogRows(index + 1, style_at(lines, start), start, times)


def _page(before: str, rows: Iterable[str], after: str) -> Iterator[str]:
    yield before
    yield from rows
    yield after


def _rows_html(
    events: Iterable[RunEvent], rows: LogRows, render_end: Callable[[FollowInterrupted | None], str]
) -> Iterator[str]:
    """Yield the rows as the log grows, and below them the text that `render_end` returns."""
    silent_events, interruption = 0, None
    try:
        for event in events:
            html = rows.add(event.data) if isinstance(event, LogChunk) else rows.flush()
            silent_events = silent_events + 1 if not html else 0
            if html or silent_events >= KEEPALIVE_EVENTS:
                yield html or "\n"
                silent_events = 0
    except FollowInterrupted as error:
        interruption = error
    yield rows.end() + render_end(interruption)


def _read_log(log: Path, start: int) -> Iterator[LogChunk]:
    """Read the log of a run that has ended."""
    try:
        with log.open("rb", buffering=0) as file:
            file.seek(start)
            while data := file.read(CHUNK_BYTES):
                start += len(data)
                yield LogChunk(data, start)
    except FileNotFoundError:
        return


def _end_renderer(run: Job | Build, log: Path, view: LogView) -> Callable[[FollowInterrupted | None], str]:
    """Return a function that renders the text below the last row. It needs no request context when it is called."""
    template = current_app.jinja_env.get_template("log_end.html")
    all_jobs = url_for("pages.all_jobs")

    def render_end(interruption: FollowInterrupted | None) -> str:
        if isinstance(interruption, RunDeleted):
            text = f"The {view.kind} and its log were deleted."
            return template.render(text=text, link=all_jobs, label="All jobs")
        if isinstance(interruption, AccessRevoked):
            return template.render(text="You no longer have access to this log.", link=all_jobs, label="All jobs")
        if isinstance(interruption, SlotReassigned):
            text = "Too many clients follow logs; this connection was closed for another user."
            return template.render(text=text, link=view.page, label="Reload the log")
        if interruption is not None:
            return template.render(text="The server is restarting.", link=view.page, label="Reload the log")
        text, explanation = _outcome(run)
        text = text if log_length(log) else f"The log is empty. {text}"
        return template.render(text=text, explanation=explanation, link=view.run_page, label=f"Back to the {view.kind}")

    return render_end


def _outcome(run: Job | Build) -> tuple[str, str]:
    """Return the run's status and its explanation."""
    if isinstance(run, Job):
        job = Job.get_by_id(run.id)
        latest = list(jobs.list_statuses(job))[-1]
        explanation = explain_status(job.status, job.exit, latest.message, latest.details or {}, None)
        return _status_sentence(job.status), explanation
    build = Build.get_by_id(run.id)
    return _status_sentence(build.status), ""


def _status_sentence(status: str) -> str:
    return sentence(status_word(status))
