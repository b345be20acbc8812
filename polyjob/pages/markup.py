"""Small conversions for templates: inline code, statuses, times, names, and logs as plain text."""

from __future__ import annotations

import datetime
import re
from functools import cache

from markupsafe import Markup, escape

from polyjob.clock import now
from polyjob.db.models import Build, Job
from polyjob.formatting import format_age, format_duration, status_word
from polyjob.logs import ansi
from polyjob.pages.timeline import elapsed
from polyjob.statuses import Status

TITLE_CHARACTERS = 80
"""Length of the beginning of a command that stands as the title of its job."""
_INLINE_CODE = re.compile(r"`([^`]+)`")


def inline_code(text: str) -> Markup:
    """Escape the text, and mark up the parts between backticks as code."""
    return Markup(_INLINE_CODE.sub(r"<code>\1</code>", str(escape(text))))


def status_icon(status: Status) -> str:
    """Return the name of the icon beside a status."""
    if status is Status.SUCCEEDED:
        return "good"
    if status in (Status.FAILED, Status.UPSTREAM_FAILED):
        return "bad"
    if status.is_done:
        return "stop"
    return "work" if status in (Status.SCHEDULED, Status.BUILDING, Status.RUNNING) else "wait"


@cache
def status_badge(status: Status, text: str | None = None) -> Markup:
    """Return a status with its icon. The text alone states the status; icon and colour only repeat it."""
    icon = f'<svg class="icon" viewBox="0 0 16 16" aria-hidden="true"><use href="#i-{status_icon(status)}"/></svg>'
    return Markup(f'<span class="status {status}">{icon}{escape(text or status_word(status))}</span>')


def when(moment: datetime.datetime) -> Markup:
    """Return the age of a moment, with the exact time as its title. The script converts both to the local time zone."""
    exact = moment.isoformat()
    title = f"{exact[:10]} {exact[11:19]} UTC"
    return Markup(f'<time datetime="{exact}" title="{title}">{format_age(moment, now())}</time>')


def took(run: Job | Build) -> str:
    """Return the duration of a run; empty if it has not started. The script updates it while the run is live."""
    duration = elapsed(run)
    if duration is None:
        return ""
    text = format_duration(duration)
    return text if run.finished_at else Markup(f'<span data-since="{run.started_at.isoformat()}">{text}</span>')


def name_of(job: Job) -> str:
    """Return the name of a job, or else the first line of its command, or else its number."""
    return job.name or _first_line(job) or f"Job {job.id}"


def title_of(job: Job) -> Markup:
    """Return the same as HTML: a command is code."""
    name = escape(name_of(job))
    return Markup(f"<code>{name}</code>") if _first_line(job) and not job.name else name


def _first_line(job: Job) -> str:
    """Return the first line of the job's command, cut to TITLE_CHARACTERS; empty if the job has no command."""
    line = next(iter((job.command or "").strip().splitlines()), "")
    return line if len(line) <= TITLE_CHARACTERS else f"{line[: TITLE_CHARACTERS - 1]}…"


def plain_log(data: bytes) -> str:
    """Decode a log for display as plain text.

    Invalid UTF-8 is replaced and colours are dropped. Of a line that was overwritten, such as a progress bar, only its
    last state stays. Other control characters become their Unicode symbols.
    """
    return "\n".join(map(ansi.plain_text, data.decode(errors="replace").split("\n")))
